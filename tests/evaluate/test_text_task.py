"""`stellar eval text`: rows read, answers scored by language and kind, empty answers counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stellar_local.config import SamplingOptions
from stellar_local.engine import Answer
from stellar_local.errors import MissingExtraError, StellarError
from stellar_local.evaluate.ordering import spread
from stellar_local.evaluate.results import Metric, read_log
from stellar_local.evaluate.text import answering
from stellar_local.evaluate.text.answering import FreeText
from stellar_local.evaluate.text.command import text
from stellar_local.evaluate.text.triples import Reference, read_references
from stellar_local.evaluate.text_scores import bleu, chrf, length_ratio, sentence_bleu, sentence_chrf

pytest.importorskip("sacrebleu")

ROWS: list[dict[str, Any]] = [
    {"instruction": "What is a parsec?", "input": "", "output": "About 3.26 light-years.", "category": "units"},
    {"instruction": "Name the largest planet.", "output": "It is the planet Jupiter.", "kind": "planets"},
    {"instruction": "什么是光年？", "input": "简短回答", "output": "光在真空中一年走过的距离。"},
    {"instruction": "Translate:", "input": "star", "output": "恒星", "language": "zh"},
]
SAID = ["About 3.26 light-years.", "", "光一年走过的距离。", "恒星"]


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def task(tmp_path: Path) -> FreeText:
    path = written(tmp_path / "data.jsonl", *ROWS)
    references, broken = read_references([path])
    assert not broken
    return FreeText([path], references, SamplingOptions(temperature=0))


def run(*arguments: object) -> Result:
    done = CliRunner().invoke(text, [*map(str, arguments)], standalone_mode=False)
    if isinstance(done.exception, StellarError):
        raise done.exception
    return done


def test_rows_say_their_language_and_kind_or_it_is_told_from_the_reference(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one.jsonl", *ROWS[:3]), tmp_path / "two.json"
    two.write_text(json.dumps(ROWS[3:], ensure_ascii=False), encoding="utf-8")
    references, _ = read_references([one, two])
    assert [(one.language, one.kind) for one in references] == [
        ("en", "units"),
        ("en", "planets"),
        ("zh", ""),
        ("zh", ""),
    ]
    assert references[2] == Reference("什么是光年？", "简短回答", "光在真空中一年走过的距离。", "zh", "")


def test_answers_are_scored_as_a_corpus_of_each_language(tmp_path: Path) -> None:
    measured = task(tmp_path)
    items = sorted(measured.items(), key=lambda item: item.key)
    records = [
        {
            "key": item.key,
            **measured.record(item, Answer(said, "length" if not said else "stop", usage=None, timing=None, seed=0)),  # type: ignore[arg-type]
        }
        for item, said in zip(items, SAID, strict=True)
    ]
    assert [one["why"] for one in records] == ["", "empty answer", "", ""]
    assert records[2]["question"] == "什么是光年？ 简短回答"
    assert records[2]["score"] == pytest.approx(sentence_chrf(SAID[2], ROWS[2]["output"]), abs=1e-3)
    assert records[2]["bleu"] == pytest.approx(sentence_bleu(SAID[2], ROWS[2]["output"], "zh"), abs=1e-3)
    metrics, notes = measured.summarise([*records, {"key": "x", "error": {"type": "odd", "message": "failed"}}])
    figures = {(one.language, one.name, one.group): one for one in metrics}
    for language, rows in (("en", (0, 1)), ("zh", (2, 3))):
        said, wanted = [SAID[row] for row in rows], [ROWS[row]["output"] for row in rows]
        whole, words = chrf(said, wanted), bleu(said, wanted, language)
        assert figures[language, "chrF", ""] == Metric(
            "chrF", whole.value, "", whole.low, whole.high, 2, "score", language=language
        )
        assert figures[language, "BLEU", ""].value == words.value
        assert (figures[language, "length of the references'", ""].value,) == length_ratio(said, wanted)[:1]
        assert f"{language} chrF: {whole.signature}" in notes
        assert f"{language} BLEU: {words.signature}" in notes
    assert figures["en", "chrF", "planets"].value == 0
    assert figures["en", "chrF", "units"].detail
    assert ("zh", "chrF", "") in figures
    assert not [one for one in metrics if one.language == "zh" and one.group]
    assert (figures["", "empty answers", ""].value, figures["", "answers cut at the most tokens", ""].value) == (1, 1)


@pytest.mark.parametrize("name", ["Chinese", "zh-CN", "ZH", "中文", " zh "])
def test_a_language_written_otherwise_gets_its_own_tokenizer(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "data.jsonl", {**ROWS[2], "language": name})
    (reference,), _ = read_references([path])
    assert reference.language == "zh"
    measured = FreeText([path], [reference], SamplingOptions())
    record = measured.record(measured.items()[0], Answer(f"\n{SAID[2]}\n ", "stop", None, None, 0))  # type: ignore[arg-type]
    assert record["answer"] == SAID[2]  # blanks around an answer are no part of it
    assert record["bleu"] == pytest.approx(sentence_bleu(SAID[2], ROWS[2]["output"], "zh"), abs=1e-3)
    assert record["bleu"] > 5


def test_another_language_keeps_its_own_figures(tmp_path: Path) -> None:
    path = written(tmp_path / "data.jsonl", {**ROWS[0], "language": "fr"}, {**ROWS[0], "language": " "})
    assert [one.language for one in read_references([path])[0]] == ["fr", "en"]


def test_very_many_broken_rows_are_told_of_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read_references([written(tmp_path / "data.jsonl", *[{}] * 23, ROWS[0])])
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 21
    assert "line 20: it lacks" in told[19]
    assert "3 more rows are left out" in told[20]


def test_languages_and_kinds_take_turns() -> None:
    rows = ["en a", "en a", "en b", "zh a", "en a", "zh a"]
    order = spread(rows, lambda row: row[:2], lambda row: row[3:])
    assert order == [(1, "en a"), (4, "zh a"), (3, "en b"), (6, "zh a"), (2, "en a"), (5, "en a")]
    assert spread([], str, str) == []


def test_the_command_scores_and_tells_broken_rows(spm_model: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "data.jsonl", *ROWS, {"instruction": "no output"}, {**ROWS[0], "output": ""})
    out = tmp_path / "out"
    done = run(spm_model, "--data", path, "--out", out, "--max-tokens", 4, "--gpu-layers", 0)
    assert done.exit_code == 1
    assert 'line 5: it lacks "output"' in done.stderr
    assert 'line 6: "output" is empty' in done.stderr
    assert "2 broken rows" in done.stderr
    assert "|tok:zh|" in done.stderr
    assert "|tok:13a|" in done.stderr
    assert "zh · chrF" in done.stdout
    header, records = read_log(out / "text--tiny-F32.jsonl")
    assert len(records) == 4
    assert header["data"][0]["file"] == "data.jsonl"
    again = run(spm_model, "--data", path, "--out", out, "--max-tokens", 4, "--gpu-layers", 0, "--json")
    assert "4 of 4 items were measured before" in again.stderr
    assert {one["name"] for one in json.loads(again.stdout)[0]["metrics"]} >= {"chrF", "BLEU", "empty answers"}


def test_without_sacrebleu_no_model_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingExtraError("eval", "sacrebleu", "scoring free text")

    monkeypatch.setattr(answering, "require_sacrebleu", missing)
    with pytest.raises(MissingExtraError):
        run(tmp_path / "no-model.gguf", "--data", written(tmp_path / "data.jsonl", *ROWS), "--out", tmp_path / "out")


def test_files_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(StellarError, match="no row that can be used"):
        read_references([written(tmp_path / "data.jsonl", *ROWS), tmp_path / "empty.jsonl"])
    with pytest.raises(StellarError, match="not found"):
        read_references([tmp_path / "none.json"])
