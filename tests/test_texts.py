"""The interface's texts: complete in both languages, all of them used, and found by the locale."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

from stellar_local import texts
from stellar_local.chat.loop import COMMANDS
from stellar_local.config import NOT_IN_CHAT, ChatOptions, SamplingOptions
from stellar_local.spec import specs
from stellar_local.texts import LANGUAGES, Texts, catalogue, language_of

SAME = {"en": r"[A-Za-z]", "zh": r"[\u4e00-\u9fff]"}  # what a text of the language has at least one of
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "stellar_local").rglob("*.py"))


@pytest.mark.parametrize("key", list(catalogue()))
def test_each_text_is_there_in_both_languages(key: str) -> None:
    row = catalogue()[key]
    assert set(row) == ({"zh"} if key.startswith("option.") else set(LANGUAGES))  # an option's English is its --help
    for language, text in row.items():
        assert re.search(SAME[language], re.sub(r"\{\w+\}", "", text)), f"{key} is not written in {language}: {text!r}"
    assert len({frozenset(re.findall(r"\{\w+\}", text)) for text in row.values()}) == 1


def test_each_option_of_the_chat_is_explained_in_chinese() -> None:
    options = {*specs(SamplingOptions), *specs(ChatOptions)} - set(NOT_IN_CHAT)
    assert {key.partition(".")[2] for key in catalogue() if key.startswith("option.")} == options


def test_each_command_is_explained() -> None:
    explained = {key.partition(".")[2] for key in catalogue() if key.startswith("command.")}
    assert explained == {name[1:] for name in COMMANDS}


def test_each_text_is_used_and_each_that_is_used_exists() -> None:
    named = set(re.findall(r"[\"']([a-z]+\.[a-z_0-9]+)[\"']", SOURCES))
    families = set(re.findall(r'f"([a-z]+\.[a-z_]*)\{', SOURCES))  # keys made from names, as those of the commands
    used = re.findall(r'texts\(\s*"([a-z]+\.[a-z_0-9]+)"', SOURCES)
    assert set(used) <= set(catalogue())
    unused = {key for key in catalogue() if key not in named and not any(key.startswith(one) for one in families)}
    assert not unused


def test_values_are_put_in_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"a.b": {"en": "{name} of {count}", "zh": "共 {count} 个，{name}"}}
    monkeypatch.setattr(texts, "catalogue", lambda: rows)
    assert Texts("en")("a.b", name="{count}", count=3) == "{count} of 3"
    assert Texts("zh")("a.b", name="\\1", count=3) == "共 3 个，\\1"


@pytest.mark.parametrize(
    ("environ", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_TW"}, "zh"),
        ({"LANG": "C.UTF-8", "LANGUAGE": "zh"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LC_ALL": "Chinese (Simplified)_China.936"}, "zh"),
    ],
)
def test_the_locale_names_the_language(environ: dict[str, str], language: str) -> None:
    assert language_of(environ) == language
