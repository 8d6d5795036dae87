"""Conversations as files for people and for other programs, and read back: Markdown, JSON and ShareGPT.

JSON is {"messages": […]} as OpenAI's clients and datasets have it, with the rest of the session under "stellar".
ShareGPT is what LLaMA-Factory and FastChat train on: a list of {"id", "system", "conversations": [{"from", "value"}]}.
Its system line has a key of its own, as both document it: FastChat's trainers know no other senders than human and gpt.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ..console import printable
from ..errors import StellarError, UsageError
from ..files import atomic_text, read_text, regular_target
from ..records import escaped
from ..texts import Texts
from .saved import InvalidSession, NewerSession, Session, local_time, name_fault, normal_name, now, whole

KINDS = ("md", "json", "sharegpt")
_ENDINGS = {".sharegpt.json": "sharegpt", ".json": "json", ".md": "md", ".markdown": "md"}  # the longest first
_OURS = "stellar"  # the key of what OpenAI's format has no place for
_USER, _ASSISTANT = ("user", "human"), ("assistant", "gpt")
_HTML_ENDS = ("-->", "</pre>", "?>", "]]>", ">")  # of the HTML blocks that go on over blank lines (CommonMark, 4.6)


def kind_of(path: Path) -> str | None:
    """The kind of export that a file name asks for; None where its ending is none of ours."""
    return next((kind for ending, kind in _ENDINGS.items() if path.name.lower().endswith(ending)), None)


def export(session: Session, path: Path, texts: Texts, kind: str | None = None, force: bool = False) -> None:
    """Write a session to `path`, whole or not at all, as `kind` or what the name's ending asks for.

    Raises UsageError for an unknown kind and for a file that exists, unless `force`; StellarError where the file system
    fails.
    """
    kind = kind or kind_of(path)
    if kind not in KINDS:
        raise UsageError(texts("export.unknown_kind", path=path), texts("export.unknown_kind_hint"))
    if os.path.lexists(regular_target(path)) and not force:
        raise UsageError(texts("export.exists", path=path), texts("export.exists_hint"))
    if kind == "md":
        text = _markdown(session, texts)
    else:
        value = _openai(session) if kind == "json" else _sharegpt(session)
        text = escaped(whole(json.dumps(value, ensure_ascii=False, indent=2))) + "\n"
    atomic_text(path, text)


def read_export(path: Path, texts: Texts) -> Session:
    """A session of what a JSON or ShareGPT file holds; the answers' tokens are not known.

    Its name is the one it had, else the file's, or "" where no session may be named so. Raises UsageError for a file
    that is something else, StellarError for one that cannot be read.
    """
    try:
        data = json.loads(read_text(path, "conversation"))
    except (ValueError, RecursionError) as error:
        raise UsageError(texts("export.not_json", path=path), texts("export.readable")) from error
    found = data if isinstance(data, list) else [data]
    if not found or not all(isinstance(one, dict) and ("messages" in one or "conversations" in one) for one in found):
        raise UsageError(texts("export.not_conversation", path=path), texts("export.readable"))
    if len(found) > 1:
        raise UsageError(texts("export.many", path=path, count=len(found)), texts("export.many_hint"))
    try:
        return _session(found[0], path)
    except NewerSession as error:
        raise StellarError(texts("export.newer", path=path), texts("export.newer_hint")) from error
    except InvalidSession as error:
        reason = texts(error.key, **error.values)
        raise UsageError(texts("export.wrong", path=path, reason=reason), texts("export.wrong_hint")) from error


def _messages(session: Session) -> list[tuple[str, str]]:
    """Who says what, by OpenAI's names of roles; a system line that the template brings is not the session's."""
    found = [] if session.system is None else [("system", session.system)]
    for turn in session.turns:
        found += [("user", turn.question), ("assistant", turn.answer)]
    return found


def _openai(session: Session) -> dict[str, Any]:
    ours = {key: value for key, value in session.record().items() if key not in ("vocabulary", "system")}
    ours["turns"] = [{"finish": turn.finish, "time": turn.time} for turn in session.turns]
    return {"messages": [{"role": role, "content": text} for role, text in _messages(session)], _OURS: ours}


def _sharegpt(session: Session) -> list[dict[str, Any]]:
    names = {"user": "human", "assistant": "gpt"}
    said = [{"from": names[role], "value": text} for role, text in _messages(session) if role in names]
    system = {} if session.system is None else {"system": session.system}
    return [{"id": session.name, **system, "conversations": said}]


def _session(value: dict[str, Any], path: Path) -> Session:
    """The session of one object. Raises InvalidSession and NewerSession."""
    system, turns = _turns(value)
    ours = value.get(_OURS, {})
    if not isinstance(ours, dict):
        raise InvalidSession("sessions.wrong_field", field=_OURS)
    facts = ours.get("turns")
    if isinstance(facts, list) and len(facts) == len(turns) and all(isinstance(fact, dict) for fact in facts):
        turns = [
            {**turn, **{key: fact[key] for key in ("finish", "time") if key in fact}}
            for turn, fact in zip(turns, facts, strict=True)
        ]
    stored = {"version": 1, "created": now(), "updated": now(), **ours, "vocabulary": "", "system": system}
    names = (ours.get("name", value.get("id")), path.name.partition(".")[0])
    name = next(
        (normal_name(name) for name in names if isinstance(name, str) and not name_fault(normal_name(name))), ""
    )
    return Session.of({**stored, "turns": turns}, name)


def _turns(value: dict[str, Any]) -> tuple[str | None, list[dict[str, Any]]]:
    """The system line and the turns of an object's messages, which must be pairs of a question and its answer."""
    key, role_key, text_key = (
        ("messages", "role", "content") if "messages" in value else ("conversations", "from", "value")
    )
    system, turns, question = value.get("system"), [], None
    for number, message in enumerate(value[key] if isinstance(value[key], list) else [None], 1):
        role = message.get(role_key) if isinstance(message, dict) else None
        text = message.get(text_key) if isinstance(message, dict) else None
        allowed = _USER if question is None else _ASSISTANT
        if number == 1 and role == "system" and isinstance(text, str):
            system = text
        elif role not in allowed or not isinstance(text, str):
            raise InvalidSession("export.wrong_message", number=number, role=allowed[0], field=text_key)
        elif question is None:
            question = whole(text)
        else:
            turns.append({"question": question, "answer": whole(text)})
            question = None
    if question is not None:
        raise InvalidSession("export.unanswered")
    return whole(system) if isinstance(system, str) else system, turns


