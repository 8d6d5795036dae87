"""Win rates, the warning of too few questions, agreement, and what a comparison leaves on disk."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stellar_local.errors import UsageError
from stellar_local.evaluate.pairwise.agreement import agreement, majority
from stellar_local.evaluate.pairwise.outcome import certainty, figures, notes, questions_needed
from stellar_local.evaluate.pairwise.store import keep
from stellar_local.evaluate.results import Metric, read_log, read_summaries
from stellar_local.evaluate.statistics import wilson


def records(winners: str, **more: Any) -> list[dict[str, Any]]:
    """One record a letter: a, b, t (tie), e (error)."""
    names = {"a": "a", "b": "b", "t": "tie"}
    return [
        {
            "key": f"q:{n}",
            "language": "zh" if n % 2 else "en",
            "kind": ["generic", "math"][n % 3 == 0],
            "a": ["x"],
            "b": ["y"],
            "pair": f"d{n}",
            **({"winner": names[one]} if one in names else {"error": {"type": "not_judged", "message": "m"}}),
            **more,
        }
        for n, one in enumerate(winners)
    ]


def by_name(metrics: Sequence[Metric]) -> dict[str, Metric]:
    return {f"{one.group} {one.language} {one.name}".strip(): one for one in metrics}


def test_the_win_rate_counts_ties_half_and_leaves_out_errors() -> None:
    """FastChat's win_rate_adjusted = (win + tie / 2) / n, by hand: (5 + 1.5) / 10."""
    found = by_name(figures(records("aaaaabbttt" + "ee")))
    rate = found["win rate"]
    assert rate.value == pytest.approx(0.65)
    assert rate.n == 10
    assert rate.low is not None
    assert rate.high is not None
    assert 0.35 < rate.low < 0.5 < 0.65 < rate.high < 0.91
    assert [found[name].value for name in ("wins", "ties", "losses")] == [5, 3, 2]
    assert found["sign test, p"].value == pytest.approx(2 * (1 + 7 + 21) / 2**7)  # 5 against 2
    assert found["en win rate"].n + found["zh win rate"].n == 10
    assert found["math  win rate"].n + found["generic  win rate"].n == 10


def test_bootstrap_interval_against_the_normal_one() -> None:
    winners = "".join(random.Random(1).choices("abt", [5, 3, 2], k=400))
    rate = by_name(figures(records(winners)))["win rate"]
    values = [{"a": 1.0, "b": 0.0, "t": 0.5}[one] for one in winners]
    mean = sum(values) / 400
    half = 1.96 * math.sqrt(sum((value - mean) ** 2 for value in values) / 400 / 400)
    assert rate.value == pytest.approx(mean)
    assert rate.low == pytest.approx(mean - half, abs=0.006)
    assert rate.high == pytest.approx(mean + half, abs=0.006)


def test_nothing_judged_is_no_figure() -> None:
    found = by_name(figures(records("eee")))
    assert found["win rate"].value is None
    assert notes(records("eee"), "A", "B") == ["3 of 3 questions are left out: not answered, not judged, or failed"]


def test_scores_places_and_disagreement_of_a_judging_model() -> None:
    games = [
        {"order": "ab", "winner": "a", "score_a": 8, "score_b": 6},
        {"order": "ba", "winner": "b", "score_a": 5, "score_b": 7},
    ]
    same = [{"order": order, "winner": "a", "score_a": 9, "score_b": 1} for order in ("ab", "ba")]
    found = by_name(figures([*records("t", games=games), *records("aaa", games=same)]))
    assert found["mean score of A"].value == pytest.approx((6.5 + 9 * 3) / 4)
    assert found["mean score of B"].value == pytest.approx((6.5 + 1 * 3) / 4)
    assert found["won from the first place"].value == pytest.approx(5 / 8)
    assert found["the two orders disagree"].value == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("winners", "said"),
    [
        ("aaab", "too small to tell"),
        ("aaaaa", "too small to tell"),  # the bootstrap alone would be sure; the sign test isn't
        ("aaaaaaaa", "A is better.*8 questions are few"),
        ("b" * 60 + "a" * 20, "B is better"),
        ("ab" * 40, "too small.*80 questions can show a difference of about 11 points"),
        ("t" * 9, "too small"),
    ],
)
def test_what_is_said_of_certainty(winners: str, said: str) -> None:
    import re

    (sentence, *_) = notes(records(winners), "A", "B")
    assert re.search(said, sentence), sentence


