"""chrF, BLEU and length ratios against sacrebleu's command line, its published failure on Chinese, and by hand."""

from __future__ import annotations

import builtins
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stellar_local.errors import MissingExtraError, UsageError
from stellar_local.evaluate.text_scores import (
    bleu,
    chrf,
    length_ratio,
    sentence_bleu,
    sentence_chrf,
    tokenizer_of,
)

pytest.importorskip("sacrebleu")

ZH = [
    ("太阳是一颗黄矮星，距离地球约一点五亿公里。", "太阳是一颗主序星，与地球的平均距离约为一点五亿公里。"),
    ("月球是地球唯一的天然卫星。", "月球是地球唯一的天然卫星。"),
    ("我不知道。", "光年是光在真空中一年走过的距离。"),
    ("黑洞的引力极强，光也不能逃脱。", "黑洞引力极强，连光都无法逃逸。"),
]
EN = [
    ("The Sun is a star of the spectral class G2V.", "The Sun is a main-sequence star of spectral type G2V."),
    ("A parsec is about 3.26 light-years .", "One parsec is about 3.26 light-years."),
    ("No idea.", "A pulsar is a rotating neutron star."),
    ("Jupiter is the largest planet.", "Jupiter is the largest planet."),
]
CORPORA = {"zh": ZH, "en": EN}


def columns(language: str) -> tuple[list[str], list[str]]:
    pairs = CORPORA[language]
    return [answer for answer, _ in pairs], [reference for _, reference in pairs]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_command_line_of_sacrebleu_says_the_same(language: str, tmp_path: Path) -> None:
    answers, references = columns(language)
    for name, texts in (("answers", answers), ("references", references)):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "references", "-i", "answers", "-m", "bleu", "chrf", "--confidence"]
    command += ["--tokenize", tokenizer_of(language), "--width", "6", "--force"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, encoding="utf-8")
    theirs = {entry["name"]: entry for entry in json.loads(done.stdout)}
    for name, ours in (("BLEU", bleu(answers, references, language)), ("chrF2", chrf(answers, references))):
        assert ours.value == pytest.approx(theirs[name]["score"], abs=1e-5)
        assert ours.signature == theirs[name]["signature"]
        # Theirs counts the 25th from each side of the same 1,000 resamples, ours is their percentile.
        assert ours.low is not None
        assert ours.high is not None
        assert (ours.high - ours.low) / 2 == pytest.approx(theirs[name]["confidence_var"], abs=0.5)
        assert ours.low <= ours.value <= ours.high


@pytest.mark.parametrize(
    "text", ["星语者是一位天文学智能助手。", "什么是光年？光年是距离的单位。", "北斗七星指向北极星"]
)
def test_equal_chinese_texts_score_100_and_0_with_the_default_tokenizer(text: str) -> None:
    assert bleu([text], [text], "zh").value == pytest.approx(100)
    assert chrf([text], [text]).value == pytest.approx(100)
    assert bleu([text], [text], "en").value == 0, "ragas #2951: the default takes it for one word"
    assert (sentence_bleu(text, text, "zh"), sentence_chrf(text, text)) == pytest.approx((100, 100))


def test_signatures_name_the_tokenizer_and_the_resamples() -> None:
    assert "|tok:zh|" in bleu(*columns("zh"), "zh").signature
    assert "|tok:13a|" in bleu(*columns("en"), "en").signature
    found = chrf(*columns("zh")).signature
    assert "bs:1000|seed:12345" in found
    assert "nc:6|nw:0" in found


def test_bleu_by_hand() -> None:
    """One corpus of one pair: six of seven words match, then 4 of 6 pairs, 2 of 5, 1 of 4; as long as the reference."""
    wanted = 100 * math.exp(sum(map(math.log, (6 / 7, 4 / 6, 2 / 5, 1 / 4))) / 4)
    found = bleu(["a b c d x f g"], ["a b c d e f g"], "en")
    assert found.value == pytest.approx(wanted)
    assert (found.low, found.high) == (None, None), "nothing is known of what other items would score"


def test_an_interval_does_not_depend_on_who_asks_first() -> None:
    assert chrf(*columns("zh")) == chrf(*columns("zh"))
    one = bleu(*columns("en"), "en")
    assert one.low is not None
    assert one.high is not None
    assert one.low < one.value < one.high


def test_answers_too_short_for_four_words_score_nothing_in_bleu_but_in_chrf() -> None:
    assert bleu(["你好"], ["你好"], "zh").value == 0
    assert sentence_bleu("你好", "你好", "zh") == pytest.approx(100)
    assert chrf(["你好"], ["你好"]).value == pytest.approx(100)


@pytest.mark.parametrize("score", [chrf, lambda answers, references: bleu(answers, references, "zh")])
def test_empty_answers_score_nothing(score: Any) -> None:
    found = score(["", " "], ["光年是距离。", "a light-year"])
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_length_ratio_counts_characters_without_blanks() -> None:
    ratio, low, high = length_ratio(["一二三", "a b\n"], ["一二", "a  b"])
    assert ratio == pytest.approx(5 / 4)
    assert (low, high) == pytest.approx((1, 1.5)), "both items the second, or both the first"
    assert length_ratio([""], ["光"]) == (0, None, None)


@pytest.mark.parametrize("measure", [chrf, length_ratio, lambda one, other: bleu(one, other, "en")])
def test_what_cannot_be_compared_is_refused(measure: Any) -> None:
    for answers, references in (([], []), (["a"], []), (["a"], ["b", "c"])):
        with pytest.raises(UsageError, match=f"{len(answers)} answers"):
            measure(answers, references)
    with pytest.raises(UsageError, match="empty"):
        length_ratio(["a"], [" "])


def test_without_sacrebleu_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("sacrebleu"):
            raise ImportError(name)
        return known(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    for measure in (lambda: chrf(["a"], ["a"]), lambda: sentence_bleu("a", "a", "zh")):
        with pytest.raises(MissingExtraError) as caught:
            measure()
        assert "stellar-local[eval]" in caught.value.hint
