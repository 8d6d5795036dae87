"""CSV, TSV and workbooks: encodings, quoted fields, columns found or named, and files that are none of these."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from stellar_local.errors import MissingExtraError, StellarError, UsageError
from train.corpus import Triple, read
from train.importing import text_table
from train.importing.choices import Choices, Names
from train.importing.job import run
from train.importing.report import Part

ROWS = [Triple("什么是食变星？", "", "两颗星互相掩食的双星。"), Triple("什么是“黄道”？", "", "太阳的\n视路径。")]
TEXT = '问题,回答\n什么是食变星？,两颗星互相掩食的双星。\n什么是“黄道”？,"太阳的\n视路径。"\n'


def imported(path: Path, data: bytes | str, **choices: Any) -> tuple[list[Triple], Part]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    out = path.parent / "out.jsonl"
    (part,) = run([path], out, Choices(**choices)).parts
    return read(out), part


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "gbk", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_that_excel_writes(encoding: str, newline: str, tmp_path: Path) -> None:
    got, part = imported(tmp_path / "a.csv", TEXT.replace("\n", newline).encode(encoding))
    assert [Triple(row.instruction, row.input, row.output.replace("\r\n", "\n")) for row in got] == ROWS
    assert part.remarks == (
        [] if encoding.startswith("utf-8") else [f"read as {encoding.upper().replace('GBK', 'GB18030')}"]
    )


@pytest.mark.parametrize("text", ["question,answer\nnaïve,yes\n", "question,answer\nWho was Poincaré?,He\n"])
def test_western_text_is_not_taken_for_chinese(text: str, tmp_path: Path) -> None:
    with pytest.raises(StellarError, match="neither UTF-8 nor GB 18030"):
        imported(tmp_path / "a.csv", text.encode("latin-1"))


@pytest.mark.parametrize(("name", "sign"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")])
def test_delimiters(name: str, sign: str, tmp_path: Path) -> None:
    got, _ = imported(
        tmp_path / name,
        f'ID{sign}Question{sign}Answer\n1{sign}"a{sign} ""b"""{sign}c, d; e\n'.replace("c, d; e", "cde"),
    )
    assert got == [Triple(f'a{sign} "b"', "", "cde")]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("instruction,input,output", (0, 1, 2)),
        ("Answer,Context,Question", (2, 1, 0)),
        ("答案,背景,问题", (2, 1, 0)),
        ("completion,x,prompt", (2, None, 0)),
        ("output,question,instruction", (2, None, 0)),  # Alpaca's own names win
    ],
)
def test_columns_are_found(header: str, columns: tuple[int, int | None, int], tmp_path: Path) -> None:
    cells = ["一", "二", "三"]
    got, _ = imported(tmp_path / "a.csv", f"{header}\n{','.join(cells)}\n")
    question, given, answer = columns
    assert got == [Triple(cells[question], "" if given is None else cells[given], cells[answer])]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("question,query,answer", "more than one column may hold the instruction: question, query"),
        ("title,answer", "no column for the instruction in: title, answer"),
        ("question,text", "no column for the output in: question, text"),
    ],
)
def test_columns_that_are_not_guessed(header: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        imported(tmp_path / "a.csv", f"{header}\n1,2,3\n")
    assert message in caught.value.message
    assert "-column" in caught.value.hint
    assert str(tmp_path / "a.csv") in caught.value.message


def test_columns_that_are_named(tmp_path: Path) -> None:
    text = "标题,question,正文\na,b,c\n"
    got, _ = imported(tmp_path / "a.csv", text, names=Names("标题", "question", "正文"))
    assert got == [Triple("a", "b", "c")]
    with pytest.raises(UsageError, match="--input-column x is none of: 标题, question, 正文"):
        imported(tmp_path / "b.csv", text, names=Names(input="x"))
    with pytest.raises(UsageError, match="name the same column"):
        imported(tmp_path / "c.csv", text, names=Names("标题", "", "标题"))


def test_broken_rows_by_their_lines(tmp_path: Path) -> None:
    text = 'question,answer\n"two\nlines",x\n\nshort\nlong,x,y\n,x\nq,\nq,"x"y\nlast,row\n"never closed,z\nq,x\n'
    got, part = imported(tmp_path / "a.csv", text)
    assert got == [Triple("two\nlines", "", "x"), Triple("last", "", "row")]
    assert [(line, why.split(" (")[0].split(":")[0]) for line, why, _ in part.left_out] == [
        (5, "fewer fields than the header has"),
        (6, "more fields than the header has"),
        (7, "no instruction"),
        (8, "no output"),
        (9, "cannot be read"),
        (11, "a quoted field never ends"),
    ]


def test_a_csv_of_a_question_sheet_is_one(tmp_path: Path) -> None:
    text = "Question,A,B,Answer\nWhich is a planet?,Mars,Sirius,A\n"
    got, part = imported(tmp_path / "a.csv", text)
    assert part.format == "Astro-QA choice"
    assert "A. Mars\nB. Sirius" in got[0].instruction + got[0].input
    got, part = imported(tmp_path / "b.csv", text, format="csv")
    assert got == [Triple("Which is a planet?", "", "A")]
    with pytest.raises(UsageError, match="not those of an Astro-QA sheet: title, text"):
        imported(tmp_path / "c.csv", "title,text\na,b\n", format="astro-qa")


# --- workbooks ---


def saved(book: openpyxl.Workbook) -> bytes:
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def table(*rows: list[Any]) -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    return book


def test_cells_as_excel_shows_them(tmp_path: Path) -> None:
    book = table(
        ["question", "answer"],
        ["Share?", 0.96],
        ["Sum?", 0.1 + 0.2],
        ["x_x000D_y", " \ue006z "],
        ["True?", True],
        ["Lost?", "#N/A"],
    )
    book.active["B2"].number_format = "0%"
    book.active["B9"], book.active["A9"] = "far below", "Gap?"
    got, part = imported(tmp_path / "a.xlsx", saved(book), format="csv")
    assert [row.output for row in got] == ["96%", "0.3", "z", "TRUE", "far below"]
    assert got[2].instruction == "x\ny"
    assert part.left_out == [(6, "no output", 1)]
    assert part.unit == "row"


def test_several_sheets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = table(["notes"], ["by hand"])
    for name, answer in (("one", "对"), ("两", "错")):
        sheet = book.create_sheet(name)
        sheet.append(["Question", "Answer", "Parse"])
        sheet.append([f"{name}是对的", answer, "略"])
    book.create_sheet("empty")
    path = tmp_path / "a.xlsx"
    path.write_bytes(saved(book))
    report = run([path], tmp_path / "out.jsonl", Choices())
    assert [(part.sheet, part.triples) for part in report.parts] == [("one", 1), ("两", 1)]
    assert "warning: a sheet of" in capsys.readouterr().err


def test_a_sheet_that_states_a_wrong_size(tmp_path: Path) -> None:
    good, small = io.BytesIO(saved(table(["question", "answer"], ["Q?", "A."]))), io.BytesIO()
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(small, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'ref="A1:B2"', b'ref="A1"'))
    got, _ = imported(tmp_path / "a.xlsx", small.getvalue())
    assert got == [Triple("Q?", "", "A.")]


