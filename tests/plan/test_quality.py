"""What levels and KV types lose: against what llama.cpp publishes elsewhere, and what convert writes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert.levels import LEVELS
from convert.manifest import Divergence as Measured
from convert.manifest import Figures, LevelFile, Result, manifest_of
from stellar_local.native.context import KV_TYPES
from stellar_local.plan import quality
from stellar_local.plan.quality import WORDS, Divergence, Loss, describe, divergences, loss
from stellar_local.texts import Texts, catalogue

# llama.cpp's tools/quantize/quantize.cpp, which says it a second time: "+… ppl @ Llama-3-8B".
QUANTIZE = {
    "Q4_0": 0.4685,
    "Q4_1": 0.4511,
    "Q5_0": 0.1316,
    "Q5_1": 0.1062,
    "Q2_K": 3.5199,
    "Q3_K_S": 1.6321,
    "Q3_K_M": 0.6569,
    "Q3_K_L": 0.5562,
    "Q4_K_S": 0.2689,
    "Q4_K_M": 0.1754,
    "Q5_K_S": 0.1049,
    "Q5_K_M": 0.0569,
    "Q6_K": 0.0217,
    "Q8_0": 0.0026,
}
# The perplexities of the scoreboard's rows with an importance matrix; the rows' ΔPPL is not looked at here.
WITH_MATRIX = {
    "Q4_K_M": 6.382937,
    "Q4_K_S": 6.409697,
    "IQ4_NL": 6.455593,
    "IQ4_XS": 6.459705,
    "Q3_K_L": 6.671223,
    "Q3_K_M": 6.734255,
    "IQ3_M": 6.898327,
    "IQ3_S": 6.965501,
    "IQ3_XS": 7.163043,
    "IQ3_XXS": 7.458436,
    "Q3_K_S": 7.602878,
    "IQ2_M": 8.600799,
    "Q2_K": 8.647825,
    "Q2_K_S": 9.323778,
    "IQ2_S": 9.650781,
    "IQ2_XS": 10.761424,
    "IQ2_XXS": 14.091782,
    "IQ1_M": 25.493722,
    "IQ1_S": 60.694593,
}
# "LLaMA 2 vs. LLaMA 3 Quantization comparison": mean PPL ratio of L3 8b, measured as such.
RATIOS = {"Q2_K": 1.564849, "Q4_K_M": 1.028160, "Q6_K": 1.003490, "Q8_0": 1.000425}


def percent(*arguments: Any, **options: Any) -> float:
    found = loss(*arguments, **options).percent
    assert found is not None
    return found


def test_every_level_is_known() -> None:
    assert set(quality._RISE) == set(LEVELS)
    assert set(quality._KV) == set(KV_TYPES)
    for name in LEVELS:
        for importance in (False, True):
            assert percent(name, importance=importance) >= 0


@pytest.mark.parametrize("level", QUANTIZE)
def test_without_a_matrix_it_is_what_llama_quantize_says(level: str) -> None:
    found = loss(level)
    assert found.measured
    assert percent(level) * 6.231634 / 100 == pytest.approx(QUANTIZE[level], abs=1.01e-4)  # cut, not rounded


@pytest.mark.parametrize("level", WITH_MATRIX)
def test_with_a_matrix_it_is_the_ratio_of_perplexities(level: str) -> None:
    found = loss(level, importance=True)
    assert found.measured
    assert percent(level, importance=True) == pytest.approx(100 * (WITH_MATRIX[level] / 6.231634 - 1), abs=2e-4)
    if LEVELS[level].needs_importance:
        assert loss(level) == found


@pytest.mark.parametrize("level", RATIOS)
def test_the_percent_is_of_the_ratio_that_was_measured(level: str) -> None:
    assert percent(level) == pytest.approx(100 * (RATIOS[level] - 1), abs=2e-4)


def test_what_nobody_published_is_estimated_and_says_so() -> None:
    for level in LEVELS.values():
        published = level.name in QUANTIZE or level.needs_importance or not level.quantized
        assert loss(level.name).measured is published, level.name
    for level, like in (("IQ4_XS", "Q4_K_S"), ("IQ4_NL", "Q4_K_S"), ("IQ3_M", "Q3_K_M"), ("IQ3_S", "Q3_K_M")):
        more = percent(like) / percent(like, importance=True)
        assert percent(level) == pytest.approx(percent(level, importance=True) * more)
    # So that nobody is told to take the smaller file for the better one.
    assert percent("IQ4_XS") > percent("Q4_K_S")
    assert percent("IQ4_XS", importance=True) > percent("Q4_K_S", importance=True)
    assert not loss("Q6_K", importance=True).measured


def test_kv_types_come_on_top() -> None:
    assert loss("F16", "f16") == Loss(0.0, True)
    assert percent("F16", "q8_0") == pytest.approx(100 * (6.234369 / 6.232196 - 1), abs=1e-4)
    assert loss("F16", "q8_0").measured
    assert percent("F16", "q4_0") == pytest.approx(100 * (7.9506 / 7.8551 - 1), abs=0.01)
    assert not loss("F16", "q4_0").measured
    for level in LEVELS:
        together = (1 + percent(level) / 100) * (1 + percent("F16", "q8_0") / 100)
        assert percent(level, "q8_0") == pytest.approx(100 * (together - 1))
        assert percent(level) < percent(level, "q8_0") < percent(level, "q4_0")


@pytest.mark.parametrize(("level", "kv"), [("Q9_K", "f16"), ("", "f16"), ("Q8_0", "q5_1"), ("TQ1_0", "q8_0")])
def test_what_is_not_known(level: str, kv: str) -> None:
    assert loss(level, kv) == Loss(None, False)
    assert loss(level, kv).word == "unknown"


def test_any_case() -> None:
    assert loss("q4_k_m") == loss("Q4_K_M") != loss("Q8_0")


@pytest.mark.parametrize(
    ("found", "word"),
    [(0.0, "none"), (0.0999, "none"), (0.1, "hardly_any"), (1.0, "little"), (4.999, "little"), (5.0, "some")]
    + [(15.0, "much"), (39.9, "much"), (40.0, "very_much"), (900.0, "very_much")],
)
def test_words(found: float, word: str) -> None:
    assert Loss(found, True).word == word


def test_the_words_that_people_know_the_levels_by() -> None:
    assert [loss(level).word for level in ("Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M", "IQ3_XXS", "Q2_K")] == list(WORDS)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_word_is_a_text(language: str) -> None:
    texts = Texts(language)
    sizes = [Loss(None, False), *(Loss(one, True) for one in (0.0, 0.5, 2.0, 8.0, 20.0, 60.0))]
    said = [describe(one, texts) for one in sizes]
    assert len(set(said)) == len(WORDS) + 1
    assert [f"plan.loss_{one.word}" for one in sizes[1:]] == [f"plan.loss_{word}" for word in WORDS]
    assert {key for key in catalogue() if key.startswith("plan.loss_")} == {f"plan.loss_{one.word}" for one in sizes}


def manifest(folder: Path, **found: Measured) -> dict[str, Any]:
    """A folder's manifest as convert writes it, with the divergence of some levels; also as JSON values."""
    levels = [LevelFile(name, f"m-{name}.gguf", 100, 8.5, "ab" * 32) for name in ("F16", "Q8_0", "Q4_K_M")]
    made = manifest_of(Result("m", "b", 1, 4096, [], None, levels)).measured(found)
    (folder / "manifest.json").write_text(made.text(), encoding="utf-8")
    data: dict[str, Any] = json.loads(made.text())
    return data


