"""What a report says of differences: marks, pairs, which results stand side by side, which answers are shown."""

from __future__ import annotations

import hashlib
import random
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import report_cases as cases

from stellar_local.console import cells
from stellar_local.errors import UsageError
from stellar_local.evaluate.report.blocks import Example, Point, Points, Scale
from stellar_local.evaluate.report.charts import points
from stellar_local.evaluate.report.collected import Model, Run, collect
from stellar_local.evaluate.report.comparison import Line, compare, order_models
from stellar_local.evaluate.report.document import build
from stellar_local.evaluate.report.items import duels, examples, failures
from stellar_local.evaluate.report.markdown import markdown
from stellar_local.evaluate.report.wording import interval_text, nice_ticks, number
from stellar_local.evaluate.results import Metric, read_log
from stellar_local.texts import Texts

ENGLISH = Texts("en")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    for model in cases.MODELS:
        cases.astro_qa(folder, model)
        cases.likelihood(folder, model)
    return folder


def line(better: str, *spans: tuple[float, float, float] | None) -> Line:
    metrics = (None if one is None else Metric("m", one[0], low=one[1], high=one[2]) for one in spans)
    return Line("m", "", "", "share", better, tuple(metrics))


def test_marks_by_hand() -> None:
    low, middle, high = (0.2, 0.1, 0.3), (0.4, 0.29, 0.5), (0.8, 0.7, 0.9)
    assert line("higher", low, middle, high).marks == ("worse", "worse", "best")
    assert line("lower", low, middle, high).marks == ("", "", "worse")
    assert line("higher", low, (0.75, 0.65, 0.85), high).marks == ("worse", "", "")
    assert line("", low, high).marks == ("", "")
    assert line("higher", low, None).marks == ("", "")
    assert Line("m", "", "", "share", "higher", (Metric("m", 0.9), Metric("m", 0.1))).marks == ("", "")


def test_marks_never_claim_what_intervals_do_not_show() -> None:
    chance = random.Random(7)
    for _ in range(500):
        spans = [sorted(chance.random() for _ in range(3)) for _ in range(chance.randint(2, 5))]
        better = chance.choice(["higher", "lower"])
        marks = line(better, *((one[1], one[0], one[2]) for one in spans)).marks
        for index, mark in enumerate(marks):
            low, _, high = spans[index]
            others = [one for number, one in enumerate(spans) if number != index]
            above, below = all(one[2] < low for one in others), all(one[0] > high for one in others)
            assert (mark == "best") == (above if better == "higher" else below)
            if mark == "worse":
                assert any(one[0] > high if better == "higher" else one[2] < low for one in others)


def test_base_first_then_levels_by_bits(folder: Path) -> None:
    found = collect(folder)
    labels = [model.label for model in order_models(found).models]
    assert labels == [model.label for model in cases.MODELS]
    other = order_models(found, "stellarspeak-Q8_0").models
    assert other[0].label == "stellarspeak-Q8_0" and other[-1].label == "base-F16"
    with pytest.raises(UsageError, match="no model is labelled x") as caught:
        order_models(found, "x")
    assert "base-F16" in caught.value.hint


def test_each_family_is_compared_with_the_base_and_each_level_with_its_best(folder: Path) -> None:
    found = collect(folder)
    models = order_models(found)
    (runs, _) = (one.runs for one in compare(found, models))
    told = [(first.model.label, second.model.label) for first, second in models.pairs(runs)]
    best = "stellarspeak-F16"
    levels = ("stellarspeak-Q8_0", "stellarspeak-Q4_K_M", "stellarspeak-Q2_K")
    assert told == [("base-F16", best), *((best, one) for one in levels)]


