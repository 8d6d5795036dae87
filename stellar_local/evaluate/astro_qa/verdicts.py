"""Whether an answer calls a statement true or false, in Chinese or English. Knows words; knows no question.

What it calls final wins, else what it says first: explanations may speak of other statements. Conditions (`if it is
true`), questions and the choice itself (`true or false`) are no verdicts. Denials turn a verdict wherever they stand in
its clause: between statement and word (`can never be true`), or before both (`I do not think that`).
"""

from __future__ import annotations

import re

from .found import NOTHING, Found, bare, first_exercise, plain

_NONE, _BOTH = "it says neither true nor false", "it says both true and false"
_I = re.IGNORECASE

_CHINESE = re.compile(
    r"(?P<subject>陈述|说法|命题|句话|描述|判断|观点|表述|论述|结论|这|答案|回答|题目?|内容)(?P<between>[^。;,!?\n]{0,20}?)"
    r"(?P<word>正确|错误|对(?![于应照比称流着面待方])|错(?![过综位开])|准确|成立|真(?![空正实])|假(?![设如定说])|有误|无误|属实"
    r"|符合(?:事实|科学|实际|客观)|相符|不符(?!合))"
)
_WORDS = r"(?:true|false|correct|incorrect|right|wrong|accurate|inaccurate|untrue|invalid|valid)"
_DENIAL = r"(?:not(?!\s+only)|never|no\s+longer|far\s+from|hardly|anything\s+but)"
_BETWEEN = (
    rf"(?:(?:{_DENIAL}|\w+ly|indeed|therefore|thus|hence|just|still|also|in\s+fact|quite|very|always|ever|at\s+all|so|even"
    r"|seem|appear|to\s+be|be|been|considered|regarded\s+as|deemed|proven|shown),?\s+)*"
)
_NOUN = r"(?:statement|claim|assertion|sentence|proposition|one|description|answer|conclusion)"
_ENGLISH = re.compile(
    r"\b(?P<subject>statement|claim|assertion|answer|it|this|that|which|sentence|proposition)\b"
    r"(?:\s+(?:above|given|that|about)\b[^.\n]{0,80}?)?\s*\"?"
    r"(?P<between>(?:(?:is|was|would|must|should|seems|appears|can|could|do|does|did|has)(?:n't|not)?\b|can't|cannot|'s|:)\s*:?\s*,?"
    rf"\s*{_BETWEEN}(?:an?\s+{_BETWEEN}(?={_WORDS}\s+{_NOUN}\b))?)\"?(?P<word>{_WORDS})\b",
    _I,
)
# Denials, and what may stand between one and the word that it denies.
_DENIED = re.compile(
    r"((?:不(?![仅但只过同论管断少久足])|未(?!来)|没有?(?!问题)|[并绝决]非|非(?=正确|错|真|假|准)|无法|缺乏|谈不上|难以?(?=说|称|算|被|认))"
    r"[的能会应该可以算是总一定够太很大完全十分非常被认为说称视作看属于存在具备有任何都尽绝特别对严格科学上证明断判得实再\d处个]*)+\s*\"?$"
)
_DENY = re.compile(r"不|未|没有?|[并绝决]非|非(?!常)|无法|缺乏|难")
_DENY_ENGLISH = re.compile(rf"\b{_DENIAL}\b|n't\b|\bcannot\b", _I)
_DENIED_BEFORE = re.compile(
    r"(?:不(?:能|可以?|应该?|会|太|敢|是)?|无法|难以?|没有?(?:人|证据|理由)?(?:能|可以)?|从未|并非|未)(?:被|完全)?"
    r"(?:认为|觉得|相信|同意|赞同|赞成|说明?|表明|证明|断定|认定|断言|承认|支持)[^。;,!?\n]{0,8}$"
    r"|(?:\b(?:not|never|cannot|hardly)|n't)\s+(?:\w+ly\s+)?"
    r"(?:think|believe|say|agree|consider|claim|conclude|find|feel|the\s+case|true|correct|so)"
    r"(?:\s+that)?(?:\s+(?:the|this|that|your|given|above))*\s*\"?$"
    r"|\bdoubt(?:\s+that)?(?:\s+(?:the|this|that|your|given|above))*\s*\"?$",
    _I,
)
_ASKED = re.compile(r"\"?的?\s*(?:[吗么]|\?)")
_WEAK = {"it", "this", "that", "which", "这"}  # what may be said of another thing than the statement
_CONTRAST = re.compile(r"[^。.;!?\n]*(?:\bbut\b|\bhowever\b|\byet\b|但|然而|不过|可是|而)[^。.;!?\n]*$", _I)
_FINAL = re.compile(r"(?:最终|最后|final)[^。.\n]{0,30}$", _I)
_CONDITION = re.compile(
    r"(?:如果|若|假如|假设|倘若|是否|能否|无论|\b(?:if|whether|when|assum\w*|unless|may|might|could)\b)[^。.;!?\n]{0,40}$",
    _I,
)
_CHOICE = re.compile(
    r"正确[/或与和、]\s*错误|对[/或与和、]\s*错|错[/或]\s*对|错误[/或与和]\s*正确|是否正确|对错|正误|真假"
    r"|\b(?:may be |might be |is )?(?:true|correct|right)\s*(?:/|or)\s*(?:false|incorrect|wrong)\b\??"
    r"|\b(?:may be |might be |is )?(?:false|incorrect)\s*(?:/|or)\s*(?:true|correct)\b\??",
    _I,
)
_TRUE = {"正确", "对", "准确", "成立", "真", "属实", "无误", "相符", "true", "correct", "right", "accurate", "valid"}
# What an answer may be as a whole, or begin with. English words begin other phrases too: right ascension, No. 1.
_FIRST = re.compile(
    r"[\s\"'(\[{【-]*(?:(?:答案?|判断|结论|回答|answer|verdict|judge?ment)[\"】]?\s*(?:是|为|is)?\s*:?\s*\"?)?[\"'(\[]*"
    r"(?P<word>(?:不正确|不对|不是|不符合事实|没有?错误?|并?无误|错误|正确|准确|符合事实|对的?|错的?|是的?|否|真|假)"
    r"(?![\u4e00-\u9fff])|[√✓✔×✗✘]"
    r"|(?:yes|no(?!\. ?\d)|true|false|correct|incorrect|right|wrong|t|f|y|n)(?=\s*(?:[,.;:!\n\"')\]}。-]|$)"
    r"|\s+(?:it|this|that|the statement|because|since)\b)|[01](?=\s*(?:[,;\n。)\]}]|\.(?!\d)|$)))",
    _I,
)
_FIRST_TRUE = _TRUE | {"对的", "是", "是的", "没错", "没有错", "没错误", "没有错误", "并无误", "符合事实"}
_FIRST_TRUE |= {"√", "✓", "✔", "yes", "t", "y", "1"}
_WORD = re.compile(
    r"(?P<between>不(?:是|完全|太)?\s*|并非|没有?|\bnot\s+(?:\w+ly\s+|quite\s+|at\s+all\s+)?|\bnever\s+|n't\s+)?"
    r"(?P<word>正确|错误|无误|\b(?:true|false|correct|incorrect|accurate|inaccurate|wrong|untrue)\b)",
    _I,
)


