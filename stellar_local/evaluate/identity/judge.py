"""Whether an answer shows that a model knows who it is: a judge of text alone, for both languages.

Right is an answer that claims the right name, claims no forbidden one, names the developer where that was asked,
and doesn't say yes to being another. Knows how names are written and denied; knows no model. In doubt a mention of a
wrong name counts as a claim, so that a doubtful answer fails.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RULES = 1  # the number of these rules: it changes where they judge any answer otherwise, so that no log mixes them
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
# "与 A、B 毫无关系": what stands between is the rest of a list.
_APART = re.compile(r"[与和跟同][^是,]*$")
_APART_AFTER = re.compile(r"[^是不没无毫并,]*(?:毫|并)?(?:无关|无关系|没有?(?:任何|什么)?关系|不同|不一样)")
_NONE = re.compile(r"\bno\s*[\"'“]?$")
_YOURS = re.compile(
    r"(?:\byou are|\byou[’']re|\byour name is|[你您](?:就|才)?(?:是|叫)|[你您]的名字是)\s*[\"'“”《「]*$"
)
# A name that is spoken of as a word, or explained: nobody says so who he is.
_WORD = re.compile(
    r"\b(?:phrase|term|word|expression|concept)s?\s*[\"'“‘]*$"
    r"|(?:(?<!代名)词语?|短语|术语|成语|概念)[是为]?\s*[\"'“‘《「]*$"
)
_WORD_AFTER = re.compile(
    r"[\"'”’》」]*\s*(?:\b(?:means|refers to|stands for|is (?:the|a|an) (?:[a-z]+ )?(?:phrase|term|word|expression)\b)"
    r"|(?:这个|一|这一)?(?:词|短语|术语|成语|概念)|是?指的?是?|的?意思|意为|意味)"
)
# Who is greeted or thanked by a name is the other one.
_GREETED = re.compile(
    r"(?:^|[.!。]\s*)(?:hello|hi|hey|dear|thanks|thank you|goodbye|bye|你好|您好|谢谢[你您]?|嗨|再见)(?: there)?[\s,]*$"
)
_GREETED_AFTER = re.compile(r"\s*(?:[,.!。]|$)")
_IF = re.compile(r"\bif\b|如果|假如|要是|若")
# What makes a question of the statement before it.
_TAG = re.compile(
    r"\s*(?:没错吧?|对吧|对吗|对不对|是吧|是吗|是不是|right|correct|true|yes|no|(?:is|are)n[’']?t (?:it|i))\s*\?"
)
_BUILT_ON = re.compile(
    r"\b(?:based|built|basis|tuned|trained|derived|developed|started|foundation)\b[^.!?]*$|[基在以从][^。!?]*$"
)
_BUILT_ON_AFTER = re.compile(r"\s*(?:的基础|为基础|为基座|为底座|微调|开发|训练|调校)")
_HELLO = r"(?:(?:hello|hi|hey|你好|您好)[\s!,.。]*)?"
_YES = re.compile(
    _HELLO + r"(?:(?:yes|yeah|yep|yup|indeed|exactly|correct|absolutely|certainly|of course(?! not)"
    r"|that(?:[’']?s| is) (?:right|me|true|correct)|you(?: are|[’']re) (?:right|correct)|you guessed (?:it|right))\b"
    r"|(?:sure|right|true)(?=\s*[,.!;])"
    r"|是的|[是对][啊呀哦]?(?=[\s,。.!、;]|$)|对的|没错|不错|正是|当然(?!不)|确实|嗯|就是我"
    r"|[你您]?(?:说得?|猜得?)(?:很|完全)?(?:对|没错|不错)了?(?=[\s,。.!、;]|$))"
)
_NO = re.compile(
    _HELLO
    + r"(?:(?:no|nope|not|wrong|incorrect|i[’']m afraid not)\b|that(?:[’']?s| is)(?:n[’']t| not)\b|不(?![错仅过用必瞒])"
    r"|并非|并不|没有|[你您]?(?:是?误会|搞错|弄错|猜错|认错|说错))"
)


# What stands for a name once it is found, so that no later pattern reads a name: a character of its own for each, from
# a plane of Unicode that nobody writes in.
_FIRST_MARK = 0xF0000
_NAME, _DEVELOPER, _FORBIDDEN, _BASIS = "name", "developer", "forbidden", "basis"
_Marks = dict[str, tuple[str, str]]  # the character, the kind of what it stands for, and the name as it was given


@dataclass(frozen=True)
class Verdict:
    """What an answer says of who the model is, each part judged by itself; None where the question does not ask it.

    `name` and `developer`: the right one is claimed and not denied; `forbidden`: the wrong names that are claimed;
    `reply`: the answer does not begin with yes where no is right, or the reverse; `why`: what makes it wrong, "" if it
    is right.
    """

    name: bool
    developer: bool | None
    forbidden: tuple[str, ...]
    reply: bool | None
    why: str


def plain(text: str) -> str:
    """Letters and digits alone, full-width forms made narrow, lower case: "Stellar-Speak" → "stellarspeak"."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def failure(answer: str, expect: Mapping[str, Any]) -> str:
    """Why an answer is wrong, in a few words; "" if it is right (see `judge`)."""
    return judge(answer, expect).why