def test_pairs_count_what_the_logs_say(folder: Path) -> None:
    runs = {run.model.label: run for run in collect(folder).runs if run.task == "astro-qa"}
    first, second = runs["stellarspeak-F16"], runs["stellarspeak-Q2_K"]
    logs = [
        {one["key"]: one for one in read_log(cases.log_path(folder, "astro-qa", run.model.label))[1]}
        for run in (first, second)
    ]
    both = [key for key in logs[0] if "right" in logs[0][key] and "right" in logs[1].get(key, {})]
    wins = sum(logs[1][key]["right"] and not logs[0][key]["right"] for key in both)
    losses = sum(logs[0][key]["right"] and not logs[1][key]["right"] for key in both)
    (duel,) = duels(first, second)
    assert (duel.wins, duel.losses, duel.same) == (wins, losses, len(both) - wins - losses)
    assert duel.difference == pytest.approx((wins - losses) / len(both))
    assert duel.low < duel.difference < duel.high < 0 and duel.p < 0.001


def test_a_lower_loss_is_better(folder: Path) -> None:
    runs = {run.model.label: run for run in collect(folder).runs if run.task == "likelihood"}
    (duel,) = duels(runs["base-F16"], runs["stellarspeak-F16"])
    assert duel.kind == "nats" and duel.difference < 0 and duel.wins > duel.losses


def asked_often(right: int, samples: int, likelihood: bool) -> Run:
    """A run of 40 questions of which the first ones are right in every sample, and by their options where rated."""
    records: dict[str, dict[str, object]] = {}
    for place in range(40):
        one = {"id": f"f:{place}", "right": place < right}
        records |= {f"f:{place}#{n}": one | {"mode": "generation"} for n in range(samples)}
        if likelihood:
            records[f"f:{place}#options"] = one | {"mode": "likelihood", "right": place < 20}
    model = Model(str(right))
    return Run("astro-qa", model, (), (), {}, (), "", {}, "", "", None, Path(), records)


@pytest.mark.parametrize(("samples", "likelihood"), [(1, False), (1, True), (5, True)])
def test_a_question_is_one_item_however_often_it_was_asked(samples: int, likelihood: bool) -> None:
    """Four changed questions of 40 are four: of any number of samples, and apart from what is rated by likelihood."""
    found = duels(asked_often(20, samples, likelihood), asked_often(24, samples, likelihood))
    assert [one.condition for one in found] == ["generation", "likelihood"][: 1 + likelihood]
    assert (found[0].wins, found[0].losses, found[0].same, found[0].p) == (4, 0, 36, 0.125)
    assert found[0].difference == pytest.approx(0.1)
    if likelihood:
        assert (found[1].same, found[1].difference, found[1].low, found[1].p) == (40, 0.0, None, 1.0)


def test_samples_count_by_their_mean_and_need_no_id() -> None:
    """2 of 3 against 1 of 3 is one won question, not two; parts of a text are no samples."""

    def run(values: dict[str, bool]) -> Run:
        records = {key: {"right": value, "nats": 1.0} for key, value in values.items()}
        return Run("t", Model("m"), (), (), {}, (), "", {}, "", "", None, Path(), records)

    first = run({"a#1": True, "a#2": False, "a#3": False, "b": True})
    second = run({"a#1": False, "a#2": True, "a#3": True, "b": False})
    (duel,) = duels(first, second)
    assert (duel.wins, duel.losses, duel.same) == (1, 1, 0)
    assert duel.difference == pytest.approx((1 / 3 - 1) / 2)
    named = {key: {"id": "one", "right": key != "y"} for key in ("x", "y", "z")}
    (duel,) = duels(replace(first, records=named), replace(first, records=named))
    assert duel.same == 1
    parts = {f"t:1#{n}": {"nats": 4.0 + n, "tokens": 2} for n in range(3)}
    (duel,) = duels(replace(first, records=parts), replace(first, records=parts))
    assert (duel.kind, duel.same) == ("nats", 3)


def test_each_system_line_is_compared_by_itself() -> None:
    def run(right: int) -> Run:
        records = {
            f"{n:04}/{way}": {"system_line": way, "right": n < right} for n in range(9) for way in ("with", "without")
        }
        return Run("identity", Model("m"), (), (), {}, (), "", {}, "", "", None, Path(), records)

    assert [(one.condition, one.wins, one.same) for one in duels(run(3), run(5))] == [
        ("with", 2, 7), ("without", 2, 7)
    ]  # fmt: skip


