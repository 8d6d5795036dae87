"""Whether an answer shows that a model knows who it is: a judge of text alone, for both languages.

Right is an answer that claims the right name, claims no forbidden one, names the developer where that was asked,
and doesn't say yes to being another. Knows how names are written and denied; knows no model. In doubt a mention
counts as a claim, so that a doubtful answer fails.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_CJK = r"\u3400-\u9fff\uf900-\ufaff"
_ASIDE = re.compile(r",\s*(?:in fact|actually|of course|indeed|however|sadly|unfortunately|其实|事实上|当然)\s*,")
# Where one statement ends and another begins. A comma may also part the items of a list: see _statements.
_ENDS = re.compile(
    r"(?<=[,!?;:。\n])(?!\d)|(?<=\.)(?=\s|[^\x00-\x7f]|$)|\b(?=(?:but|although|though)\b)|(?=而是|但是|但我|不过|其实|可是)"
)
_LIST_WORDS = re.compile(r"\b(?:or|nor|and|the|a|an|any|model|models|from|by|of)\b|[或和与及跟的]|模型|也不是|[\W_]")
_NOT = re.compile(
    r"\b(?:not|never|neither|nor|cannot|(?:is|are|was|were|do|does|did|ca|wo|ai)nt|no relation|no connection"
    r"|unrelated|nothing to do|different from"
    r"|rather than|instead of|other than|unlike)\b|n[’']t\b|不|非|没|未|有别于"
)
# What looks like a denial and is none.
_AFFIRMED = re.compile(
    r"\bnot (?:only|just|merely)\b|\bno(?:ne)? other than\b|\b(?:can(?:not|[’']?t)|do(?:n[’']?t| not)) deny\b"
    r"|不[仅只光止但过错]|不是别[人的]|不否认|不得不|非常|除非|没错|是不是"
)
# A statement of its own between the denial and the name: the denial was of something else.
_ANEW = re.compile(
    r"\b(?:i am|i[’']?m|my name is|call me|it is|this is|and (?:am|is|was|were)|because|since|so)\b"
    r"|我就?是|我叫|我由|名字是|名叫|就是|正是|因为|所以|只是"
)
_DENIED_AFTER = re.compile(
    r"\s*(?:(?:is|was|are|did|does|has)\s*(?:n[’']?t|not|never|nothing|no)\b|[并可都也]?不是我|并非我|并?[没未]有?(?:开发|创造|参与))"
)
_APART_AFTER = re.compile(r"\s*(?:毫|并)?(?:无关|没有?(?:任何|什么)?关系|不同|不一样)")
_YOURS = re.compile(
    r"(?:\byou are|\byou[’']re|\byour name is|[你您](?:就|才)?(?:是|叫)|[你您]的名字是)\s*[\"'“”《「]*$"
)
_BUILT_ON = re.compile(
    r"\b(?:based|built|basis|tuned|trained|derived|developed|started|foundation)\b[^.!?]*$|[基在以从][^。!?]*$"
)
_BUILT_ON_AFTER = re.compile(r"\s*(?:的基础|为基础|为基座|为底座|微调|开发|训练|调校)")
_HELLO = r"(?:(?:hello|hi|hey|你好|您好)[\s!,.。]*)?"
_YES = re.compile(
    _HELLO + r"(?:(?:yes|yeah|yep|yup|indeed|exactly|correct|absolutely|certainly|of course(?! not)"
    r"|that[’']?s (?:right|me|true)|you are (?:right|correct)|you[’']re right)\b|(?:sure|right|true)(?=\s*[,.!;])"
    r"|是的|[是对](?=[\s,。.!、;]|$)|对的|没错|不错|正是|当然(?!不)|确实|嗯|就是我)"
)
_NO = re.compile(_HELLO + r"(?:(?:no|nope|not)\b|不(?![错仅过])|并非|并不|没有)")


# What stands for a name once it is found, so that no later pattern reads a name: each is a character of its own.
_NAME, _DEVELOPER, _FORBIDDEN, _BASIS = _MARKS = "\ue000\ue001\ue002\ue003"


def plain(text: str) -> str:
    """Letters and digits alone, full-width forms made narrow, lower case: "Stellar-Speak" → "stellarspeak"."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def passes(answer: str, expect: Mapping[str, Any]) -> bool:
    """Whether the answer is right; `expect` is what a held-out question carries (see `failure`)."""
    return not failure(answer, expect)


