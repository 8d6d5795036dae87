"""A checkpoint's tokenizer as the vocabulary that a GGUF carries, as llama.cpp's converter writes it.

SentencePiece from tokenizer.model (a tokenizer.json holds no scores, and without them the tokens would be wrong),
byte-level BPE from tokenizer.json. Source: llama.cpp's conversion/base.py and gguf-py's SpecialVocab.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stellar_local.console import warn
from stellar_local.errors import ModelError
from stellar_local.files import read_text

from . import pretokenizers, spm
from .checkpoint import read_json

_SPECIAL = {  # name in Hugging Face's files → in a GGUF
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",  # sic, in the GGUF specification
    "pad": "padding",
    "cls": "cls",
    "mask": "mask",
}
_SPM_DEFAULT = {"unk": 0, "bos": 1, "eos": 2}  # what llama.cpp assumes of a SentencePiece vocabulary
_CONTROL_LOOK = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


@dataclass
class Vocabulary:
    """Everything under `tokenizer.` in a GGUF. `model` is "llama" (SentencePiece) or "gpt2" (byte-level BPE)."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    merges: list[str] | None = None
    special: dict[str, int] = field(default_factory=dict)  # "bos", "eos", "unk" … → id
    add: dict[str, bool] = field(default_factory=dict)  # "bos", "eos" → whether it is put around a text
    add_space_prefix: bool | None = None
    chat_template: str | None = None

    @property
    def adds_bos(self) -> bool:
        """Whether llama.cpp will put the begin token before a text."""
        default = self.model == "llama" or pretokenizers.adds_bos(self.pre)
        return self.add.get("bos", default)

    def id_of(self, token: str) -> int | None:
        """The id of a control or user-defined token by its text, or of a name such as "eos_token"; None if absent."""
        if token.endswith("_token"):
            name = token.removesuffix("_token")
            return self.special.get(name, _SPM_DEFAULT.get(name) if self.model == "llama" else None)
        try:
            found = self.tokens.index(token)
        except ValueError:
            return None
        return found if self.types[found] in (spm.CONTROL, spm.USER_DEFINED) else None

    def metadata(self) -> dict[str, Any]:
        """The GGUF keys and values, in the order in which llama.cpp's converter writes them."""
        out: dict[str, Any] = {"tokenizer.ggml.model": self.model, "tokenizer.ggml.pre": self.pre}
        if self.add_space_prefix is not None:
            out = {"tokenizer.ggml.add_space_prefix": self.add_space_prefix, **out}
        out["tokenizer.ggml.tokens"] = self.tokens
        if self.scores is not None:
            out["tokenizer.ggml.scores"] = self.scores
        out["tokenizer.ggml.token_type"] = self.types
        if self.merges is not None:
            out["tokenizer.ggml.merges"] = self.merges
        for name, token in self.special.items():
            out[f"tokenizer.ggml.{_SPECIAL[name]}_token_id"] = token
        for name, value in self.add.items():
            out[f"tokenizer.ggml.add_{name}_token"] = value
        if self.chat_template:
            out["tokenizer.chat_template"] = self.chat_template
        return out


def read_vocabulary(folder: Path, config: Mapping[str, Any], rows: int) -> Vocabulary:
    """Read the tokenizer of a checkpoint whose embedding has `rows` rows; the list is padded to exactly that many.

    Raises ModelError: no tokenizer, one that llama.cpp would read wrongly, or one made for another model.
    """
    try:
        return _read(folder, config, rows)
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # JSON of another form than a tokenizer's
        raise ModelError(
            f"the tokenizer files of {folder} are damaged ({error!r})", "copy them from the original base"
        ) from error