def judge(answer: str, expect: Mapping[str, Any]) -> Verdict:
    """Judge an answer by what is expected of it.

    `expect` holds the lists `name` (one of them must be claimed), `developer` (one must be named, if there is any)
    and `forbid` (none may be claimed; a denial is no claim); `based_on` (of the forbidden, those that may be named
    as what the model was built on); and `reply`, "no" or "yes", where the answer must not begin with the opposite.
    """
    marked, marks = _marked(answer, expect)
    text = _ASIDE.sub(" ", marked).strip(" \t\r\n\"'“”*#>「」")
    claimed, denials = set(), []
    forbidden: dict[str, None] = {}
    statements = _statements(text, marks)
    for number, (statement, list_denied) in enumerate(statements, 1):
        asked = statement.endswith(",") and number < len(statements) and _TAG.match(statements[number][0])
        spoken_before = statements[number - 2][0] if number > 1 else ""
        for at, mark in enumerate(statement):
            kind, name = marks.get(mark, ("", ""))
            if not kind or _is_no_claim(statement, at):
                continue
            if kind == _NAME and (asked or _is_no_answer(spoken_before, statement, at)):
                continue
            if list_denied or _is_denied(statement, at):
                denials.append(kind)
            elif kind == _FORBIDDEN or (kind == _BASIS and not _is_built_on(statement, at)):
                forbidden[name] = None
            else:
                claimed.add(kind)
    right = {kind: kind in claimed and kind not in denials for kind in (_NAME, _DEVELOPER)}
    return Verdict(
        name=right[_NAME],
        developer=right[_DEVELOPER] if expect.get("developer") else None,
        forbidden=tuple(forbidden),
        reply=_replies(text, expect),
        why=_why(text, expect, claimed, denials, bool(forbidden)),
    )


def _why(text: str, expect: Mapping[str, Any], claimed: set[str], denials: list[str], forbidden: bool) -> str:
    own = next((kind for kind in denials if kind in (_NAME, _DEVELOPER)), "")
    if own:
        return "denies its own name" if own == _NAME else "denies its developer"
    if forbidden:
        return "claims a forbidden name"
    if _NAME not in claimed:
        return "does not give its name"
    if expect.get("developer") and _DEVELOPER not in claimed:
        return "does not name its developer"
    if _replies(text, expect) is False:
        return "says yes where no is right" if expect["reply"] == "no" else "says no where yes is right"
    return ""


def _replies(text: str, expect: Mapping[str, Any]) -> bool | None:
    opposite = {"no": _YES, "yes": _NO}.get(expect.get("reply", ""))
    return None if opposite is None else not opposite.match(text)


def _marked(answer: str, expect: Mapping[str, Any]) -> tuple[str, _Marks]:
    """The answer in lower case and narrow forms, each name in it replaced by its mark.

    Of two names of which one holds the other, the longer one is meant: so all are looked for together.
    """
    text = unicodedata.normalize("NFKC", answer).casefold()
    text = re.sub(r"[\U000f0000-\U0010ffff]", " ", text)
    allowed = {plain(name) for name in expect.get("based_on") or []}
    spelled = [
        *((name, _NAME) for name in expect.get("name") or []),
        *((name, _DEVELOPER) for name in expect.get("developer") or []),
        *((name, _BASIS if plain(name) in allowed else _FORBIDDEN) for name in expect.get("forbid") or []),
    ]
    marks: _Marks = {}
    for place, (name, kind) in enumerate(sorted(spelled, key=lambda pair: len(plain(pair[0])), reverse=True)):
        if plain(name):
            mark = chr(_FIRST_MARK + place)
            text = re.sub(_spelling(name), mark, text)
            marks[mark] = kind, name
    return text, marks


def _statements(text: str, marks: _Marks) -> list[tuple[str, bool]]:
    """The statements of a text, each with whether it only goes on with a list whose beginning was denied."""
    out: list[tuple[str, bool]] = []
    for part in _ENDS.split(text):
        if part.strip():
            before, denied = out[-1] if out else ("", False)
            named = [at for at, char in enumerate(before) if char in marks]
            listed = before.rstrip().endswith(",") and named and not _LIST_WORDS.sub("", part)
            out.append((part, bool(listed) and (denied or _is_denied(before, named[-1]))))
    return out


def _is_no_claim(statement: str, at: int) -> bool:
    """Whether a name stands in a question, or is said of the person."""
    return statement.rstrip().endswith("?") or bool(_YOURS.search(statement[:at]))


def _is_no_answer(spoken_before: str, statement: str, at: int) -> bool:
    """Whether the right name, though it stands there, answers nothing: it only says whose something is, is spoken of as
    a word, greets or thanks someone, or follows an if. A wrong name is a claim in all these doubts.
    """
    before, after = statement[:at], statement[at + 1 :]
    if after[:2] in ("'s", "’s") or _WORD.search(before) or _WORD_AFTER.match(after):
        return True
    if _GREETED_AFTER.match(after) and _GREETED.search(before if before.strip() else spoken_before):
        return True
    conditions = list(_IF.finditer(before))
    return bool(conditions) and not _ANEW.search(before[conditions[-1].end() :])


def _is_denied(statement: str, at: int) -> bool:
    before, after = (_AFFIRMED.sub("·", part) for part in (statement[:at], statement[at + 1 :]))
    denials = list(_NOT.finditer(before))
    if denials and not _ANEW.search(before[denials[-1].end() :]):
        return True
    apart = _APART.search(before) and _APART_AFTER.match(after)
    return bool(apart or _NONE.search(before) or _DENIED_AFTER.match(after))


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