def test_failures_are_counted_by_type(folder: Path) -> None:
    runs = {run.model.label: run for run in collect(folder).runs if run.task == "astro-qa"}
    found = failures(runs["stellarspeak-Q2_K"])
    assert found is not None
    assert (found.items, found.failed, dict(found.types)) == (420, 2, {"context": 2})
    assert found.messages == ("the prompt is too long <b>",)


def test_other_data_or_settings_stand_apart(tmp_path: Path) -> None:
    metrics = [Metric("chrF", 20.0, kind="score", low=19.0, high=21.0, n=9)]
    for model, data, tokens in zip(cases.MODELS, ("a", "a", "b", "a", "a"), (9, 9, 9, 8, 9), strict=True):
        head = cases.header("text", model, settings={"sampling": {"max_tokens": tokens}})
        cases.write(tmp_path, head | {"data": [{"file": "d", "sha256": data * 64}]}, metrics, [])
    found = collect(tmp_path)
    parts = compare(found, order_models(found))
    assert [[run.model.label for run in part.runs] for part in parts] == [
        ["base-F16", "stellarspeak-F16", "stellarspeak-Q2_K"], ["stellarspeak-Q8_0"], ["stellarspeak-Q4_K_M"],
    ]  # fmt: skip
    assert parts[1].apart == ("sampling.max_tokens: 9", f"data d: {'b' * 12}…")
    assert parts[2].apart[0] == "sampling.max_tokens: 8"
    assert len({part.id for part in parts}) == 3


def test_base_and_tuned_stand_side_by_side_each_under_its_own_template(tmp_path: Path) -> None:
    """A base under --template, a tuned model under the one it brings, each level against its own reference."""
    for model, template, reference in zip(cases.MODELS, ("bayling 0123", ""), ("base", "tuned"), strict=False):
        settings = {"chunk": 512, "template": template, "reference": {"label": reference}}
        head = cases.header("likelihood", model, settings=settings)
        cases.write(tmp_path, head, [Metric("loss", 2.0, kind="nats", n=9)], [])
    found = collect(tmp_path)
    (comparison,) = compare(found, order_models(found))
    assert [run.model.label for run in comparison.runs] == ["base-F16", "stellarspeak-F16"]
    told = markdown(build(found, Texts("en"), "stellar eval report x"), Texts("en"))
    assert "under different templates" in told and "own reference" in told


def test_files_of_one_name_are_the_same_data(tmp_path: Path) -> None:
    for model, name in zip(cases.MODELS[:2], ("here.jsonl", "there.jsonl"), strict=True):
        cases.write(tmp_path, cases.header("text", model, data=[{"file": name, "sha256": "c" * 64}]), [], [])
    found = collect(tmp_path)
    assert len(compare(found, order_models(found))) == 1


def test_one_label_of_two_files_is_two_models(tmp_path: Path) -> None:
    for task, digest in (("text", "a"), ("identity", "b")):
        head = cases.header(task, cases.MODELS[0])
        head["model"]["sha256"] = digest * 64
        cases.write(tmp_path, head, [], [])
    models = order_models(collect(tmp_path))
    assert sorted(models.names.values()) == ["base-F16 (aaaaaaaa)", "base-F16 (bbbbbbbb)"]


