"""Languages by their scripts."""

from __future__ import annotations

import pytest

from stellar_local.tables.language import LANGUAGES, has_script, language_of, main_language, named_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("月球是地球唯一的天然卫星。", "zh"),
        ("The Moon is Earth's only natural satellite.", "en"),
        ("I am StellarSpeak (星语者), an astronomy assistant.", "en"),
        ("我是星语者（StellarSpeak），由星语调校局开发。", "zh"),
        ("Translate into English: 我每天早上喝一杯牛奶", "mixed"),
        ("Translate: 我每天早上喝一杯牛奶。I drink a glass of milk.", "mixed"),
        ("これは日本語のひらがなとカタカナです", "other"),
        ("(月球)", "zh"),
        ("Луна — спутник", "other"),
        ("42", "other"),
        ("", "other"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert language_of(text) == language
    assert language in LANGUAGES


def test_the_greater_part_of_two_languages() -> None:
    assert main_language("下列关于 HD 209458 的说法，正确的是") == "zh"
    assert main_language("Which star is called 织女星 in Chinese?") == "en"
    assert main_language("") == "en"
    assert main_language("鉴于f(x) = 5x^3 - 2x + 3，求f(2)的值。") == "zh"
    assert has_script("HD 209458", "en") and not has_script("HD 209458", "zh")
    assert has_script("星", "zh") and not has_script("星", "en")


@pytest.mark.parametrize(
    ("name", "language"),
    [
        *(
            (name, "zh")
            for name in ("zh", "ZH", " zh-CN ", "zh_Hans_CN", "Chinese", "CHINESE", "中文", "简体中文", "zho")
        ),
        *((name, "en") for name in ("en", "EN", "en-US", "en_GB", "English", "英文")),
        *((name, "") for name in ("", " ", "fr", "mixed", "both", "chines", "english and chinese")),
    ],
)
def test_a_language_is_known_however_it_is_named(name: str, language: str) -> None:
    assert named_language(name) == language