def verdict(answer: str) -> Found:
    """`true` or `false`, whichever an answer says of its statement."""
    whole = plain(answer)
    if not bare(whole) and not re.search("[√✓✔×✗✘]", whole):
        return Found(None, why=NOTHING)
    text = _CHOICE.sub(" ", first_exercise(whole) or whole)
    said = _said(text)
    final = [found for place, _, found in said if _FINAL.search(text[:place])]
    if final:
        return final[-1]
    first = _FIRST.match(text)
    if first and not _ASKED.match(text, first.end()) and not (said and said[0][0] < first.end()):
        return Found(str(first["word"].casefold() in _FIRST_TRUE).lower(), first["word"])
    if said:
        return _first(text, said)
    words = {
        _truth(found["word"], _denied(found["between"] or "")) for found in _WORD.finditer(text) if _tells(text, found)
    }
    if len(words) == 1:
        return Found(words.pop(), text[:80])
    return Found(None, why=_BOTH if words else _NONE)


def _said(text: str) -> list[tuple[int, bool, Found]]:
    """What is said of the statement in order: where, whether it is named rather than pointed at, and what."""
    found = []
    for pattern in (_CHINESE, _ENGLISH):
        for one in pattern.finditer(text):
            if _tells(text, one):
                denied = _denied(one["between"]) is not bool(
                    _DENIED_BEFORE.search(text, max(one.start() - 60, 0), one.start())
                )
                named = one["subject"].casefold() not in _WEAK
                found.append((one.start(), named, Found(_truth(one["word"], denied), one[0])))
    return sorted(found, key=lambda one: one[0])


def _first(text: str, said: list[tuple[int, bool, Found]]) -> Found:
    """What is said first; but of `it is true that …, but the statement is false` what is said of the statement."""
    place, named, found = said[0]
    for later, other, instead in said[1:]:
        if not named and other and _CONTRAST.match(text[place:later]):
            return instead
    return found


def _tells(text: str, found: re.Match[str]) -> bool:
    """Whether words are a verdict: no condition, no question."""
    return not _CONDITION.search(text[: found.start()]) and not _ASKED.match(text, found.end())


def _denied(between: str) -> bool:
    """Whether what stands between a statement and a word turns the word: denials of denials do not."""
    chinese = _DENIED.search(between)
    count = len(_DENY.findall(chinese[0])) if chinese else 0
    return (count + len(_DENY_ENGLISH.findall(between))) % 2 == 1


def _truth(word: str, denied: bool) -> str:
    return str((word.casefold() in _TRUE or word.startswith("符合")) is not denied).lower()
