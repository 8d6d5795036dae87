"""Which tokens begin, end and pad a text, whether they are put around it, and the model's own chat template.

Follows gguf-py's SpecialVocab, down to its guesses from a tokenizer.json's post-processor, except that a chat template
beside tokenizer_config.json is found without that file, that an id which no token has is left out, and that of several
named templates only the default is kept. Knows tokenizer files; knows no vocabulary but its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stellar_local.files import read_text

from .checkpoint import read_json

KEYS = {  # name in Hugging Face's files → in a GGUF
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",  # sic, in the GGUF specification
    "pad": "padding",
    "mask": "mask",
    "eot": "eot",
    "eom": "eom",
}
SPM_DEFAULT = {"unk": 0, "bos": 1, "eos": 2}  # what llama.cpp assumes of a SentencePiece vocabulary
_NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # cls has no place in a GGUF, but may stand for bos
_FLAGS = ("bos", "eos", "sep")  # what a GGUF can say is put around a text


@dataclass
class Special:
    """`ids` maps "bos", "eos", "unk" … to ids, `add` "bos", "eos" and "sep" to whether they are put around a text."""

    ids: dict[str, int] = field(default_factory=dict)
    add: dict[str, bool] = field(default_factory=dict)
    chat_template: str | None = None


def optional_json(path: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no such file. Raises StellarError."""
    return read_json(path, path.name) if path.is_file() else {}


def token_text(token: object) -> str | None:
    """A token's text where tokenizer_config.json gives it plainly or as an object; None where it gives none."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def named_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """The texts that tokenizer_config.json gives for "bos", "eos" …; empty ones, as first exports have, are none."""
    return {name: text for name in _NAMED if (text := token_text(settings.get(f"{name}_token")))}


def read_special(folder: Path, settings: Mapping[str, Any], config: Mapping[str, Any], rows: int) -> Special:
    """Ids and flags from tokenizer.json, tokenizer_config.json (`settings`) and config.json, the first that knows one.

    Ids of `rows` or more are left out. Raises StellarError for a file that is no JSON; KeyError, TypeError,
    AttributeError or ValueError for JSON of another form.
    """
    found = Special(chat_template=_chat_template(folder, settings))
    data = optional_json(folder / "tokenizer.json")
    named = named_tokens(settings)
    if data and settings:
        for name, other in (("bos", "cls"), ("eos", "sep")):
            if name not in named and other in named:
                named[name] = named[other]
    if isinstance(processor := data.get("post_processor"), Mapping):
        for step in processor.get("processors") or [processor]:
            _read_step(step, named, found.add, bool(settings))
    for name in _FLAGS:
        if isinstance(flag := settings.get(f"add_{name}_token"), bool):
            found.add.setdefault(name, flag)
    by_text: dict[str, object] = {}
    for entry in data.get("added_tokens") or []:
        by_text.setdefault(entry.get("content"), entry.get("id"))
    names = [*_NAMED, *(name for name in ("eot", "eom") if name in named)]
    from_tokenizer = {name: by_text.get(text) for name, text in named.items()} if settings else {}
    from_config = {name: config.get(f"{name}_token_id") for name in names}
    for source in (from_tokenizer, from_config):
        for name in names:
            index = source.get(name)
            if name in KEYS and isinstance(index, int) and not isinstance(index, bool) and 0 <= index < rows:
                found.ids.setdefault(name, index)
    return found


def _read_step(step: Mapping[str, Any], named: dict[str, str], add: dict[str, bool], settled: bool) -> None:
    """What one post-processor puts around a text. `settled`: tokenizer_config.json has named the tokens."""
    kind = step.get("type")
    if kind == "ByteLevel":
        add.setdefault("bos", False)
        add.setdefault("eos", False)
    elif kind == "RobertaProcessing":
        add |= dict.fromkeys(_FLAGS, True)
    elif kind == "TemplateProcessing":
        single, pair = step.get("single") or [], step.get("pair") or []
        first = _token(single[0]) if len(single) > 1 else None
        last = _token(single[-1]) if len(single) > 1 else None
        if first:
            if not settled:
                named["bos"] = first
            elif first not in (named.get("bos"), named.get("cls")):
                named.setdefault("bos", first)
                named.setdefault("cls", first)
            add["bos"] = first in (named.get("bos"), named.get("cls"))
        if last:
            if settled and last != named.get("eos"):  # the named one ends turns, this one texts
                previous = "eot" if "eot" not in named else "eom"
                if "eos" in named:
                    named[previous] = named["eos"]
            named["eos"] = last
            add["eos"] = True
        _read_pair(pair, first, last, named, add)


def _read_pair(
    pair: list[Mapping[str, Any]], first: str | None, last: str | None, named: dict[str, str], add: dict[str, bool]
) -> None:
    """Whether a separator is put between two texts, from what lies between their places."""
    if not pair:
        return
    begin = 1 if first and _token(pair[0]) == first else 0
    end = -1 if last and _token(pair[-1]) == last else None
    inner = pair[begin:end]
    if not inner or [_place(inner[0]), _place(inner[-1])] != ["A", "B"] or len(inner) < 3:
        return
    marks = [token for token in (named.get("sep"), named.get("eos")) if token]
    between = [_token(entry) for entry in inner[1:-1]]
    add["sep"] = (between[0] in marks and not last) or (len(between) == 2 and between[1] in marks)
    if add["sep"] and "sep" not in named:
        named["sep"] = named["eos"]


def _token(entry: Mapping[str, Any]) -> str | None:
    token = entry.get("SpecialToken", {}).get("id")
    return token if isinstance(token, str) else None


def _place(entry: Mapping[str, Any]) -> object:
    return entry.get("Sequence", {}).get("id")


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The model's own chat template: tokenizer_config.json's, else chat_template.jinja, else chat_template.json's."""
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name, of which "default" is the one for chatting
        by_name = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, Mapping)}
        template = by_name.get("default")
    if isinstance(template, str):
        return template
    path = folder / "chat_template.jinja"
    if path.is_file():
        return read_text(path, "chat template")
    stated = optional_json(folder / "chat_template.json").get("chat_template")
    return stated if isinstance(stated, str) else None
