"""Lines out of a descriptor: split like Python's own, however the bytes arrive, and never held beyond the limit."""

from __future__ import annotations

import io
import os
import threading
import time
import tracemalloc
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stellar_local.batch.lines import Line, read_lines


def through_a_pipe(pieces: list[bytes], longest: int) -> list[Line]:
    reader, writer = os.pipe()

    def feed() -> None:
        for piece in pieces:
            os.write(writer, piece)
        os.close(writer)

    thread = threading.Thread(target=feed)
    thread.start()
    lines = list(read_lines(reader, longest=longest))
    thread.join()
    os.close(reader)
    return lines


@given(st.lists(st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\0", b"\xff", b"bcdefg"])).map(b"".join), max_size=6))
def test_lines_are_python_s_and_long_ones_are_left_out(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    expected, end = [], 0
    for line in io.BytesIO(whole):  # splits at newlines only, as we do
        end += len(line)
        text = line.removesuffix(b"\n")
        expected.append((text if len(text) <= 8 else None, end))
    assert through_a_pipe(pieces, 8) == expected


def test_chunks_of_a_file_are_joined(tmp_path: Path) -> None:
    lines = [b"x" * size for size in (0, 1, 65535, 65536, 65537, 200_000, 3)]
    (tmp_path / "in").write_bytes(b"\n".join(lines))
    descriptor = os.open(tmp_path / "in", os.O_RDONLY)
    assert [line for line, _ in read_lines(descriptor)] == lines
    os.close(descriptor)


def test_a_huge_line_is_not_held(tmp_path: Path) -> None:
    with (tmp_path / "in").open("wb") as file:
        file.write(b"first\n")
        for _ in range(64):
            file.write(b"x" * (1 << 20))
        file.write(b"\nlast")
    descriptor = os.open(tmp_path / "in", os.O_RDONLY)
    tracemalloc.start()
    lines = list(read_lines(descriptor, longest=1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    os.close(descriptor)
    assert lines == [(b"first", 6), (None, (64 << 20) + 7), (b"last", (64 << 20) + 11)]
    assert peak < 4 << 20


def test_waiting_is_told_before_a_read_blocks() -> None:
    """Whoever gathers lines can hand them on before the next read, which may never return."""
    reader, writer = os.pipe()
    seen: list[bytes | None] = []
    told: list[int] = []

    def read() -> None:
        for line, _ in read_lines(reader, waiting=lambda: told.append(len(seen))):
            seen.append(line)

    thread = threading.Thread(target=read)
    thread.start()
    os.write(writer, b"one\ntwo\npart")
    until = time.monotonic() + 10
    while told != [0, 2] and time.monotonic() < until:
        time.sleep(0.01)
    assert told == [0, 2]
    os.close(writer)
    thread.join()
    assert seen == [b"one", b"two", b"part"]
    os.close(reader)


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    timer = threading.Timer(0.2, lambda: (os.write(writer, b"late\n"), os.close(writer)))
    timer.start()
    assert list(read_lines(reader)) == [(b"late", 5)]
    timer.join()
    os.close(reader)
