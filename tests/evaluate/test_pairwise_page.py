"""The page for people: what it shows at every size, what keys do, and as a program in a pseudo-terminal."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Stellar
from terminals import Pty

from stellar_local.console import cells
from stellar_local.errors import StellarError
from stellar_local.evaluate.pairwise.ballots import Ballots, left_model
from stellar_local.evaluate.pairwise.page import Page, lines_of
from stellar_local.evaluate.pairwise.pairs import Pair
from stellar_local.evaluate.pairwise.questions import Question
from stellar_local.evaluate.results import Log, open_log, read_log

LONG = "黑洞是引力极强的天体。" * 60
PAIRS = [
    Pair(Question("f:1", "1", ("什么是黑洞？",), "knowledge", "zh"), (f"甲说：{LONG}",), ("B says: short.",)),
    Pair(Question("f:2", "2", ("Hello?", "And then?")), ("one A", "two A"), ("one B", "")),
    Pair(Question("f:3", "3", ("Last?",)), ("x" * 500,), ("\x1b[31mred\x1b[0m \u202eback\n\n\n```\n\tcode\n```",)),
]
Open = Callable[..., Page]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Open]:
    """A page on a log of its own, gone on with where it is the same file."""
    with ExitStack() as stack:
        logs: dict[str, Log] = {}

        def one(pairs: Sequence[Pair] = PAIRS, name: str = "anna", seed: int = 7, language: str = "en") -> Page:
            if name not in logs:
                logs[name] = stack.enter_context(open_log(tmp_path / f"{name}.jsonl", {"task": "votes"}))
            return Page(Ballots(pairs, logs[name], name, seed), language)

        yield one


def votes(folder: Path, name: str = "anna") -> dict[str, str]:
    return {one["question"]: one["winner"] for one in read_log(folder / f"{name}.jsonl")[1]}


def test_a_vote_goes_to_whoever_stands_there(begin: Open, tmp_path: Path) -> None:
    for seed in range(6):
        page = begin(name=f"judge{seed}", seed=seed)
        left = left_model(seed, f"judge{seed}", "f:1")
        shown = page.picture(100, 30)
        assert ("甲说" in "".join(shown.bodies[0])) == (left == "a")
        assert not page.press("1")
        assert votes(tmp_path, f"judge{seed}") == {"f:1": left}
    assert {left_model(seed, "judge", "f:1") for seed in range(9)} == {"a", "b"}


def test_sides_are_even_over_questions_and_differ_by_judge() -> None:
    sides = [left_model(3, "anna", str(number)) for number in range(1000)]
    assert 440 < sides.count("a") < 560
    others = [left_model(3, "bo", str(number)) for number in range(1000)]
    assert 400 < sum(one == other for one, other in zip(sides, others, strict=True)) < 600


def test_all_turns_must_be_seen_before_a_vote(begin: Open, tmp_path: Path) -> None:
    page = begin()
    page.press("s")
    assert "turn 1 of 2" in page.picture(100, 30).head
    assert not page.press("3")
    assert votes(tmp_path) == {}
    assert "all turns" in page.picture(100, 30).foot[0]
    page.press("n")
    shown = page.picture(100, 30)
    assert "And then?" in shown.question[0]
    assert "(no answer)" in [*shown.bodies[0], *shown.bodies[1]]
    page.press("p")
    page.press("3")
    assert votes(tmp_path) == {"f:2": "tie"}


def test_back_shows_the_vote_and_changes_it(begin: Open, tmp_path: Path) -> None:
    page = begin()
    page.press("b")
    assert "first one" in page.picture(100, 30).foot[0]
    page.press("4")
    page.press("b")
    assert "your vote so far: both bad" in page.picture(100, 30).head
    page.press("2")
    assert votes(tmp_path) == {"f:1": "ab"[1 - "ab".index(left_model(7, "anna", "f:1"))]}
    assert page.ballots.number == 2


def test_skipped_ones_come_again_and_judged_ones_do_not(begin: Open) -> None:
    page = begin()
    page.press("s")
    page.press("s")
    assert page.press("=")
    again = begin()
    assert again.ballots.number == 1
    again.press("1")
    again.press("n")
    assert again.press("1")
    assert begin().ballots.current is None


def test_a_vote_on_other_answers_does_not_count(begin: Open) -> None:
    page = begin()
    page.press("1")
    changed = [Pair(PAIRS[0].question, ("another answer",), PAIRS[0].b), *PAIRS[1:]]
    assert begin(changed).ballots.number == 1
    assert begin().ballots.number == 2
    begin(changed).press("3")
    assert begin().ballots.number == 2  # each answers' vote stays


def test_a_vote_changed_by_hand_does_not_count(begin: Open) -> None:
    page = begin()
    page.press("1")
    (vote,) = page.ballots._log.done.values()
    for name in ("winner", "choice", "left"):
        kept = vote.pop(name)
        assert begin().ballots.number == 1
        vote[name] = [kept]
        assert begin().ballots.number == 1
        vote[name] = kept
    assert begin().ballots.number == 2


def test_arrows_that_scroll_never_vote(begin: Open, tmp_path: Path) -> None:
    page = begin()
    for key in ("left", "right", "up", "down"):
        assert not page.press(key)
    assert votes(tmp_path) == {}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("columns", [20, 37, 60, 89, 90, 121, 200])
@pytest.mark.parametrize("rows", [6, 12, 50])
def test_all_of_it_can_be_seen_at_any_size(columns: int, rows: int, language: str, begin: Open) -> None:
    """Nothing is wider than its column, and scrolling down shows every line of both answers and of the question."""
    page = begin(language=language)
    seen: dict[int, list[str]] = {}
    for _ in range(400):
        shown = page.picture(columns, rows)
        assert len(shown.bodies) == (2 if columns >= 90 else 1)
        assert all(cells(line) <= shown.width for body in shown.bodies for line in body)
        assert all(cells(line) <= columns for line in [shown.head, *shown.question, *shown.foot])
        for number, body in enumerate(shown.bodies):
            seen.setdefault(number, []).extend(body)
        before = page.offset
        page.press("down")
        if page.offset == before:
            break
    everything = "".join(line for lines in seen.values() for line in lines)
    pair = PAIRS[0]
    width = shown.width
    for text in (pair.a[0], pair.b[0]):
        assert all(line in everything for line in lines_of(text, width))
    page.press("home")
    assert page.offset == 0


def test_nothing_that_drives_a_terminal_is_shown(begin: Open) -> None:
    page = begin(PAIRS[2:])
    text = "\n".join(line for body in page.picture(100, 30).bodies for line in body)
    assert "␛[31mred" in text
    assert not set(text) & set("\x1b\t\u202e\r")


def test_a_page_of_no_model_names() -> None:
    """It cannot show what it is not given."""
    assert "label" not in Pair.__dataclass_fields__
    assert set(Page.__dataclass_fields__) & {"a", "b", "labels"} == set()


# As a program, in a pseudo-terminal.

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals here", allow_module_level=True)


@pytest.fixture
def compare(stellar: Stellar) -> Iterator[Callable[..., Pty]]:
    """`stellar eval compare` on two files of answers."""
    folder = stellar.cwd
    lines = [{"question_id": one.question.id, "turns": one.question.turns} for one in PAIRS]
    (folder / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("a", "b"):
        answers = [{"question_id": one.question.id, "turns": getattr(one, name)} for one in PAIRS]
        (folder / f"secret-{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    opened: list[Pty] = []

    def start(*arguments: str, **size: int) -> Pty:
        command = ["eval", "compare", "secret-a.jsonl", "secret-b.jsonl", "--questions", "q.jsonl", *arguments]
        opened.append(Pty([*stellar.argv, *command], stellar.env, folder, **{"columns": 100, "rows": 24, **size}))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def log_of(folder: Path, name: str = "human") -> list[dict[str, object]]:
    (path,) = (folder / "evaluation").glob(f"votes--*{name}.jsonl")
    return read_log(path)[1]


def test_judging_in_a_terminal(compare: Callable[..., Pty], stellar: Stellar) -> None:
    terminal = compare()
    shown = terminal.wait_for("Question 1 of 3.*q save and quit")
    assert "│" in shown
    assert "secret" not in shown
    terminal.type("1")
    terminal.wait_for("Question 2 of 3")
    os.kill(terminal.pid, signal.SIGKILL)  # as a power cut
    terminal.close()
    assert len(log_of(stellar.cwd)) == 1
    terminal = compare(columns=60)  # one answer under the other
    shown = terminal.wait_for("Question 2 of 3.*q save")
    assert "First answer" in shown
    terminal.paste("111")  # no votes
    terminal.type("n3")
    terminal.wait_for("Question 3 of 3")
    terminal.resize(100, 24)
    terminal.wait_for("Question 3 of 3.*│")
    terminal.type("q")
    assert terminal.exit_code() == 0
    assert "1 question still to be judged" in terminal.screen()
    assert "win rate" not in terminal.screen()  # blind to the end
    assert [one["choice"] for one in log_of(stellar.cwd)] == ["left", "tie"]
    assert b"\x1b[?1049l" in terminal.output  # the screen of before is back
    terminal = compare()
    terminal.wait_for("Question 3 of 3")
    terminal.type("2")
    assert terminal.exit_code() == 0
    assert "A: secret-a   B: secret-b" in terminal.screen()
    assert "win rate" in terminal.screen()


def test_ctrl_c_and_sigterm_keep_the_votes_and_the_terminal(compare: Callable[..., Pty], stellar: Stellar) -> None:
    ends = (
        ("c", lambda one: one.type("\x03"), 130),
        ("i", lambda one: os.kill(one.pid, signal.SIGINT), 130),
        ("t", lambda one: os.kill(one.pid, signal.SIGTERM), 143),
    )
    for name, end, code in ends:
        terminal = compare("--judge-name", name)
        terminal.wait_for("Question 1 of 3")
        terminal.type("3")
        terminal.wait_for("Question 2 of 3")
        end(terminal)
        terminal.wait_for("still to be judged")
        assert terminal.exit_code() == code
        assert len(log_of(stellar.cwd, name)) == 1
        assert b"\x1b[?1049l" in terminal.output


def test_it_speaks_chinese_where_the_locale_does(compare: Callable[..., Pty], stellar: Stellar) -> None:
    stellar.env["LC_ALL"] = "zh_CN.UTF-8"
    terminal = compare()
    shown = terminal.wait_for("第 1 题，共 3 题.*保存并退出")
    assert "左" in shown
    assert "什么是黑洞？" in shown
    terminal.type("１")  # as a Chinese input method types it
    terminal.wait_for("第 2 题")
    terminal.type("q")
    assert terminal.exit_code() == 0


def test_a_vote_that_cannot_be_written_closes_the_page(
    begin: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = begin()
    page.press("1")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    page.press("n")
    with pytest.raises(StellarError, match="no space left"):
        page.press("3")
    assert page.ballots.number == 2
    assert len(votes(tmp_path)) == 1


def test_without_a_terminal_it_says_what_to_do(stellar: Stellar) -> None:
    done = stellar("eval", "compare", "a.jsonl", "b.jsonl", "--questions", "q.jsonl")
    assert done.returncode == 2
    assert "people judge in a terminal" in done.stderr
    assert "--judge openai" in done.stderr
