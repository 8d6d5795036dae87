"""Which language a text is in, by the share of its scripts: what a report needs, not what a linguist does."""

from __future__ import annotations

import re

# Chinese characters: ranges, for a regular expression.
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
LANGUAGES = ("zh", "en", "mixed", "other")
_LATIN_RANGES = "A-Za-z\u00c0-\u024f"
_HAN = re.compile(f"[{HAN}]")
_LATIN = re.compile(f"[{_LATIN_RANGES}]+")
_OTHER = re.compile(f"[^\\W\\d_{_LATIN_RANGES}{HAN}]")
_GLOSS = re.compile(r"[(（][^()（）]{1,40}[)）]")  # a name in the other script: StellarSpeak (星语者)
_NAMES = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "cn", "chinese", "simplified chinese", "mandarin"), "zh"),
    **dict.fromkeys(("中文", "汉语", "漢語", "华语", "简体中文", "繁體中文", "中国语", "普通话"), "zh"),
    **dict.fromkeys(("en", "eng", "english", "英文", "英语", "英語"), "en"),
}
_HAN_PER_WORD = 1.7  # Chinese characters that say as much as one English word


def language_of(text: str) -> str:
    """`zh` or `en` where at least two thirds of a text's words are in that script, else `mixed`.

    Any Latin script counts as English; short remarks in brackets do not count, unless they are all there is. `other`:
    most letters are of neither script, or there are none.
    """
    text = _GLOSS.sub(" ", text).strip() or text
    han, words, other = len(_HAN.findall(text)), _LATIN.findall(text), len(_OTHER.findall(text))
    if other > han + sum(map(len, words)) or not (han or words):
        return "other"
    share = (han / _HAN_PER_WORD) / (han / _HAN_PER_WORD + len(words))
    return "zh" if 3 * share >= 2 else "en" if 3 * share <= 1 else "mixed"


def main_language(text: str) -> str:
    """`zh` or `en`, whichever of the two more of a text is written in; `en` where it is neither. Single letters, which
    may be a formula's, do not count.
    """
    words = sum(len(word) > 1 for word in _LATIN.findall(text))
    return "zh" if len(_HAN.findall(text)) / _HAN_PER_WORD > words else "en"


def named_language(name: str) -> str:
    """`zh` or `en` where a name or a tag of one of the two is given, however it is written; "" for all else."""
    word = name.strip().casefold().replace("_", "-")
    if word.partition("-")[0] in _NAMES:
        word = word.partition("-")[0]
    return _NAMES.get(word, "")


def has_script(text: str, language: str) -> bool:
    """Whether a text has any Chinese character (`zh`) or Latin letter (`en`)."""
    return bool((_HAN if language == "zh" else _LATIN).search(text))


def stated_language(stated: str, text: str) -> str:
    """The language that a row states, as `named_language` has it or, where that knows none, as it is written; that of
    the row's text where it states none.
    """
    return named_language(stated) or stated or main_language(text)