def test_the_number_of_questions_needed_finds_the_difference_four_times_of_five() -> None:
    """By simulation, on the spread of wins and losses that was seen."""
    values = [1.0] * 6 + [0.0] * 4
    needed = questions_needed(values)
    assert needed is not None
    draw = random.Random(3)
    told = 0
    for _ in range(400):
        sample = draw.choices(values, k=needed)
        mean = sum(sample) / needed
        deviation = math.sqrt(sum((value - mean) ** 2 for value in sample) / needed / needed)
        told += mean - 1.96 * deviation > 0.5
    assert 0.72 < told / 400 < 0.88
    assert f"about {needed}" in certainty(values, "A", "B")
    assert questions_needed([1.0, 0.0]) is None


def test_agreement_by_hand() -> None:
    """As compute_agreement.py counts: with ties 6 of 9 are equal; 6 are decided by both, and 4 of them equal."""
    names = {"a": "a", "b": "b", "t": "tie"}
    one = dict(zip("123456789x", map(names.get, "aaabbttta" + "a"), strict=True))
    other = dict(zip("123456789y", map(names.get, "aaabatatb" + "b"), strict=True))
    found = agreement(one, other)
    assert (found.both, found.equal, found.decided, found.decided_equal) == (9, 6, 6, 4)


def test_ties_count_as_ties_without_them_only_decided_ones() -> None:
    one = {"1": "a", "2": "tie", "3": "tie", "4": "b"}
    other = {"1": "a", "2": "tie", "3": "a", "4": "a"}
    found = agreement(one, other)
    assert (found.both, found.equal, found.decided, found.decided_equal) == (4, 2, 2, 1)


def test_kappa_against_a_known_table() -> None:
    """The example of J. Cohen's statistic in common use: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: kappa 0.4."""
    pairs = [("a", "a")] * 20 + [("a", "b")] * 5 + [("b", "a")] * 10 + [("b", "b")] * 15
    one = {str(n): pair[0] for n, pair in enumerate(pairs)}
    other = {str(n): pair[1] for n, pair in enumerate(pairs)}
    assert agreement(one, other).kappa == pytest.approx(0.4)
    assert agreement(one, one).kappa == 1
    assert agreement({"1": "a"}, {"1": "a"}).kappa is None
    assert agreement({"1": "a"}, {"2": "a"}).both == 0


def test_majority() -> None:
    judges = [{"1": "a", "2": "a", "3": "a"}, {"1": "a", "2": "b", "3": "tie"}, {"1": "b", "3": "b", "4": "b"}]
    assert majority(judges) == {"1": "a", "2": "tie", "3": "tie", "4": "b"}


def header(name: str, kind: str = "human") -> dict[str, Any]:
    judge = {"kind": kind, "name": name, "usage": {"judgements": 4, "prompt_tokens": 10, "cost": 0.5}}
    return {"task": "compare", "a": {"label": "old"}, "b": {"label": "新"}, "judge": judge}


def test_all_judges_of_a_pair_stand_side_by_side(tmp_path: Path) -> None:
    keep(tmp_path, header("anna"), records("aabb"))
    keep(tmp_path, {**header("other"), "b": {"label": "third"}}, records("bbbb"))
    keep(tmp_path, header("bo"), records("aabt"))
    found = keep(tmp_path, header("gpt", "model"), records("abbb"))
    assert [one.header["judge"]["name"] for one in found] == ["gpt", "anna", "bo", "majority of the people"]
    gpt = by_name(found[0].metrics)
    assert gpt["anna  agreement"].value == pytest.approx(3 / 4)
    assert gpt["anna  agreement without ties"].n == 4
    assert gpt["bo  agreement without ties"].value == pytest.approx(2 / 3)
    assert "the majority of the others  agreement" in gpt
    assert gpt["judge, cost"].text == "0.5000"
    assert "gpt  agreement" in by_name(found[1].metrics)
    assert by_name(found[3].metrics)["wins"].value == 2
    assert by_name(found[3].metrics)["ties"].value == 1
    assert len(read_summaries(tmp_path)) == 5
    stored, kept = read_log(found[0].path.with_suffix(".jsonl"))
    assert stored["judge"]["name"] == "gpt"
    assert [one["winner"] for one in kept] == ["a", "b", "b", "b"]


def test_verdicts_on_other_answers_are_not_compared(tmp_path: Path) -> None:
    keep(tmp_path, header("anna"), records("aabb"))
    found = keep(tmp_path, header("bo"), [{**one, "pair": "changed"} for one in records("aabb")])
    assert [one.header["judge"]["name"] for one in found] == ["bo"]
    assert not any("agreement" in one.name for one in found[0].metrics)


