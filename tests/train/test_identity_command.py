"""`stellar data identity`: its files, its words, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import Stellar

from stellar_local.errors import StellarError, UsageError
from train import corpus
from train.cli import data

ASKED = ("--name", "StellarSpeak", "--name-zh", "星语者", "--developer", "星语调校局", "--base", "BayLing")


def run(*arguments: object) -> str:
    """The command's stderr; its errors are raised."""
    done = CliRunner().invoke(data, ["identity", *map(str, arguments)], standalone_mode=False)
    if done.exception:
        raise done.exception
    assert done.stdout == ""
    return done.stderr


def test_files(tmp_path: Path) -> None:
    out, questions = tmp_path / "new" / "identity.jsonl", tmp_path / "eval" / "questions.jsonl"
    said = run(*ASKED, "--topic", "astronomy/天文学", "--out", out, "--held-out", questions)
    rows = corpus.read(out)
    assert f"{len(rows)} rows" in said
    lines = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    assert f"{len(lines)} questions" in said
    assert len(lines) >= 100
    for line in lines:
        assert set(line) == {"instruction", "input", "output", "language", "kind", "expect"}
        assert {"name", "developer", "forbid"} <= set(line["expect"])
        assert "百聆" in line["expect"]["forbid"], "known of BayLing without --base-zh"
    assert "星语者" in out.read_text(encoding="utf-8"), "Chinese is written as it is"
    assert len(corpus.read(questions)) == len(lines), "a held-out file is a file of triples too"
    assert any("an astronomy assistant" in row.output for row in rows)
    assert any("天文学智能助手" in row.output for row in rows)


def test_the_rows_do_not_depend_on_whether_questions_are_written(tmp_path: Path) -> None:
    run(*ASKED, "--out", tmp_path / "a.jsonl")
    run(*ASKED, "--out", tmp_path / "b.jsonl", "--held-out", tmp_path / "q.jsonl")
    run(*ASKED, "--out", tmp_path / "c.jsonl", "--seed", 1)
    first, second, third = (tmp_path.joinpath(f"{name}.jsonl").read_bytes() for name in "abc")
    assert first == second != third


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--name", "BayLing"], "is the base's too"),
        (["--topic", "a\nb/c"], "--topic holds a line break"),
        (["--held-out", "OUT"], "are the same file"),
    ],
)
def test_refused(more: list[str], message: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(UsageError, match=message):
        run(*ASKED, "--out", out, *[str(out) if text == "OUT" else text for text in more])
    assert not out.exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StellarError, match="cannot write"):
        run(*ASKED, "--out", tmp_path / "file" / "rows.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StellarError, match="cannot write"):
        run(*ASKED, "--out", tmp_path / "folder")


def test_neither_file_where_one_cannot_be_written(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    with pytest.raises(StellarError, match="is a directory"):
        run(*ASKED, "--out", tmp_path, "--held-out", questions)
    assert list(tmp_path.iterdir()) == []


def test_in_a_process_of_its_own_it_imports_nothing_heavy(stellar: Stellar, tmp_path: Path) -> None:
    stellar.argv = [
        *(sys.executable, "-c"),
        "import sys; from stellar_local.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'llama_cpp'} & set(sys.modules); "
        "print('heavy', sorted(heavy), file=sys.stderr); raise SystemExit(code)",
    ]
    done = stellar("data", "identity", *ASKED, "--out", str(tmp_path / "rows.jsonl"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "heavy []" in done.stderr
    assert stellar("data", "identity", "--name", "x").returncode == 2