FIGURES = Measured("F16", Figures(400, 0.0123456, 0.96), {"zh": Figures(200, 0.0047, 0.97)})


def test_a_folder_says_what_convert_measured(tmp_path: Path) -> None:
    manifest(tmp_path, Q4_K_M=FIGURES, Q8_0=replace(FIGURES, overall=Figures(400, 0.0, 1.0)))
    found = divergences(tmp_path)
    assert found == {"Q8_0": Divergence("F16", 400, 0.0, 1.0), "Q4_K_M": Divergence("F16", 400, 0.0123456, 0.96)}
    assert percent("Q4_K_M", measured=found) == pytest.approx(100 * (math.exp(0.0123456) - 1))
    assert loss("q4_k_m", measured=found).measured
    assert loss("Q8_0", measured=found) == Loss(0.0, True)
    assert loss("Q6_K", measured=found) == loss("Q6_K")
    assert not loss("Q4_K_M", "q4_0", measured=found).measured


def test_a_reference_that_loses_too() -> None:
    found = {"Q4_K_M": Divergence("Q6_K", 400, 0.01, 0.97)}
    expected = (1 + percent("Q6_K") / 100) * math.exp(0.01)
    assert percent("Q4_K_M", measured=found) == pytest.approx(100 * (expected - 1))
    assert loss("Q4_K_M", measured={"Q4_K_M": Divergence("?", 400, 0.01, 0.97)}) == Loss(None, False)


def test_the_rise_is_that_of_perplexity_on_the_references_text() -> None:
    """By the definition of perplexity, on text that comes as often as the reference expects."""
    p, q = [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    own, other = (math.exp(-sum(a * math.log(b) for a, b in zip(p, model, strict=True))) for model in (p, q))
    assert Divergence("F16", 1, kl, 1.0).percent == pytest.approx(100 * (other / own - 1))


def test_a_folder_that_says_nothing(tmp_path: Path) -> None:
    assert divergences(tmp_path) == {}
    manifest(tmp_path)
    assert divergences(tmp_path) == {}
    assert divergences(tmp_path / "none") == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"levels": 3}', "\xff", "[" * 100_000, '{"levels": {"Q8_0": 1}}']
)
def test_a_damaged_manifest_is_left_out(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    assert divergences(tmp_path) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [("kl", None), ("kl", -0.1), ("kl", 1e300), ("kl", "NaN"), ("same_top", 2), ("tokens", 0), ("tokens", [1])],
)
def test_figures_that_cannot_be_are_left_out(key: str, value: object, tmp_path: Path) -> None:
    data = manifest(tmp_path, Q4_K_M=FIGURES, Q8_0=FIGURES)
    data["levels"]["Q8_0"]["divergence"]["overall"][key] = value
    (tmp_path / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    assert set(divergences(tmp_path)) == {"Q4_K_M"}
