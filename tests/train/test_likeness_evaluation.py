"""Evaluation sets: every format's texts with their places, and what is none."""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from stellar_local.errors import StellarError, UsageError
from train.likeness.evaluation import files_of, texts_of


def texts(path: Path) -> list[tuple[str, str]]:
    return [one for name, file in files_of("e", path) for one in texts_of(name, file)]


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text(
        json.dumps([{"id": "q-1", "question_id": "x", "q": "什么？", "options": ["a", {"b": "c"}], "n": 3}, "d"])
    )
    assert texts(path) == [("e, item 1", "什么？"), ("e, item 1", "a"), ("e, item 1", "c"), ("e, item 2", "d")]
    path.write_text('\n{"q": \n"one"}\n')
    assert texts(path) == [("e, line 2", "one")]
    path.write_text('{"q": "one"}\n\n{"instruction": "Say", "input": "two"}\n')  # lines, whatever the name says
    assert texts(path) == [
        ("e, line 1", "one"),
        ("e, line 3", "Say\ntwo"),
        ("e, line 3", "Say"),
        ("e, line 3", "two"),
    ]


def test_tables_and_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes('题,"答\n案"\r\nx,y'.encode("gb18030"))
    (tmp_path / "b.tsv").write_text("\ufeffp\tq\n", encoding="utf-8")
    (tmp_path / "c.txt").write_bytes("one\r\n\r\ntw\u2028o\n".encode())
    (tmp_path / "~$a.xlsx").write_bytes(b"left by Excel")
    (tmp_path / ".c.txt").write_text("hidden")
    (tmp_path / "ignored.md").write_text("no", encoding="utf-8")
    assert texts(tmp_path) == [
        ("e/a.csv, line 2", "题"),
        ("e/a.csv, line 2", "答\n案"),
        ("e/a.csv, line 3", "x"),
        ("e/a.csv, line 3", "y"),
        ("e/b.tsv, line 1", "p"),
        ("e/b.tsv, line 1", "q"),
        ("e/c.txt, line 1", "one"),
        ("e/c.txt, line 3", "tw\u2028o"),
    ]


def test_workbooks(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "题"
    book.active.append(["Question", "Answer", 3])
    book.active.append(["什么是黑洞？", None, "x"])
    book.create_sheet("two").append(["y"])
    book.save(tmp_path / "e.xlsx")
    assert texts(tmp_path / "e.xlsx") == [
        ("e, 题, row 1", "Question"),
        ("e, 题, row 1", "Answer"),
        ("e, 题, row 2", "什么是黑洞？"),
        ("e, 题, row 2", "x"),
        ("e, two, row 1", "y"),
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("e.xlsx", b"PK\x03\x04 no zip", "is no workbook that can be read"),
        ("e.xlsx", b"", "is no workbook that can be read"),
        ("e.jsonl", b'{"a": 1}\n{', "not JSON: .*e.jsonl, line 2"),
        ("e.json", b"\xff\xfe", "not UTF-8"),
        ("e.csv", b"\xff\xff", "neither UTF-8 nor GB 18030"),
        ("e.json", b"[" * 100_000, "nested too deeply|not JSON"),
    ],
)
def test_what_cannot_be_read(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(StellarError, match=message):
        texts(tmp_path / name)


def test_deep_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text('[{"a":' * 150 + '"deep"' + "}]" * 150)
    assert texts(path) == [("e, item 1", "deep")]


def test_ids_are_no_content_but_what_stands_below_one_is(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('{"question-id": "x", "ID": "y", "index": {"0": "q"}, "idea": "i"}\n{"uuid": "z"}\n')
    assert texts(path) == [("e, line 1", "q"), ("e, line 1", "i")]


def test_of_what_is_judged_by_a_rule_only_the_question_counts(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    judged = {"instruction": "Who are you?", "input": "", "output": "I am X.", "kind": "k", "expect": {"name": ["X"]}}
    path.write_text(json.dumps(judged) + "\n" + json.dumps({**judged, "expect": "I am X."}) + "\n")
    assert texts(path) == [
        *[("e, line 1", "Who are you?"), ("e, line 1", "")],
        *[("e, line 2", text) for text in ("Who are you?", "", "I am X.", "k", "I am X.")],
    ]


def test_what_is_no_evaluation_set(tmp_path: Path) -> None:
    (tmp_path / "e.doc").write_text("x")
    with pytest.raises(UsageError, match="unknown format of an evaluation set"):
        texts(tmp_path / "e.doc")
    with pytest.raises(UsageError, match="no evaluation files in"):
        texts(tmp_path)
    with pytest.raises(UsageError, match="evaluation set not found"):
        texts(tmp_path / "none")


def test_a_table_is_read_as_an_import_reads_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('q;a\nWhat, then;"x"\n', encoding="utf-8")
    (tmp_path / "b.csv").write_bytes("问题\t答\n什么\t光\n".encode("utf-16"))
    assert [text for _, text in texts(tmp_path)] == ["q", "a", "What, then", "x", "问题", "答", "什么", "光"]
    (tmp_path / "b.csv").write_bytes(b"q,a\rb," + 200_000 * b"c" + b"\r")  # as old programs end lines
    assert [text[:1] for _, text in texts(tmp_path / "b.csv")] == ["q", "a", "b", "c"]
    (tmp_path / "b.csv").write_bytes(200_000 * b"q" + b";a\nb;c\n")
    assert [text[:1] for _, text in texts(tmp_path / "b.csv")] == ["q", "a", "b", "c"]
    (tmp_path / "a.csv").write_text('q,a\nb,"c"d\n"e,f\ng,h\n', encoding="utf-8")
    with pytest.raises(StellarError, match="begins in line 3 never ends"):
        texts(tmp_path / "a.csv")


def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes with a name")
    for name in ("e.csv", "e.xlsx", "e.json"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(StellarError, match="not a file"):
            texts(tmp_path / name)


def test_every_damage_of_a_workbook_is_a_sentence(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    whole, path = tmp_path / "whole.xlsx", tmp_path / "e.xlsx"
    book = openpyxl.Workbook()
    for number in range(50):
        book.active.append([f"question {number}"])
    book.save(whole)
    data, drawn, refused = whole.read_bytes(), random.Random(0), 0
    for _ in range(30):
        damaged = bytearray(data)
        for _ in range(10):
            damaged[drawn.randrange(4, len(data))] = drawn.randrange(256)
        path.write_bytes(damaged)
        with suppress(StellarError):
            texts(path)
            refused -= 1
        refused += 1
    assert refused


def test_a_set_without_text_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in (("e.csv", ""), ("e.json", '[1, {"id": "x"}]'), ("e.txt", " \n")):
        (tmp_path / name).write_text(data)
        texts(tmp_path / name)
        assert "the evaluation set e has no text" in capsys.readouterr().err
    (tmp_path / "e.txt").write_text("x")
    texts(tmp_path / "e.txt")
    assert capsys.readouterr().err == ""