def _read(folder: Path, config: Mapping[str, Any], rows: int) -> Vocabulary:
    settings = _optional(folder / "tokenizer_config.json")
    if (folder / "tokenizer.model").is_file():
        vocabulary = _sentencepiece(folder, settings, rows)
    elif (folder / "tokenizer.json").is_file():
        vocabulary = _byte_level(folder, rows)
    else:
        raise ModelError(
            f"{folder} holds no tokenizer", "copy tokenizer.model or tokenizer.json from the original base"
        )
    duplicates = [token for token, count in Counter(vocabulary.tokens).items() if count > 1]
    if duplicates:  # llama.cpp aborts on them
        raise ModelError(
            f"the tokenizer of {folder} has the token {duplicates[0]!r} twice",
            "copy the tokenizer from the original base",
        )
    if isinstance(prefix := settings.get("add_prefix_space"), bool):
        vocabulary.add_space_prefix = prefix
    _read_special(vocabulary, folder, settings, config)
    vocabulary.chat_template = _chat_template(folder, settings)
    # llama.cpp aborts on this too.
    if vocabulary.adds_bos and "bos" not in vocabulary.special and vocabulary.model == "gpt2":
        raise ModelError(
            f"the tokenizer of {folder} begins texts with a token that it does not name",
            "set bos_token in tokenizer_config.json, or add_bos_token to false",
        )
    return vocabulary


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path, path.name) if path.is_file() else {}


def _looks_special(token: str) -> bool:
    """Whether a token is a control token although its file does not mark it, by llama.cpp's own list."""
    return token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        token.startswith(start) and token.endswith(end) for start, end in _CONTROL_LOOK
    )


def _too_many(folder: Path, count: int, rows: int) -> ModelError:
    return ModelError(
        f"the tokenizer of {folder} has {count:,} tokens, but the model only {rows:,}",
        "it belongs to another model: copy the tokenizer from the original base",
    )


def _sentencepiece(folder: Path, settings: Mapping[str, Any], rows: int) -> Vocabulary:
    """tokenizer.model, then added_tokens.json, then tokenizer_config's added_tokens_decoder, each over the last."""
    path = folder / "tokenizer.model"
    model = spm.parse(path.read_bytes(), str(path))
    if model.algorithm != spm.BPE:
        raise ModelError(f"{path} is not of SentencePiece's BPE kind", "only LLaMA's kind of tokenizer is supported")
    if len(model.pieces) > rows:
        raise _too_many(folder, len(model.pieces), rows)
    tokens = [f"[PAD{index}]" for index in range(rows)]
    scores, types = [-10000.0] * rows, [spm.UNUSED] * rows
    for index, piece in enumerate(model.pieces):
        tokens[index], scores[index] = piece.text, piece.score
        # The converter sees user-defined pieces as normal ones.
        types[index] = spm.NORMAL if piece.type == spm.USER_DEFINED else piece.type
    decoder = settings.get("added_tokens_decoder") or {}
    added: list[tuple[str, int, Mapping[str, Any] | None]]
    added = [(text, int(index), None) for text, index in _optional(folder / "added_tokens.json").items()]
    added += [(str(entry["content"]), int(index), entry) for index, entry in decoder.items()]
    for text, index, entry in added:
        if index >= rows:
            warn(f"the added token {text!r} ({index}) is left out: the model has {rows:,} rows")
            continue
        control = entry is not None and (entry.get("special") is True or _looks_special(text))
        tokens[index] = text if control or entry is None else text.replace("▁", " ")
        types[index], scores[index] = spm.CONTROL if control else spm.USER_DEFINED, -1000.0
    # llama.cpp takes the prefix for granted; a model without one must say so.
    return Vocabulary("llama", "default", tokens, types, scores, add_space_prefix=None if model.space_prefix else False)


