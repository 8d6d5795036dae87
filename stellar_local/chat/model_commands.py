"""Commands on the model and how it answers: model, adapters, template, system line, sampling, structure.

Each takes effect on the next turn; what fails leaves all as it was.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import StellarError
from ..files import expanded, is_there, read_text
from ..prompts import template_names
from ..runtime import parse_adapter
from ..spec import Spec
from .reading import split_path
from .state import Chat
from .table import command, files

_RESET = ("default", "reset")  # what takes a setting back
_OFF = ("off", "none")


@command("/system", "[TEXT|default|none]", lambda chat, words: [*_RESET[:1], "none"] if len(words) == 1 else [])
def _system(chat: Chat, rest: str) -> None:
    talk = chat.conversation
    if rest:
        chat.set_system(None if rest in _RESET else "" if rest == "none" else rest)
        chat.save()
    default = getattr(chat.runtime.template, "system_default", "")
    line = talk.system if talk.system is not None else default
    source = "chat.system_own" if talk.system is not None else "chat.system_template"
    chat.terminal.note(chat.texts(source, line=line) if line else chat.texts("chat.system_none"))


def _option_words(chat: Chat, words: list[str]) -> Iterable[str]:
    known = chat.settable()
    if len(words) == 1:
        return sorted(known)
    if len(words) == 2 and words[0] in known:
        spec, _ = known[words[0]]
        return [*spec.choices, *spec.words, "default"]
    return []


@command("/set", "[NAME [VALUE|default]]", _option_words)
def _set(chat: Chat, rest: str) -> None:
    name, _, value = rest.partition(" ")
    name, value = name.replace("-", "_").lower(), value.strip()
    known = chat.settable()
    if not name:
        width = max(map(len, known))
        for one, (spec, current) in known.items():
            mark = "*" if one in chat.settings else " "
            chat.terminal.note(f"{mark} {one:<{width}}  {_shown(current):<8} {_help(chat, one, spec)}")
        chat.terminal.note(chat.texts("chat.set_hint"))
        return
    if name not in known:
        close = [one for one in known if one.startswith(name[:3])]
        raise StellarError(
            chat.texts("chat.no_setting", name=name), chat.texts("chat.similar", names=", ".join(close or ["/set"]))
        )
    if value:
        if value in _RESET:
            chat.unset(name)
        else:
            chat.set(name, _parsed(known[name][0], value))
        chat.save()
    spec, current = chat.settable()[name]
    chat.terminal.note(f"{name} = {_shown(current)}")
    if not value:
        chat.terminal.note(f"  {_help(chat, name, spec)}")


def _parsed(spec: Spec, value: str) -> Any:
    if not spec.many:
        return value
    try:
        return tuple(shlex.split(value))
    except ValueError:
        return (value,)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(repr(one) if isinstance(one, str) else "=".join(map(str, one)) for one in value) or "-"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _help(chat: Chat, name: str, spec: Spec) -> str:
    """What an option does: the command line's own English, or the Chinese beside the other texts."""
    return spec.help if chat.texts.language == "en" else chat.texts(f"option.{name}")


@command("/seed", "[N|random]", lambda chat, words: ["random"] if len(words) == 1 else [])
def _seed(chat: Chat, rest: str) -> None:
    if rest:
        chat.set("seed", "random" if rest in _RESET else rest)
        chat.save()
    chosen = chat.conversation.sampling.seed
    chat.terminal.note(chat.texts("chat.seed_random") if chosen is None else chat.texts("chat.seed", seed=chosen))
    if chat.last is not None:
        chat.terminal.note(chat.texts("chat.seed_last", seed=chat.last.seed))


@command(
    "/template", "[NAME|FILE|default]", lambda chat, words: [*template_names(), "default"] if len(words) == 1 else []
)
def _template(chat: Chat, rest: str) -> None:
    if rest:
        chat.set_template(None if rest in _RESET else str(expanded(rest)))
        chat.save()
    chat.terminal.note(chat.texts("chat.template", name=chat.runtime.template.name))
    if not rest:
        chat.terminal.note(chat.texts("chat.templates", names=", ".join(template_names())))


def _adapter_words(chat: Chat, words: list[str]) -> Iterable[str]:
    if len(words) == 1:
        return [*chat.runtime.adapters, *files(".gguf")(chat, words)]
    return ["off"] if len(words) == 2 else []


@command("/lora", "[FILE|NAME [SCALE|off]]", _adapter_words)
def _lora(chat: Chat, rest: str) -> None:
    if rest:
        head, _, tail = rest.rpartition(" ")
        path, scale = parse_adapter(rest)
        if head and (tail in _OFF or _is_number(tail)) and not is_there(expanded(rest)):
            path, scale = Path(head), 0.0 if tail in _OFF else float(tail)
        named = str(path) in chat.runtime.adapters
        chat.runtime.load_adapter(chat.runtime.adapter_path(str(path)) if named else expanded(str(path)), scale)
        chat.conversation.reconsider()
        chat.save()
    if not chat.runtime.adapters:
        chat.terminal.note(chat.texts("chat.no_lora"))
    for name, used in chat.runtime.adapters.items():
        chat.terminal.note(f"  {name}  {used:g}" if used else f"  {name}  {chat.texts('chat.off')}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@command("/model", "[FILE|FOLDER]", files(".gguf"))
def _model(chat: Chat, rest: str) -> None:
    if rest:
        path, _ = split_path(rest)
        adapters = [name for name, scale in chat.runtime.adapters.items() if scale]
        template = chat.template
        chat.terminal.progress(chat.texts("chat.loading", path=path))
        try:
            chat.change_model(path)
        finally:
            chat.terminal.progress("")
        chat.save()
        if adapters:
            chat.terminal.note(chat.texts("chat.adapters_left", names=", ".join(adapters)))
        if template and template != chat.template:
            chat.terminal.note(chat.texts("chat.template_left", name=template))
        for note in chat.runtime.notes:
            chat.terminal.note(note)
    chat.terminal.note(chat.described())


@command("/schema", "[FILE|JSON|off]", files(".json"))
def _schema(chat: Chat, rest: str) -> None:
    _structured(chat, "schema", rest, r"\{|(true|false)$")


@command("/grammar", "[FILE|GBNF|off]", files(".gbnf"))
def _grammar(chat: Chat, rest: str) -> None:
    _structured(chat, "grammar", rest, "root")


def _structured(chat: Chat, kind: str, rest: str, begins: str) -> None:
    """Take a schema or a grammar from the line, where it begins as this pattern says, or from a file."""
    if rest in _OFF:
        chat.set_structure(kind, None)
        chat.save()
    elif rest:
        text = rest if re.match(begins, rest) and not is_there(Path(rest)) else ""
        chat.set_structure(kind, text or read_text(split_path(rest)[0], chat.texts("chat.the_file")))
        chat.save()
    if chat.structure is None:
        chat.terminal.note(chat.texts("chat.structure_off"))
    else:
        used, text = chat.structure
        chat.terminal.note(chat.texts("chat.structure", kind=used, text=" ".join(text.split())[:200]))
