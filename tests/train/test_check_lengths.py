"""Lengths against the tokenizer's own library and NumPy's percentiles; the cutoff, the end token; the picture."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.errors import StellarError, UsageError
from stellar_local.prompts import load_template
from train import corpus
from train.checking import findings
from train.checking.histogram import draw
from train.checking.lengths import Lengths, Ruler, summary
from train.checking.preview import parts
from train.checking.survey import Survey, survey
from train.corpus import Triple
from train.tokenizer import load_tokenizer

ROWS = [
    Triple("What is a parsec?", "", "A parsec is about 3.26 light years."),
    Triple("太阳是什么？", "", "太阳是一颗恒星。"),
    Triple("Translate.", "月球绕着地球转", "The Moon orbits the Earth. " * 4),
    Triple("Repeat " + "star " * 30, "", "No."),
]


def sentencepiece_ids(base: Path, text: str) -> list[int]:
    import sentencepiece

    return list(sentencepiece.SentencePieceProcessor(model_file=str(base / "tokenizer.model")).encode(text))


def looked_at(tmp_path: Path, ruler: Ruler, rows: list[Triple] = ROWS, show: int = 0) -> Survey:
    path = tmp_path / "rows.json"
    corpus.write(rows, path)
    return survey([path], ruler, None, show)


def test_tokens_are_the_librarys(spm_base: Path) -> None:
    template = load_template("bayling")
    ruler = Ruler(template, load_tokenizer(spm_base), 512)
    for row in ROWS:
        length = ruler.measure(row)
        prompt = template.prompt(row.instruction, row.input)
        assert length.prompt == 1 + len(sentencepiece_ids(spm_base, prompt))
        assert length.total == 2 + len(sentencepiece_ids(spm_base, prompt + row.output))  # BOS, EOS
        assert length.ends


def test_the_cutoff(spm_base: Path, tmp_path: Path) -> None:
    """Counted again here from each row's own length."""
    template, tokenizer = load_template("bayling"), load_tokenizer(spm_base)
    sizes = [(length.prompt, length.answer) for length in map(Ruler(template, tokenizer, 512).measure, ROWS)]
    for cutoff in sorted({size + more for pair in sizes for size in (pair[0], sum(pair)) for more in (0, 1)}):
        found = looked_at(tmp_path, Ruler(template, tokenizer, cutoff))
        groups = list(found.sources[0].languages.values())
        kept = sum(prompt + answer <= cutoff for prompt, answer in sizes)
        lost = sum(max(0, answer - max(0, cutoff - prompt)) for prompt, answer in sizes)
        bare = sum(prompt >= cutoff for prompt, _ in sizes)
        assert sum(group.over for group in groups) == len(ROWS) - kept
        assert sum(group.ended for group in groups) == kept
        assert sum(group.cut for group in groups) == lost
        assert sum(group.bare for group in groups) == bare == len(found.findings.by_kind.get(findings.BARE, []))
        assert len(found.findings.by_kind.get(findings.OVER, [])) == len(ROWS) - kept - bare


def bare_template(tmp_path: Path) -> Path:
    """A template in which no special token ends an answer."""
    path = tmp_path / "bare.json"
    source = {"prompt_input": "{instruction} {input}\n", "prompt_no_input": "{instruction}\n", "response_split": "\n"}
    path.write_text(json.dumps({**source, "user": {"suffix": "\n"}, "assistant": {"suffix": "\n"}}), encoding="utf-8")
    return path


def test_an_end_that_is_not_learned_is_found(spm_base: Path, tmp_path: Path) -> None:
    ruler = Ruler(load_template(str(bare_template(tmp_path))), load_tokenizer(spm_base), 512)
    found = looked_at(tmp_path, ruler)
    assert len(found.findings.by_kind[findings.ENDLESS]) == len(ROWS)
    assert sum(group.ended for group in found.sources[0].languages.values()) == 0


def test_the_end_of_another_template(bpe_base: Path) -> None:
    assert all(Ruler(load_template("bayling-llama-3"), load_tokenizer(bpe_base), 512).measure(row).ends for row in ROWS)


