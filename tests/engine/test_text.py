"""Text from token bytes: whole characters, stop texts over borders, placeholders."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stellar_local.engine.text import TextStream


def run(
    data: bytes, cuts: list[int], stop: list[str], replace: dict[str, str] | None = None
) -> tuple[str, list[str], bool]:
    stream = TextStream(stop, replace)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [stream.feed(data[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    pieces.append(stream.finish())
    return "".join(pieces), pieces, stream.stopped


@given(st.text(), st.lists(st.integers(0, 1000)))
def test_characters_are_never_broken(text: str, cuts: list[int]) -> None:
    data = text.encode("utf-8", "replace")
    joined, pieces, _ = run(data, cuts, [])
    assert joined == data.decode("utf-8")
    assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in joined


@given(st.text("ab星"), st.lists(st.text("ab星", min_size=1), max_size=3), st.lists(st.integers(0, 100)))
def test_stop_texts_cut_at_the_earliest_however_the_stream_is_split(
    text: str, stop: list[str], cuts: list[int]
) -> None:
    joined, _, stopped = run(text.encode(), cuts, stop)
    first = min((text.find(mark) for mark in stop if mark in text), default=None)
    assert joined == (text if first is None else text[:first])
    assert stopped == (first is not None)


@given(st.lists(st.sampled_from(["[NAME]", "[机构]", "[", "N", "星"])), st.lists(st.integers(0, 200)))
def test_placeholders_are_replaced_however_the_stream_is_split(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    joined, _, _ = run(text.encode(), cuts, [], {"[NAME]": "星语者", "[机构]": "星语调校局"})
    assert joined == text.replace("[NAME]", "星语者").replace("[机构]", "星语调校局")


def test_the_longer_of_two_marks_at_one_place_wins() -> None:
    assert run(b"x[N]y", [1, 2, 3, 4], [], {"[N": "1", "[N]": "2"})[0] == "x2y"
    assert run(b"x[Ny", [1, 2, 3], [], {"[N": "1", "[N]": "2"})[0] == "x1y"


def test_text_comes_at_once_when_nothing_can_be_a_mark() -> None:
    stream = TextStream(["STOP"])
    assert stream.feed(b"hello ") == "hello "
    assert stream.feed(b"ST") == ""
    assert stream.feed(b"AR") == "STAR"


def test_a_broken_character_at_the_end_is_shown_as_one() -> None:
    stream = TextStream()
    assert stream.feed("星".encode()[:2]) == ""
    assert stream.finish() == "\ufffd"


def test_a_character_whose_end_was_cut_off_is_left_out() -> None:
    stream = TextStream(["亮!"])
    assert stream.feed("月亮星".encode()[:-1]) == "月"
    assert stream.held == "亮"  # which may become a stop text
    assert stream.finish(cut=True) == "亮"
