"""The words after `stellar train` as python-fire understands them, since alpaca-lora is run with it.

`--name value`, `--name=value`, `-name value`, `_` or `-` between the parts of a name; `--switch`, `--noswitch` and
`--switch False`; a list in brackets, in one word or in several. Unlike fire it refuses what it does not know, and
`false` means false. Knows names and words; what a value means is the option's own.
"""

from __future__ import annotations

from collections.abc import Iterable

from stellar_local.console import fitted, one_line
from stellar_local.errors import UsageError

from .config import field_of, nearest, options

CONFIG, OVERWRITE, HELP = "config", "overwrite", "help"
_OWN = (CONFIG, OVERWRITE, HELP)
_SWITCHES = frozenset({OVERWRITE, HELP} | {item.name for item in options() if item.kind is bool})
_LISTS = frozenset(item.name for item in options() if item.kind is tuple)


def pairs(words: Iterable[str]) -> list[tuple[str, str]]:
    """Field names and texts of values, in order, with CONFIG, OVERWRITE and HELP among them. Raises UsageError."""
    rest, found = list(words), []
    while rest:
        word = rest.pop(0)
        if word == "-h":
            word = f"--{HELP}"
        if not _is_option(word):
            raise _unexpected(word)
        spelling, equals, text = word.lstrip("-").partition("=")
        name, negated = _named(spelling), _negated(spelling)
        if not name and not negated:
            raise _unknown(spelling)
        if negated:
            if equals:
                raise UsageError(f"--{_short(spelling)} takes no value", f"write {_flag(negated)} {_short(text)}")
            found.append((negated, "False"))
        elif equals:
            found.append((name, _whole(name, text, rest)))
        elif name == HELP or (name in _SWITCHES and (not rest or _is_option(rest[0]))):
            found.append((name, "True"))
        elif not rest or _is_option(rest[0]):
            raise UsageError(f"{_flag(name)} needs a value")
        else:
            found.append((name, _whole(name, rest.pop(0), rest)))
    return found


def _is_option(word: str) -> bool:
    """Whether a word is an option and no value. With one dash only what is known is: -1 and -x may be values."""
    if word == "-h" or (word.startswith("--") and word != "--"):
        return True
    spelling = word[1:].partition("=")[0]
    return word.startswith("-") and bool(_named(spelling) or _negated(spelling))


def _named(spelling: str) -> str:
    own = spelling.replace("-", "_")
    return own if own in _OWN else field_of(spelling)


def _negated(spelling: str) -> str:
    """`notrain_on_inputs`, `no-train-on-inputs` → train_on_inputs."""
    plain = spelling.replace("-", "_")
    name = _named(plain[2:].removeprefix("_")) if plain.startswith("no") else ""
    return name if name in _SWITCHES - {HELP} else ""


def _whole(name: str, text: str, rest: list[str]) -> str:
    """The value that begins with `text`: of a list that a shell has cut at its blanks, with the words that follow.

    alpaca-lora under fire would put such a word into the next parameter, train_on_inputs, where it counts as a yes.
    """
    if name not in _LISTS:
        return text
    while rest and not _is_option(rest[0]) and (_is_open(text) or text.rstrip().endswith(",") or rest[0][:1] == ","):
        text += " " + rest.pop(0)
    if _is_open(text):
        raise UsageError(f"the list of {_flag(name)} has no end: {_short(text)}", "close it with ]")
    return text


def _is_open(text: str) -> bool:
    begin = text.lstrip("'\" ")[:1]
    return begin in ("[", "(") and not any(end in text for end in "])")


def _unknown(spelling: str) -> UsageError:
    near = nearest(spelling, _OWN)
    hint = f"did you mean {_flag(near)}?" if near else "stellar train --help lists all options"
    return UsageError(f"unknown option: --{_short(spelling)}", hint)


def _unexpected(word: str) -> UsageError:
    hint = "each value follows its option: --name value"
    if "_proj" in word or word.endswith("]"):
        hint = "write a list with commas: --lora-target-modules q_proj,v_proj"
    return UsageError(f"unexpected word: {_short(word)}", hint)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _short(text: str) -> str:
    return fitted(one_line(text), 60)