def test_a_template_of_another_model(spm_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which this model's vocabulary lacks"):
        looked_at(tmp_path, Ruler(load_template("bayling-llama-3"), load_tokenizer(spm_base), 512))


def test_characters_without_a_base(tmp_path: Path) -> None:
    found = looked_at(tmp_path, Ruler(load_template("bayling"), None, 5))
    chinese = found.sources[0].languages["zh"]
    assert (list(chinese.prompts), list(chinese.answers)) == ([6], [8])
    assert not found.findings.by_kind  # nothing can be held against a cutoff in tokens


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=300))
def test_summary_is_numpys(values: list[int]) -> None:
    found = summary(values)
    assert (found["min"], found["max"], found["median"]) == (min(values), max(values), np.median(values))
    assert found["mean"] == pytest.approx(np.mean(values), abs=0.06)
    for name, share in (("p90", 0.9), ("p99", 0.99)):
        assert found[name] == np.quantile(values, share, method="inverted_cdf")


@pytest.mark.parametrize(("base", "template"), [("spm_base", "bayling"), ("bpe_base", "bayling-llama-3")])
def test_the_marked_part_is_what_is_learned(base: str, template: str, request: pytest.FixtureRequest) -> None:
    """Tokenized apart, the two parts of a preview are as long as the sample's."""
    folder = request.getfixturevalue(base)
    tokenizer = load_tokenizer(folder)
    ruler = Ruler(load_template(template), tokenizer, 512)
    end = "</s>" if base == "spm_base" else "<|eot_id|>"
    for row in ROWS:
        prompt, learned = parts(row, ruler)
        assert learned == row.output + end
        assert row.instruction in prompt and row.input in prompt and row.output not in prompt
        if base == "bpe_base":
            from tokenizers import Tokenizer

            library = Tokenizer.from_file(str(folder / "tokenizer.json"))  # here special tokens' texts are tokens
            assert len(library.encode(learned, add_special_tokens=False).ids) == ruler.measure(row).answer


def test_samples_are_the_same_each_time_and_from_everywhere(tmp_path: Path) -> None:
    rows = [Triple(f"question {n}", "", f"answer {n}") for n in range(200)]
    ruler = Ruler(load_template("bayling"), None, 512)
    first, again = looked_at(tmp_path, ruler, rows, 20).samples, looked_at(tmp_path, ruler, rows, 20).samples
    numbers = [rows.index(sample.row) for sample in first]
    assert first == again
    assert len(set(numbers)) == 20 and min(numbers) < 60 and max(numbers) > 140
    assert len(looked_at(tmp_path, ruler, rows[:3], 20).samples) == 3


def test_the_picture(tmp_path: Path) -> None:
    """Every series' colour is in it, and no character that the font lacks."""
    import matplotlib.image
    from matplotlib.colors import to_rgb

    path = tmp_path / "lengths.png"
    lengths = [("星语.jsonl", [10, 20, 20, 400]), ("_cost $x$ and $y$.jsonl", [500] * 900), ("empty", [])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a missing glyph
        draw(path, lengths, "tokens", 512)
    image = matplotlib.image.imread(path)
    assert image.shape[:2] == (700, 1200)
    for colour in ("C0", "C1", "black"):
        distance = np.abs(image[..., :3] - np.array(to_rgb(colour))).max(axis=-1)
        assert (distance < 0.02).sum() > 50, colour
    assert [file.name for file in tmp_path.iterdir()] == ["lengths.png"]


def test_pictures_of_nothing_and_of_many(tmp_path: Path) -> None:
    draw(tmp_path / "none.png", [("a", [])], "tokens", None)
    draw(tmp_path / "many.png", [(f"file-{n}.jsonl", [n, n + 1]) for n in range(40)], "tokens", 8)
    assert (tmp_path / "none.png").stat().st_size and (tmp_path / "many.png").stat().st_size
    with pytest.raises(StellarError, match="cannot write"):
        draw(tmp_path / "no" / "where.png", [("a", [1])], "tokens", None)


def test_lengths_of_rows_that_only_count() -> None:
    lengths = Lengths()
    ruler = Ruler(load_template("bayling"), None, 512)
    for row in ROWS:
        lengths.add(ruler.measure(row), None)
    assert (lengths.over, lengths.cut, lengths.bare, lengths.ended) == (0, 0, 0, 0)
    assert lengths.totals() == [len(row.instruction + row.input + row.output) for row in ROWS]
