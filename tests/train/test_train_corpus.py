"""Triples: formats, broken rows named by line, and what the shipped corpus holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.errors import StellarError, UsageError
from train import corpus
from train.corpus import Triple, read, shipped

ROW = '{"instruction": "a", "input": "", "output": "b"}'
HAN = range(0x4E00, 0xA000)


def han(text: str) -> bool:
    return any(ord(char) in HAN for char in text)


@pytest.mark.parametrize(
    "text",
    [
        f"{ROW}\n{ROW}\n",
        f"{ROW}\r\n\r\n{ROW}",
        f"\ufeff{ROW}\n{ROW}\n",
        f"[{ROW}, {ROW}]",
        f"\ufeff[\r\n{ROW},\r\n{ROW}\r\n]\r\n",
        json.dumps(
            [{"instruction": "a", "output": "b", "id": 7}, {"instruction": "a", "input": None, "output": "b"}], indent=2
        ),
    ],
)
def test_formats(text: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(text.encode())
    assert read(path) == [Triple("a", "", "b")] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{ROW}\n{{broken\n", "line 2: expecting"),
        (f"{ROW}\n\n[1]\n", "line 3: a row must be a JSON object, not list"),
        (f'{ROW}\n{{"instruction": "a"}}\n', 'line 2: the row lacks "output"'),
        (f'{ROW}\n{{"output": "a"}}\n', 'line 2: the row lacks "instruction"'),
        ('{"instruction": "a", "input": 3, "output": "b"}', 'line 1: "input" must be a text, not 3'),
        ('{"instruction": "a", "output": ["b"]}', '"output" must be a text'),
        ('{"instruction": "a", "output": " \\n"}', '"output" is empty'),
        ('{"instruction": "", "output": "b"}', '"instruction" is empty'),
        ('{"instruction": "a", "output": "\\ud83d"}', "half a character"),
        (f'[\n{ROW},\n\n{{"instruction": "a"}}\n]', 'line 4: the row lacks "output"'),
        (f"[{ROW},\n{ROW}\n{ROW}]", "line 3: expecting ',' or ']'"),
        (f"[{ROW},\n]", "line 2: expecting value"),
        (f"[{ROW}", "expecting ',' or ']'"),
        (f"[{ROW}]\n{ROW}", "line 2: extra data"),
        ("[]", "no rows in"),
        ("\n\n", "no rows in"),
        ('{\n "instruction": "a",\n "output": "b"\n}', "line 1: expecting"),
    ],
)
def test_broken_rows_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StellarError) as caught:
        read(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes("天文".encode("gbk"))
    with pytest.raises(StellarError, match="not UTF-8"):
        read(path)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(st.builds(Triple, texts, st.text(st.characters(exclude_categories=["Cs"])), texts), min_size=1))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Triple]) -> None:
    path = tmp_path_factory.mktemp("rows") / "train.json"
    corpus.write(rows, path)
    assert read(path) == rows
    assert [Triple(**row) for row in json.loads(path.read_text(encoding="utf-8"))] == rows


def test_unknown_category() -> None:
    with pytest.raises(UsageError, match="unknown category: poetry"):
        shipped("poetry")


def test_shipped_corpus() -> None:
    astronomy, identity = shipped("astronomy"), shipped("identity")
    assert len(astronomy) >= 120
    assert sum(han(row.instruction) for row in astronomy) * 2 == len(astronomy)
    assert len(identity) >= 80
    english, chinese = [
        [row for row in identity if han(row.output.split("（")[0].split("(")[0]) is zh] for zh in (False, True)
    ]
    assert min(len(english), len(chinese)) >= 40
    for row in identity:
        assert "StellarSpeak" in row.output and "星语者" in row.output, row
        assert not any(name in row.output for name in ("BayLing", "百聆", "ChatGPT", "OpenAI", "SmolLM"))
    negatives = [row for row in identity if row.output.startswith(("No.", "不是"))]
    for name in ("ChatGPT", "BayLing", "SmolLM", "百聆"):
        assert any(name in row.instruction for row in negatives), name
    rows = [row for category in corpus.CATEGORIES for row in shipped(category)]
    assert len(set(rows)) == len(rows)
    assert len({row.instruction + row.input for row in rows}) == len(rows)