def test_damaged_and_foreign_logs_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "compare--x.jsonl").write_text("not a log\n")
    (tmp_path / "compare--y.jsonl").write_text(json.dumps({"stellar_eval": 1, "task": "compare"}) + "\n")
    (tmp_path / "compare--z.jsonl").write_text(json.dumps({"stellar_eval": 1, "a": 1, "b": 2}) + "\n")
    assert len(keep(tmp_path, header("anna"), records("ab"))) == 1
    assert "compare--x.jsonl is no log" in capsys.readouterr().err


def test_answers_that_are_the_same_are_no_agreement(tmp_path: Path) -> None:
    """Two people who agree on nothing agree on nothing, however many pairs nobody had to judge."""
    same = [{**one, "key": f"s:{n}", "pair": f"e{n}", "same": True} for n, one in enumerate(records("t" * 60))]
    keep(tmp_path, header("anna"), [*records("aabb"), *same])
    found = keep(tmp_path, header("bo"), [*records("bbaa"), *same])
    share = by_name(found[0].metrics)["anna  agreement"]
    assert (share.value, share.n) == (0.0, 4)
    assert by_name(found[0].metrics)["anna  Cohen's kappa"].value == -1
    assert found[-1].header["judge"]["name"] == "majority of the people"
    assert by_name(found[-1].metrics)["ties"].value == 64  # they count for the models still


@pytest.mark.parametrize("winners", ["a" * 6, "b" * 6, "t" * 80])
def test_values_that_are_all_equal_still_have_an_interval(winners: str) -> None:
    rate = by_name(figures(records(winners)))["win rate"]
    value = {"a": 1.0, "b": 0.0, "t": 0.5}[winners[0]]
    assert (rate.low, rate.high) == wilson(value * len(winners), len(winners))
    assert rate.low is not None and rate.high is not None and rate.high - rate.low > 0.2
    (sentence, *_) = notes(records(winners), "A", "B")
    assert f"({100 * rate.low:.1f} to {100 * rate.high:.1f})" in sentence


def test_one_question_has_no_interval_and_that_is_said() -> None:
    rate = by_name(figures(records("a")))["win rate"]
    assert (rate.value, rate.low, rate.high) == (1.0, None, None)
    (sentence, *_) = notes(records("a"), "A", "B")
    assert "100.0% of one question, which has no interval" in sentence
    assert "nan" not in sentence


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (header("gpt/4", "model"), header("gpt 4", "model")),
        (header("anna"), header("anna", "model")),
        ({**header("x"), "a": {"label": "m/1"}}, {**header("x"), "a": {"label": "m 1"}}),
    ],
    ids=["names", "kinds", "labels"],
)
def test_no_judge_overwrites_another(one: dict[str, Any], other: dict[str, Any], tmp_path: Path) -> None:
    (kept, *_) = keep(tmp_path, one, records("aabb"))
    before = kept.path.with_suffix(".jsonl").read_bytes()
    with pytest.raises(UsageError, match="another judge") as failed:
        keep(tmp_path, other, records("bbbb"))
    assert "--judge-name" in failed.value.hint
    assert kept.path.with_suffix(".jsonl").read_bytes() == before
    keep(tmp_path, one, records("abab"))


@pytest.mark.parametrize(
    "change",
    [
        {"winner": None},
        {"winner": ["a"]},
        {"pair": None},
        {"pair": []},
        {"error": True},
        {"error": {"type": 1}},
        {"games": 1},
        {"games": [{}]},
        {"games": [{"order": "ab", "winner": "a", "score_a": "9"}]},
    ],
)
def test_records_changed_by_hand_are_told_of_and_left_out(
    change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, header("anna"), records("aabb"))
    (path,) = tmp_path.glob("compare--*.jsonl")
    first, second, *others = path.read_text(encoding="utf-8").splitlines()
    changed = {name: value for name, value in {**json.loads(second), **change}.items() if value is not None}
    judge = {"judge": {**json.loads(first)["judge"], "usage": {"prompt_tokens": 10**400, "cost": 10**400}}}
    path.write_text(
        "\n".join(map(json.dumps, [{**json.loads(first), **judge}, changed])) + "\n" + "\n".join(others) + "\n"
    )
    found = keep(tmp_path, header("bo"), records("aabb"))
    assert "damaged records are left out: 1" in capsys.readouterr().err
    share = by_name(found[0].metrics)["anna  agreement"]
    assert (share.value, share.n) == (1.0, 3)
