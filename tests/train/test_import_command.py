"""`stellar data import` from outside: folders, where it writes, what it says, and that nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import openpyxl
import pytest
from conftest import Stellar

from stellar_local.cli import main
from train.corpus import read

ROW = {"instruction": "What is a nova?", "input": "", "output": "A star that flares up."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of each sort, some below others, one hidden and one that Excel left."""
    made = tmp_path / "data"
    (made / "zh").mkdir(parents=True)
    (made / "b.jsonl").write_text(json.dumps(ROW) + "\n" + '{"instruction": "x"}\n')
    (made / "a.csv").write_text("question,answer\nq,a\n")
    book = openpyxl.Workbook()
    book.active.append(["Question", "Answer", "Parse"])
    book.active.append(["月球绕地球转。", "对", "略"])
    book.save(made / "zh" / "judgment.xlsx")
    (made / "zh" / "~$judgment.xlsx").write_text("lock")
    (made / ".hidden.jsonl").write_text("{")
    (made / "README.md").write_text("# Data")
    return made


def test_a_folder_and_its_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "new" / "out.jsonl"
    assert main(["data", "import", str(folder), str(folder / "a.csv"), "--out", str(out), "--json"]) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert [Path(part["path"]).name for part in told["files"]] == ["a.csv", "b.jsonl", "judgment.xlsx"]
    assert (told["rows"], told["triples"], told["left_out"], told["out"]) == (4, 3, 1, str(out))
    assert told["files"][1]["left_out"] == [
        {"line": 2, "reason": "no column for the output in: instruction", "rows": 1}
    ]
    assert told["files"][2]["notes"] == {"no explanation given": 1}
    assert "b.jsonl (Alpaca): 2 rows → 1 triples" in shown.err
    assert "1 left out: no column for the output in: instruction (line 2)" in shown.err
    assert f"{out}: 3 triples; 1 rows left out" in shown.err
    assert len(read(out)) == 3
    assert list(out.parent.iterdir()) == [out]


def test_lists_and_lines_hold_the_same(folder: Path) -> None:
    files = [folder.parent / name for name in ("x.json", "x.jsonl", "again.json")]
    for out in files:
        assert main(["data", "import", str(folder), "--out", str(out), "--phrasings", "3"]) == 0
    assert read(files[0]) == read(files[1])
    assert files[0].read_bytes() == files[2].read_bytes()
    assert json.loads(files[0].read_text(encoding="utf-8"))[1] == ROW
    assert [json.loads(line) for line in files[1].read_text(encoding="utf-8").splitlines()][1] == ROW


def test_strict_writes_nothing_and_tells_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out.jsonl"
    out.write_text("before")
    assert main(["data", "import", str(folder), "--out", str(out), "--strict", "--json"]) == 1
    shown = capsys.readouterr()
    assert "b.jsonl, line 2: no column for the output" in shown.err
    assert json.loads(shown.out)["out"] is None
    assert json.loads(shown.out)["left_out"] == 1
    assert out.read_text() == "before"
    assert main(["data", "import", str(folder / "a.csv"), "--out", str(out), "--strict"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data/b.jsonl", "--out", "data/b.jsonl"], "is one of the files to import"),
        (["data/b.jsonl", "--out", "link.jsonl"], "is one of the files to import"),
        (["data", "--out", "data/zh/out.jsonl"], "lies in data, which is imported"),
        (["data/README.md", "--out", "o.jsonl"], "this cannot be a file to import, by its ending: data/README.md"),
        (["data/a.csv", "--out", "o.jsonl", "--format", "alpaca"], "this cannot be of the format alpaca"),
        (["nowhere.json", "--out", "o.jsonl"], "not found: nowhere.json"),
        (["empty", "--out", "o.jsonl"], "nothing to import below empty"),
        (["data", "--out", "data"], "cannot write data: is a directory"),
        (["data/b.jsonl", "--out", "empty"], "is a directory"),
        (["none.jsonl", "--out", "o.jsonl"], "there is no triple in these files: none.jsonl, line 1: no output"),
        (["data", "--out", "o.jsonl", "--phrasings", "9"], "1<=x<=5"),
    ],
)
def test_what_is_refused(
    arguments: list[str],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder.parent)
    Path("link.jsonl").symlink_to("data/b.jsonl")
    Path("empty").mkdir()
    Path("none.jsonl").write_text('{"instruction": "a", "output": ""}')
    before = sorted(folder.parent.rglob("*"))
    assert main(["data", "import", *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert "hint:" in error
    assert sorted(folder.parent.rglob("*")) == before


def test_a_damaged_file_among_others_loses_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "zz.xlsx").write_bytes(b"PK\x03\x04")
    out = folder.parent / "out.jsonl"
    out.write_text("before")
    assert main(["data", "import", str(folder), "--out", str(out)]) == 1
    assert f"the workbook is damaged: {folder / 'zz.xlsx'}" in capsys.readouterr().err
    assert out.read_text() == "before"
    assert sorted(folder.parent.iterdir()) == [folder, out]


def test_names_from_files_cannot_pass_for_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps({"x\x1b[2J\nstellar: error: y": 1}) + "\n")
    assert main(["data", "import", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "o.jsonl")]) == 0
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert "\nstellar: error" not in error


def test_light(stellar: Stellar, folder: Path) -> None:
    """In a fresh process, by asking Python itself which modules it loaded."""
    for arguments, heavy in (
        (["data", "import", "--help"], {"torch", "transformers", "peft", "openpyxl", "numpy", "rich"}),
        (["data", "import", str(folder), "--out", "o.jsonl"], {"torch", "transformers", "peft"}),
    ):
        loaded = stellar.loading(*arguments)
        assert "train" in loaded
        assert not loaded & heavy


def test_an_output_that_is_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW) + "\n")
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    assert main(["data", "import", str(tmp_path / "a.jsonl"), "--out", str(loop)]) == 0
    assert [row.output for row in read(loop)] == [ROW["output"]]