def _damaged() -> bytes:
    """A workbook whose sheet is cut in the middle of its XML."""
    good, cut = io.BytesIO(saved(table(["question", "answer"], ["Q?", "A."]))), io.BytesIO()
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(cut, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[: len(data) // 2] if name.endswith("sheet1.xml") else data)
    return cut.getvalue()


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"question,answer\n", "no .xlsx workbook"),
        (b"PK\x03\x04 and then nothing of the kind", "the workbook is damaged"),
        (saved(table(["question", "answer"], ["Q?", "A."]))[:-400], "the workbook is damaged"),
        (_damaged(), "the workbook is damaged"),
        (OLE + bytes(504) + "Workbook".encode("utf-16-le"), "in the old .xls format"),
        (OLE + bytes(504) + "EncryptedPackage".encode("utf-16-le"), "protected with a password"),
        (saved(openpyxl.Workbook()), "the workbook is empty"),
        (saved(table(["title", "text"], ["a", "b"])), "no column for the instruction"),
    ],
)
def test_what_is_no_readable_workbook(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    with pytest.raises(StellarError) as caught:
        imported(path, data)
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert not (tmp_path / "out.jsonl").exists()


def test_old_workbooks_are_named_by_their_ending_too(tmp_path: Path) -> None:
    with pytest.raises(StellarError, match="old .xls format"):
        imported(tmp_path / "a.xls", OLE + bytes(504))


def test_without_openpyxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(MissingExtraError, match="needs the package openpyxl") as caught:
        run([path], tmp_path / "out.jsonl", Choices())
    assert "stellar-local[train]" in caught.value.hint


def test_an_empty_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n\n,,\n")
    with pytest.raises(StellarError, match="the table is empty"):
        text_table.read(path)