def _byte_level(folder: Path, rows: int) -> Vocabulary:
    """tokenizer.json of the byte-level BPE kind."""
    path = folder / "tokenizer.json"
    data = read_json(path, "tokenizer.json")
    model = data.get("model")
    decoder = data.get("decoder") or {}
    if not isinstance(model, Mapping) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), Mapping):
        raise ModelError(f"{path} is not a BPE tokenizer", "only LLaMA's kinds of tokenizer are supported")
    if model.get("byte_fallback") or decoder.get("type") != "ByteLevel":
        raise ModelError(
            f"{folder} lacks tokenizer.model: tokenizer.json does not hold the scores that llama.cpp needs",
            "copy tokenizer.model from the original base into this folder",
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("dropout"):
        raise ModelError(f"{path} uses subword marks or dropout, which llama.cpp does not have", "")
    normalizer = data.get("normalizer")
    if normalizer and normalizer != {"type": "NFC"}:
        raise ModelError(f"{path} rewrites text before tokenizing, which llama.cpp does not do", "")
    if normalizer:
        warn("this tokenizer composes accents (NFC) and llama.cpp does not: decomposed text gives other tokens")
    pre = pretokenizers.recognise(data.get("pre_tokenizer"), bool(model.get("ignore_merges")), str(path))
    by_id: dict[int, tuple[str, int]] = {index: (text, spm.NORMAL) for text, index in model["vocab"].items()}
    if by_id and max(by_id) >= rows:
        raise _too_many(folder, max(by_id) + 1, rows)
    for entry in data.get("added_tokens") or []:
        text, index = entry["content"], entry["id"]
        if index >= rows:
            warn(f"the added token {text!r} ({index}) is left out: the model has {rows:,} rows")
        elif entry.get("special") or _looks_special(text):
            by_id[index] = (text, spm.CONTROL)
        else:
            by_id[index] = (text.replace("▁", " "), spm.USER_DEFINED)
    listed = [by_id.get(index, (f"[PAD{index}]", spm.UNUSED)) for index in range(rows)]
    merges = [merge if isinstance(merge, str) else _joined(merge) for merge in model.get("merges") or []]
    if not merges:
        raise ModelError(f"{path} has no merges", "copy tokenizer.json from the original base")
    return Vocabulary("gpt2", pre, [text for text, _ in listed], [kind for _, kind in listed], merges=merges)


def _joined(merge: Sequence[str]) -> str:
    """A merge of tokenizer.json's newer form, a pair; a space inside a part is written as Ġ, as bytes are."""
    return " ".join(part.replace(" ", "Ġ") for part in merge)


def _read_special(vocabulary: Vocabulary, folder: Path, settings: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Ids and flags of the special tokens: tokenizer.json and tokenizer_config.json first, then config.json."""
    data = _optional(folder / "tokenizer.json")
    added = {entry.get("content"): entry.get("id") for entry in data.get("added_tokens") or []}
    named = {name: _content(settings.get(f"{name}_token")) for name in _SPECIAL}
    _read_post_processor(vocabulary, data.get("post_processor"), named)
    for name in _SPECIAL:
        flag = settings.get(f"add_{name}_token")
        if isinstance(flag, bool):
            vocabulary.add.setdefault(name, flag)
        for index in (added.get(named[name]) if named[name] else None, config.get(f"{name}_token_id")):
            if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(vocabulary.tokens):
                vocabulary.special.setdefault(name, index)


def _content(token: object) -> str | None:
    """A token's text where tokenizer_config gives it plainly or as an object."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _read_post_processor(vocabulary: Vocabulary, processor: object, named: dict[str, str | None]) -> None:
    """What tokenizer.json itself puts before and after a text; it has the last word over tokenizer_config."""
    if not isinstance(processor, Mapping):
        return
    for step in processor.get("processors") or [processor]:
        single = step.get("single") or []
        if step.get("type") == "ByteLevel":
            vocabulary.add.setdefault("bos", False)
            vocabulary.add.setdefault("eos", False)
        elif step.get("type") == "TemplateProcessing" and len(single) > 1:
            for name, place in (("bos", single[0]), ("eos", single[-1])):
                token = place.get("SpecialToken", {}).get("id")
                if token:
                    named[name] = named[name] or token
                    vocabulary.add[name] = token == named[name]


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The model's own chat template: tokenizer_config.json's, else chat_template.jinja."""
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name, of which "default" is the one for chatting
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, Mapping)}
        template = named.get("default")
    if isinstance(template, str):
        return template
    path = folder / "chat_template.jinja"
    return read_text(path, "chat template") if path.is_file() else None