def _markdown(session: Session, texts: Texts) -> str:
    """A page that reads well as it is and rendered; what drives terminals is taken out."""
    model, adapters = Path(session.model).name, [Path(adapter).name for adapter in session.lora]
    settings = [f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in session.settings.items()]
    facts = [
        texts("export.begun", time=local_time(session.created)),
        texts("export.updated", time=local_time(session.updated)),
        *([texts("export.model", name=_code(model))] if model else []),
        *([texts("export.adapters", names=_code(", ".join(adapters)))] if adapters else []),
        *([texts("export.settings", values=_code(", ".join(settings)))] if settings else []),
    ]
    lines = [f"# {session.name}", "", *(f"- {fact}" for fact in facts), ""]
    said = [(texts("export.system"), session.system)] if session.system else []
    ends = {"stop": "", "cancelled": texts("export.interrupted"), "length": texts("export.cut")}
    for turn in session.turns:
        end = f"\n\n*{ends[turn.finish]}*" if ends[turn.finish] else ""
        said += [(texts("export.user"), turn.question), (texts("export.assistant"), _closed(turn.answer) + end)]
    for heading, text in said:
        lines += [f"## {heading}", "", _closed(text), ""]
    return whole(printable("\n".join(lines)))


def _code(text: str) -> str:
    """A code span that holds any text (CommonMark, 6.1)."""
    text = " ".join(text.split())
    marks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks} {text} {marks}" if "`" in text else f"`{text}`"


def _closed(text: str) -> str:
    """Markdown that ends where it ends: an answer cut in a block of code would take in all that follows it."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark")
    text = printable(text).strip("\n")  # as it will be read

    def open_block(text: str) -> str | None:
        """The mark of the fence, or "" of the HTML block, in which a heading after the text would end up."""
        last = parser.parse(f"{text}\n\n# end\n")[-1]
        return None if last.type == "heading_close" else last.markup

    if (mark := open_block(text)) is None:
        return text
    closed = (f"{text}\n{end}" for end in ((mark,) if mark else _HTML_ENDS))
    return next((one for one in closed if open_block(one) is None), text)
