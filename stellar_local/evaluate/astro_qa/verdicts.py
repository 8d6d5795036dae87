"""Whether an answer calls a statement true or false, in Chinese or English. Knows words; knows no question.

What it calls final wins, else what it says first: explanations may speak of other statements. Conditions (`if it is
true`) and the choice itself (`true or false`) are no verdicts.
"""

from __future__ import annotations

import re

from .found import NOTHING, Found, bare, first_exercise, plain

_NONE, _BOTH = "it says neither true nor false", "it says both true and false"
_I = re.IGNORECASE

_CHINESE = re.compile(
    r"(?:陈述|说法|命题|句话|描述|判断|观点|表述|论述|结论|这|答案|回答|题目?|内容)[^。;,!?\n]{0,12}?应?该?(?:[是为:]|属于)?\s*\"?"
    r"(?P<not>(?:并?不(?:是|完全|太|够|全|一定)?|并非|非|没有|谈不上|未必)\s*(?:完全|十分|非常)?)?"
    r"(?P<word>正确|错误|对(?![于应照比称流着面待方])|错(?![过综位开])|准确|成立|真(?![空正实])|假(?![设如定说])|有误|属实)"
)
_WORDS = r"(?:true|false|correct|incorrect|right|wrong|accurate|inaccurate|untrue|invalid|valid)"
_DEGREE = r"(?:(?:entirely|completely|quite|strictly|necessarily|really|always)\s+)?"
_ENGLISH = re.compile(
    r"\b(?:statement|claim|assertion|answer|it|this|that|which|sentence|proposition)\b"
    r"(?:\s+(?:above|given|that|about)\b[^.\n]{0,80}?)?\s*\"?"
    r"(?P<aux>(?:is|was|would be|must be|should be|seems(?: to be)?|appears(?: to be)?)|'s|:|(?:is|was)n'?t)\s*:?\s*\"?"
    r"(?:(?:indeed|actually|therefore|clearly|definitely|generally|mostly|largely|partially|partly|considered|also)\s+)?"
    rf"(?P<not>not\s+)?{_DEGREE}\"?(?P<word>{_WORDS})\b",
    _I,
)
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
_TRUE = {"正确", "对", "准确", "成立", "真", "属实", "true", "correct", "right", "accurate", "valid"}
# What an answer may be as a whole, or begin with. English words begin other phrases too: right ascension, no one.
_FIRST = re.compile(
    r"[\s\"'(\[{-]*(?:(?:答案|判断|结论|回答|answer|verdict|judge?ment)\"?\s*(?:是|为|is)?\s*:?\s*\"?)?[\"'(\[]*"
    r"(?P<word>(?:不正确|不对|不是|错误|正确|准确|对的?|错的?|是的?|否|真|假)(?![\u4e00-\u9fff])|[√✓✔×✗✘]"
    r"|(?:yes|no|true|false|correct|incorrect|right|wrong|t|f|y|n)(?=\s*(?:[,.;:!\n\"')\]}。-]|$)"
    r"|\s+(?:it|this|that|the statement|because|since)\b)|[01](?=\s*(?:[,;\n。)\]}]|\.(?!\d)|$)))",
    _I,
)
_FIRST_TRUE = _TRUE | {"对的", "是", "是的", "√", "✓", "✔", "yes", "t", "y", "1"}
_WORD = re.compile(
    r"(?P<not>不(?:是|完全|太)?\s*|并非|not\s+(?:entirely\s+|completely\s+)?|n't\s+)?"
    r"(?P<word>正确|错误|\b(?:true|false|correct|incorrect|wrong|untrue)\b)",
    _I,
)


def verdict(answer: str) -> Found:
    """`true` or `false`, whichever an answer says of its statement."""
    whole = plain(answer)
    if not bare(whole) and not re.search("[√✓✔×✗✘]", whole):
        return Found(None, why=NOTHING)
    text = _CHOICE.sub(" ", first_exercise(whole) or whole)
    said = _said(text)
    final = [found for place, found in said if _FINAL.search(text[:place])]
    if final:
        return final[-1]
    first = _FIRST.match(text)
    if first and not (said and said[0][0] < first.end()):
        return Found(str(first["word"].casefold() in _FIRST_TRUE).lower(), first["word"])
    if said:
        return said[0][1]
    words = {
        _truth(found["word"], bool(found["not"]))
        for found in _WORD.finditer(text)
        if not _CONDITION.search(text[: found.start()])
    }
    if len(words) == 1:
        return Found(words.pop(), text[:80])
    return Found(None, why=_BOTH if words else _NONE)


def _said(text: str) -> list[tuple[int, Found]]:
    """What is said of the statement, and where, in order."""
    found = []
    for pattern in (_CHINESE, _ENGLISH):
        for one in pattern.finditer(text):
            if not _CONDITION.search(text[: one.start()]):
                denied = bool(one["not"]) or "n't" in (one.groupdict().get("aux") or "").casefold()
                found.append((one.start(), Found(_truth(one["word"], denied), one[0])))
    return sorted(found, key=lambda pair: pair[0])


def _truth(word: str, denied: bool) -> str:
    return str((word.casefold() in _TRUE) is not denied).lower()
