"""Reading goes on after a broken row: every whole row is kept, every problem is named by line and kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.errors import StellarError
from train import corpus
from train.corpus import HINTS, Triple, read, scan

A, B = Triple("a", "", "1"), Triple("星", "输入", "2")


def row(triple: Triple) -> str:
    return json.dumps(triple.__dict__, ensure_ascii=False)


def seen(text: str | bytes, tmp_path: Path) -> list[Triple | tuple[int, str]]:
    """Rows, and the line and kind of problems."""
    path = tmp_path / "data.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    found = list(scan(path))
    assert all(one.path == path and (one.row is None) == bool(one.problem) == bool(one.kind) for one in found)
    return [one.row if one.row is not None else (one.line, one.kind) for one in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{row(A)}\n{{broken\n\n{row(B)}\n", [A, (2, "not JSON"), B]),
        (f'{{"instruction": "a"}}\n{row(A)}\n[1]\n', [(1, "not a row"), A, (3, "not a row")]),
        ('{"instruction": "a", "output": " "}\n' + row(A), [(1, "empty answer"), A]),
        ('{"instruction": "", "output": "a"}\n' + row(A), [(1, "empty question"), A]),
        ('{"instruction": "a", "output": "\\ud83d"}\n' + row(A), [(1, "half a character"), A]),
        (
            row(A).encode() + b'\n{"instruction": "\xd0\xc7", "output": "b"}\n' + row(B).encode(),
            [A, (2, "not UTF-8"), B],
        ),
        (row(A).encode() + b"\n\xd0\xc7\n" + row(B).encode(), [A, (2, "not UTF-8"), B]),
        (f"[\n{row(A)},\n{{broken}},\n{row(B)}\n]", [A, (3, "not JSON"), B]),
        (f"[\n{row(A)}\n{row(B)}\n]", [A, (3, "not JSON"), B]),  # a comma is missing
        (f"[\n{row(A)} x\n,{row(A)},\n{row(B)}\n]", [A, (2, "not JSON"), B]),
        (f"[\n{row(A)},\n]", [A, (3, "not JSON")]),
        (f"[\n{row(A)},\n{row(B)}", [A, B, (3, "not JSON")]),
        (f"[\n{row(A)}\n]\n{row(B)}", [A, (4, "not JSON")]),
        (f'[\n{{"instruction": "never closed}},\n{row(B)}\n]', [(2, "not JSON"), B]),
        ("[]", []),
        ("", []),
    ],
)
def test_reading_goes_on(text: str | bytes, expected: list[Triple | tuple[int, str]], tmp_path: Path) -> None:
    assert seen(text, tmp_path) == expected


def test_pretty_printed_lists_go_on(tmp_path: Path) -> None:
    text = json.dumps([A.__dict__, {"instruction": "x", "output": "BAD"}, B.__dict__], indent=2, ensure_ascii=False)
    broken = text.replace('"BAD"', "BAD")
    line = broken[: broken.index("BAD")].count("\n") + 1
    assert seen(broken, tmp_path) == [A, (line, "not JSON"), B]


def test_an_excerpt_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"instruction": "\xd0\xc7", "output": "b"}\n' + b"x" * 5000)
    first, second = scan(path)
    assert first.excerpt.startswith('{"instruction": "') and "\udcd0" not in first.excerpt
    first.excerpt.encode("utf-8")
    assert 0 < len(second.excerpt) < 500


broken_lines = st.sampled_from(
    ["{", "null", '{"output": "a"}', '{"instruction": "a", "output": 3}', "]", "\udcff", '"']
)
whole_lines = st.builds(lambda a, b: row(Triple(a, "", b)), *[st.text('ab星\\"{[', min_size=1)] * 2)


@given(st.lists(st.one_of(broken_lines, whole_lines)))
def test_read_takes_what_scan_finds_whole(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """No line is lost; `read` fails where `scan` first names a problem, and nowhere else."""
    path = tmp_path_factory.mktemp("scan") / "data.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    if lines and lines[0] == "[":
        return
    found = list(scan(path))
    assert [one.line for one in found] == list(range(1, len(lines) + 1))
    problems = [one for one in found if one.row is None]
    if problems or not lines:
        with pytest.raises(StellarError, match=f"line {problems[0].line}: " if problems else "no rows") as caught:
            read(path)
        assert caught.value.hint
    else:
        assert read(path) == [Triple(**json.loads(line)) for line in lines]


def test_every_kind_has_a_hint() -> None:
    kinds = {corpus.NOT_JSON, corpus.NOT_UTF8, corpus.NO_ROW, corpus.EMPTY_QUESTION, corpus.EMPTY_ANSWER, corpus.HALF}
    assert kinds == set(HINTS) and all(HINTS.values())