def test_examples_follow_their_rule(folder: Path) -> None:
    found = collect(folder)
    models = order_models(found)
    part = next(one for one in compare(found, models) if one.task == "astro-qa")
    shown = examples(part, models, ENGLISH)
    logs = [run.records or {} for run in part.runs]
    keys = sorted(logs[0], key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    expected = []
    for language in ("en", "zh"):
        own = [key for key in keys if logs[0][key]["language"] == language]
        verdicts = {key: {log[key]["right"] for log in logs if "right" in log[key]} for key in own}
        for wanted, count in (({True, False}, 2), ({True}, 1), ({False}, 1)):
            expected += [key for key in own if verdicts[key] == wanted][:count]
    assert [one.title.split(" · ")[0] for one in shown] == expected
    assert all(_models_of(one) == sorted(model.label for model in cases.MODELS) for one in shown)


def _models_of(example: Example) -> list[str]:
    return sorted(label for answer in example.answers for label, _ in answer.models)


def test_numbers_as_people_read_them() -> None:
    assert number(0.4567, "share") == "45.7"
    assert number(-0.00001, "nats") == "0.0000"
    assert number(-0.0312, "nats") == "−0.0312"
    assert number(2345.6, "score") == "2,346"
    assert interval_text(-0.1, 0.2, "share") == "[−10.0, 20.0]"
    assert interval_text(0.1, 0.2, "share") == "10.0–20.0"


def test_ticks_hold_what_they_measure() -> None:
    chance = random.Random(3)
    for _ in range(300):
        low = chance.uniform(-1, 1) * 10 ** chance.randint(-4, 5)
        high = low + chance.random() * 10 ** chance.randint(-4, 5)
        ticks = nice_ticks(low, high)
        slack = 1e-6 * (ticks[-1] - ticks[0])
        assert 2 <= len(ticks) <= 8 and ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert nice_ticks(0.0, 0.0)[0] < nice_ticks(0.0, 0.0)[-1]


@pytest.mark.parametrize("width", [360, 560])
def test_names_of_points_do_not_overlap(width: int) -> None:
    scale = Scale("", 0.0, 1.0, ((0.0, "0"), (1.0, "1")))
    chance = random.Random(11)
    for _ in range(20):
        made = [(chance.random(), chance.random()) for _ in range(5)]
        own = tuple(Point(f"model-{number}-Q4_K_M", number, x, y, None, None, "") for number, (x, y) in enumerate(made))
        boxes = []
        for point in ET.fromstring(points(Points("", scale, scale, own))).findall("{*}svg"):
            x, y = float(point.get("x", "")[:-1]) / 100 * width, float(point.get("y", ""))
            name = point.find("{*}text")
            assert name is not None and name.text
            begin, middle = x + float(name.get("x", "")), y + float(name.get("y", "")) - 4
            length = 6.6 * cells(name.text)
            left = begin - length if name.get("text-anchor") == "end" else begin
            assert left >= -2 and left + length <= width + 2
            boxes.append((left, left + length, middle))
        for number_, one in enumerate(boxes):
            for other in boxes[number_ + 1 :]:
                assert one[1] <= other[0] or other[1] <= one[0] or abs(one[2] - other[2]) >= 13


def headlines(folder: Path, metrics: list[Metric]) -> list[str]:
    cases.write(folder, cases.header("text", cases.MODELS[0]), metrics, [])
    found = collect(folder)
    (part,) = compare(found, order_models(found))
    return [" ".join(filter(None, [one.name, one.group, one.language])) for one in part.headlines]


def test_headlines_are_of_the_most_items_there_are(tmp_path: Path) -> None:
    whole = [Metric("a", 0.5), Metric("a", 0.5, language="zh"), Metric("a", 0.5, "x"), Metric("b", 0.5, language="en")]
    counts = [Metric("c", 3.0, kind="count", better="lower"), Metric("d", None, kind="text", text="t")]
    assert headlines(tmp_path, [*counts, *whole]) == ["a", "b en"]
    grouped = [Metric("acc", 0.5, group, language=language) for language in ("zh", "en") for group in ("all", "part")]
    late = [Metric("x", 0.1), Metric("y", 0.1), Metric("DGscore, all weights 1", 9.0, "official", kind="score")]
    divergence = [Metric("KL divergence", 0.1, kind="nats", better="lower"), Metric("acc", 0.5, "z", detail=True)]
    assert headlines(tmp_path, [*grouped, *late, *divergence]) == [
        "KL divergence", "acc all zh", "acc all en", "DGscore, all weights 1 official",
    ]  # fmt: skip
