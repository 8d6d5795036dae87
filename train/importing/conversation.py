"""JSON rows → triples: Alpaca's, ShareGPT's and OpenAI's, and what becomes of conversations of several turns.

A triple has no history. So a conversation gives its first exchange, and on request each later one whose question can
be understood without what came before: a learner that is shown only "and the other one?" learns to make things up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stellar_local.errors import UsageError
from stellar_local.tables.unusable import Unusable

from ..corpus import Triple
from . import json_rows
from .choices import Choices, Names
from .columns import absent, find, lacking
from .outcome import Outcome, checked

_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
_LATER = "later exchange left out"
_DEPENDENT = "later exchange left out: its question does not stand alone"
_SYSTEM = "system message left out"

# Words that point back. Too many questions count as dependent by them, few dependent ones pass.
_POINTING = re.compile(
    r"\b(?:it|its|they|them|their|this|these|those|he|she|him|his|her|hers|above|previous|previously|earlier|former|"
    r"latter|again|continue|more|else|instead|you (?:said|mentioned|just|wrote|gave))\b"
    r"|^\W*(?:and|but|so|then|also|or|ok|okay|yes|no|thanks|thank you|what about|how about|why|how so|go on|sure)\b"
    r"|[它他她这那该此其]|上述|上面|以上|刚才|前面|之前|前者|后者|继续|再|还有|还能|另外|呢[？?]?$|[你您](?:刚|说|提到)",
    re.IGNORECASE,
)
_HAN = re.compile("[\u3400-\u9fff]")
_FEWEST_WORDS, _FEWEST_HAN = 4, 5


@dataclass(frozen=True)
class _Conversation:
    kind: str
    exchanges: Sequence[tuple[object, object, object]]  # instruction, input, output
    system: str = ""
    begins_later: bool = False  # the first exchange here was none in the conversation that it was cut out of


def stands_alone(question: str) -> bool:
    """Whether a question seems to need nothing of what was said before it."""
    long_enough = len(question.split()) >= _FEWEST_WORDS or len(_HAN.findall(question)) >= _FEWEST_HAN
    return long_enough and not _POINTING.search(question)


def outcomes(path: Path, choices: Choices, advance: Callable[[float], None]) -> Iterator[Outcome]:
    """What became of each row of a JSON file; `advance` is told the bytes read.

    Raises StellarError for a bad file, UsageError where no row has a key that `choices` names.
    """
    nowhere: dict[str, tuple[str, ...]] | None = None  # named keys that no row had so far, and the last row's keys
    for value in json_rows.read(path, advance):
        try:
            if value.problem:
                raise Unusable(value.problem)
            if isinstance(value.value, dict) and not _turns(value.value, choices):
                keys = tuple(value.value)
                missing = lacking(keys, choices.names)
                nowhere = {role: keys for role in missing if nowhere is None or role in nowhere}
            yield _outcome(value.line, _conversation(value.value, choices), choices)
        except Unusable as reason:
            yield Outcome(value.line, reason=str(reason))
    for role, keys in (nowhere or {}).items():
        error = absent(role, keys, choices.names)
        raise UsageError(f"{path}: {error.message}", error.hint)


def _outcome(line: int, conversation: _Conversation, choices: Choices) -> Outcome:
    triples: list[Triple] = []
    notes: list[str] = []
    for number, (instruction, given, output) in enumerate(conversation.exchanges):
        later = number > 0 or conversation.begins_later
        if later and not choices.all_turns:
            notes.append(_LATER)
            continue
        triple = checked(instruction, given, output)
        if later and not stands_alone(triple.instruction):
            notes.append(_DEPENDENT)
            continue
        if conversation.system and choices.keep_system:
            triple = Triple(f"{conversation.system}\n\n{triple.instruction}", triple.input, triple.output)
        triples.append(triple)
    if conversation.system and not choices.keep_system:
        notes.append(_SYSTEM)
    if not triples:
        raise Unusable("no exchange stands alone" if conversation.exchanges else "no question with an answer")
    return Outcome(line, tuple(triples), kind=conversation.kind, notes=tuple(notes))


def _conversation(row: object, choices: Choices) -> _Conversation:
    if not isinstance(row, dict):
        raise Unusable("no JSON object")
    if turns := _turns(row, choices):
        name, who, what = turns
        return _of_turns(row, row[name], who, what, "ShareGPT" if name == "conversations" else "messages")
    if choices.format == "sharegpt":
        raise Unusable('neither "conversations" nor "messages"')
    return _of_triple(row, choices.names)


def _turns(row: Mapping[str, object], choices: Choices) -> tuple[str, str, str] | None:
    """The key that holds a row's turns, and theirs for who says what; None for a row that is no conversation."""
    if choices.format == "alpaca":
        return None
    forms = (("conversations", "from", "value"), ("messages", "role", "content"))
    return next((form for form in forms if form[0] in row), None)


def _of_triple(row: Mapping[str, object], names: Names) -> _Conversation:
    keys = tuple(row)
    for role in lacking(keys, names):
        if role != "input":  # which may be empty, and is often left out then
            raise Unusable(f"no {role}: no key {getattr(names, role)}")
        names = replace(names, input="")
    try:
        columns = find(keys, names)
    except UsageError as error:
        raise Unusable(error.message) from error
    given = None if columns.input is None else row[keys[columns.input]]
    exchange = (row[keys[columns.instruction]], given, row[keys[columns.output]])
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise Unusable('"history" is no list of questions and answers')
    system = row.get("system")
    exchanges = [*((question, "", answer) for question, answer in history), exchange]
    return _Conversation("Alpaca", exchanges, system.strip() if isinstance(system, str) else "")


def _of_turns(row: Mapping[str, object], turns: object, who: str, what: str, kind: str) -> _Conversation:
    if not isinstance(turns, list):
        raise Unusable("the conversation is no list")
    said: list[tuple[str, object]] = []
    system = row.get("system")
    systems = [system] if isinstance(system, str) else []
    for turn in turns:
        if not isinstance(turn, dict):
            raise Unusable("a turn is no JSON object")
        name = turn.get(who, turn.get("role" if who == "from" else "from"))
        text = _plain(turn.get(what, turn.get("content" if what == "value" else "value")))
        role = _ROLES.get(name.lower()) if isinstance(name, str) else None
        if role is None:
            raise Unusable("a turn of neither a person nor an assistant, such as a tool")
        if role == "system":
            systems.append(text if isinstance(text, str) else "")
        else:
            said.append((role, text))
    begins_later = bool(said) and said[0][0] == "assistant"
    if begins_later:
        del said[0]
    if any(first[0] == second[0] for first, second in zip(said, said[1:], strict=False)):
        raise Unusable("the turns do not alternate")
    exchanges = [(said[at][1], "", said[at + 1][1]) for at in range(0, len(said) - 1, 2)]
    return _Conversation(kind, exchanges, "\n".join(filter(None, map(str.strip, systems))), begins_later)


def _plain(content: object) -> object:
    """OpenAI's list of parts as one text where all are texts."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise Unusable("a turn holds something other than text")
    return "".join(str(text) for text in texts)