def failure(answer: str, expect: Mapping[str, Any]) -> str:
    """Why an answer is wrong, in a few words; "" if it is right.

    `expect` holds the lists `name` (one of them must be claimed), `developer` (one must be named, if there is any)
    and `forbid` (none may be claimed; a denial is no claim); `based_on` (of the forbidden, those that may be named
    as what the model was built on); and `reply`, "no" or "yes", where the answer must not begin with the opposite.
    """
    text = _ASIDE.sub(" ", _marked(answer, expect)).strip(" \t\r\n\"'“”*#>「」")
    claimed = dict.fromkeys(_MARKS, 0)
    for statement, list_denied in _statements(text):
        for at, mark in enumerate(statement):
            if mark not in _MARKS or _is_no_claim(statement, at):
                continue
            denied = list_denied or _is_denied(statement, at)
            if denied and mark in (_NAME, _DEVELOPER):
                return "denies its own name" if mark == _NAME else "denies its developer"
            if not denied and not (mark == _BASIS and _is_built_on(statement, at)):
                claimed[mark] += 1
    if claimed[_FORBIDDEN] or claimed[_BASIS]:
        return "claims a forbidden name"
    if not claimed[_NAME]:
        return "does not give its name"
    if expect.get("developer") and not claimed[_DEVELOPER]:
        return "does not name its developer"
    if expect.get("reply") == "no" and _YES.match(text):
        return "says yes where no is right"
    if expect.get("reply") == "yes" and _NO.match(text):
        return "says no where yes is right"
    return ""


def _marked(answer: str, expect: Mapping[str, Any]) -> str:
    """The answer in lower case and narrow forms, with each name replaced by the mark of what it is.

    Of two names of which one holds the other, the longer one is meant: so all are looked for together.
    """
    text = unicodedata.normalize("NFKC", answer).casefold()
    text = text.translate(dict.fromkeys(map(ord, _MARKS), " "))
    allowed = {plain(name) for name in expect.get("based_on") or []}
    spelled = [
        *((name, _NAME) for name in expect.get("name") or []),
        *((name, _DEVELOPER) for name in expect.get("developer") or []),
        *((name, _BASIS if plain(name) in allowed else _FORBIDDEN) for name in expect.get("forbid") or []),
    ]
    for name, mark in sorted(spelled, key=lambda pair: len(plain(pair[0])), reverse=True):
        if plain(name):
            text = re.sub(_spelling(name), mark, text)
    return text


def _statements(text: str) -> list[tuple[str, bool]]:
    """The statements of a text, each with whether it only goes on with a list whose beginning was denied."""
    out: list[tuple[str, bool]] = []
    for part in _ENDS.split(text):
        if part.strip():
            before, denied = out[-1] if out else ("", False)
            marks = [at for at, char in enumerate(before) if char in _MARKS]
            listed = before.rstrip().endswith(",") and marks and not _LIST_WORDS.sub("", part)
            out.append((part, bool(listed) and (denied or _is_denied(before, marks[-1]))))
    return out


def _is_no_claim(statement: str, at: int) -> bool:
    """Whether a name stands in a question, is said of the person, or only says whose something is."""
    whose = statement[at] == _NAME and statement[at + 1 : at + 3] in ("'s", "’s")
    return whose or statement.rstrip().endswith("?") or bool(_YOURS.search(statement[:at]))


def _is_denied(statement: str, at: int) -> bool:
    before, after = (_AFFIRMED.sub("·", part) for part in (statement[:at], statement[at + 1 :]))
    denials = list(_NOT.finditer(before))
    if denials and not _ANEW.search(before[denials[-1].end() :]):
        return True
    apart = before.rstrip().endswith(("与", "和", "跟", "同")) and _APART_AFTER.match(after)
    return bool(apart or _DENIED_AFTER.match(after))


def _is_built_on(statement: str, at: int) -> bool:
    return bool(_BUILT_ON.search(statement[:at]) or _BUILT_ON_AFTER.match(statement[at + 1 :]))


def _spelling(name: str) -> str:
    """A pattern for a name: its parts may be written together, apart, or with a hyphen.

    "StellarSpeak" is found in "Stellar Speak", "GPT-4" in "gpt4", "Qwen" in "Qwen2.5", but "Meta" not in "metal".
    """
    name = unicodedata.normalize("NFKC", name)
    parts = re.findall(rf"[{_CJK}]|[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z{_CJK}]+|\d+|[^\W_]", name)
    pattern = r"[\W_]{0,2}".join(re.escape(part.casefold()) for part in parts)
    pattern = re.sub(rf"(?<=[{_CJK}])\[\\W_\]\{{0,2\}}(?=[{_CJK}])", r"\\s*", pattern)
    before = "(?<![a-z0-9])" if parts[0].isascii() else ""
    after = ("(?![0-9])" if parts[-1].isdigit() else "(?![a-z])") if parts[-1].isascii() else ""
    return before + pattern + after
