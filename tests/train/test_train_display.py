"""What a training run shows: on a terminal two lines at any width, in a log few lines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from terminals import Pty

from stellar_local.console import cells, say
from train.display import Display, clock_time
from train.logs import StepStats

GIB = 1 << 30


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def stats(step: int, **changes: float) -> StepStats:
    values = {"loss": 2.0, "tokens": 3000, "learned": 500, "seconds": 2.0, "memory": 0, **changes}
    return StepStats(step, step / 10, learning_rate=1e-4, grad_norm=1.0, **values)  # type: ignore[arg-type]


def test_in_a_log_there_is_a_line_a_tenth_and_one_for_an_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Display(200, 0, 2.0, clock) as display:
        for step in range(1, 201):
            clock.now += 60.0 if step == 1 else 3.0
            display.step(StepStats(step, step / 100, 2.5, 1e-4, 1.0, 3000, 500, 2.0, 5 * GIB))
            if step in (100, 200):
                display.evaluation(1.25 if step == 100 else 1.5, best=step == 100)
        say("stopping \x1b[2J")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 14
    assert lines[0] == "training: steps 1 to 200 (epochs: 2)"
    assert lines[1] == (  # 180 steps of 3 seconds are left
        "training: 10%, step 20/200, epoch 0.20/2, loss 2.500, 1,500 tok/s, 5.0 GiB, 1:57 elapsed, 9:00 left"
    )
    assert lines[6] == "step 100: validation loss 1.250, the best so far"
    assert lines[11:] == [
        "training: 100%, step 200/200, epoch 2.00/2, loss 2.500, 1,500 tok/s, 5.0 GiB, 10:57 elapsed",
        "step 200: validation loss 1.500",
        "stopping ␛[2J",
    ]


def test_a_short_run_has_no_more_lines_than_steps(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(3, 0, 1.0) as display:
        for step in range(1, 4):
            display.step(stats(step))
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()[1:]] == [
        *("training: 33%", "training: 66%", "training: 100%")
    ]


def test_the_time_left_knows_neither_an_earlier_run_nor_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Display(1000, 900, 1.0, clock) as display:
        clock.now += 500  # the base is loaded, the first step compiles kernels
        display.step(stats(901, seconds=400.0))
        assert "left" not in display.lines(200)[2]
        clock.now += 4
        display.step(stats(902))
        assert "6:32 left" in display.lines(200)[2]  # 98 × 4 s
        clock.now += 6  # with an evaluation
        display.step(stats(903))
        assert "8:05 left" in display.lines(200)[2]  # 97 × 5 s
        clock.now += 10
        assert "7:55 left" in display.lines(200)[2]  # it runs down in between
        clock.now += 10_000
        assert "0:00 left" in display.lines(200)[2]
    said = capsys.readouterr().err
    assert said == "training: steps 901 to 1000 (epochs: 1)\n"


def test_loss_and_speed_are_of_the_last_twenty_steps_by_their_tokens() -> None:
    display = Display(100, 0, 1.0)
    display.step(stats(1, seconds=1000.0))
    display.step(stats(2, loss=3.0, learned=100, tokens=1000, seconds=1.0))
    assert display.lines(200)[2].startswith("loss 3.000  1,000 tok/s")  # without the first step
    display.step(stats(3, loss=1.0, learned=300, tokens=500, seconds=2.0))
    assert display.lines(200)[2].startswith("loss 1.500  500 tok/s")
    for step in range(4, 24):
        display.step(stats(step, loss=0.05, tokens=13, seconds=2.0))
    assert display.lines(200)[2].startswith("loss 0.05000  6.5 tok/s")
    display.step(stats(24, loss=float("nan")))
    assert display.lines(200)[2].startswith("loss nan")


def test_memory_is_the_peak_and_absent_where_unknown() -> None:
    display = Display(100, 0, 1.0)
    display.step(stats(1))
    display.step(stats(2))
    assert "GiB" not in display.lines(200)[2]
    display.step(stats(3, memory=7 * GIB))
    display.step(stats(4, memory=6 * GIB))
    assert "7.0 GiB" in display.lines(200)[2]


@pytest.mark.parametrize("columns", range(40, 201))
def test_what_matters_most_fits_into_any_width(columns: int) -> None:
    clock = Clock()
    display = Display(99_999, 0, 10.0, clock)
    for step in (12_344, 12_345):
        clock.now += 0.5
        above, bar, below = display.lines(columns)
        assert cells(above) + (bar and bar + 2) <= columns
        display.step(StepStats(step, 9.99, 12.34, 1e-4, 1.0, 12_345, 500, 1.0, 77 * GIB))
    display.evaluation(1.25, best=False)
    above, bar, below = display.lines(columns)
    assert cells(above) + (bar and bar + 2) <= columns
    assert cells(below) <= columns
    assert "step 12345/99999  epoch 9.99/10" in above
    assert below.startswith("loss 12.34  ") and "12:10:27 left" in below  # 87,654 steps of half a second
    if columns >= 80:
        assert below == "loss 12.34  12,345 tok/s  12:10:27 left  77.0 GiB  validation 1.250"
        assert "12%" in above and "elapsed" in above and bar


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.9, "0:59"), (754, "12:34"), (360_000, "100:00:00")])
def test_clock_time(seconds: float, shown: str) -> None:
    assert clock_time(seconds) == shown


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from train.display import Display
from train.logs import StepStats
from stellar_local.console import say

def run(steps, pause, first=0):
    with Display(steps, 0, 3.0) as display:
        for step in range(1, steps + 1):
            time.sleep(first if step == 1 and first else pause)
            display.step(StepStats(step, 3 * step / steps, 2.5, 1e-4, 1.0, 4000, 900, 0.5, 7 << 30))
            yield display, step
"""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Pty]]:
    """Runs a program that begins with PROGRAM in a terminal."""
    if sys.platform == "win32":
        pytest.skip("no pseudo-terminals here")
    opened: list[Pty] = []

    def open_one(code: str, columns: int = 80, term: str = "xterm", shell: str = "") -> Pty:
        (tmp_path / "program.py").write_text(PROGRAM + code, encoding="utf-8")
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        env.pop("COLUMNS", None)
        argv = [sys.executable, "program.py"]
        opened.append(
            Pty(["sh", "-c", f"{' '.join(argv)} {shell}"] if shell else argv, env, tmp_path, columns, 40, term)
        )
        return opened[-1]

    yield open_one
    for pty in opened:
        pty.close()


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_shows_two_lines_and_what_is_said_above_them(terminal: Callable[..., Pty], columns: int) -> None:
    pty = terminal(
        "for display, step in run(12, 0.12, first=0.5):\n"
        "    if step == 4: display.evaluation(1.5, best=True)\n"
        "    if step == 6: say('说明 [b]x[/b] \\x1b[2J')\n"
        "    if step == 8: say('other')\n",
        columns,
    )
    pty.wait_for("the first step is under way")
    shown = pty.wait_for(r"step [123]/12.*loss 2\.500").splitlines()  # drawn before anything was said
    assert len(shown) == 2
    assert b"\x1b[?25l" in pty.output and b"\x1b[?25h" not in pty.output
    assert pty.exit_code() == 0
    lines = pty.screen().splitlines()
    said = ["step 4: validation loss 1.500, the best so far", "说明 [b]x[/b] ␛[2J", "other"]
    assert " ".join(lines[:-2]) == " ".join(said)
    assert lines[-2].startswith("step 12/12  epoch 3.00/3")
    assert lines[-1].startswith("loss 2.500  8,000 tok/s  7.0 GiB")
    assert ("━" * 10 in lines[-2]) == (columns >= 80)
    assert pty.output.count(b"\x1b[?25h") == 1
    assert pty.cursor()[0] == 0


def test_it_is_drawn_four_times_a_second_however_fast_the_steps_are(terminal: Callable[..., Pty]) -> None:
    began = time.monotonic()
    pty = terminal("for _ in run(2000, 0.0005): pass")
    assert pty.exit_code() == 0
    frames = pty.output.count(b"tok/s")
    assert 2 <= frames <= 4 * (time.monotonic() - began) + 2
    assert b"\x1b[2J" not in pty.output and b"\x1b[J" not in pty.output  # nothing is wiped but the two lines


@pytest.mark.parametrize("code", ["os.kill(os.getpid(), signal.SIGINT)", "raise ValueError('broken')"])
def test_after_ctrl_c_and_errors_the_terminal_is_as_it_was(terminal: Callable[..., Pty], code: str) -> None:
    pty = terminal(
        "signal.signal(signal.SIGINT, signal.default_int_handler)\ntry:\n    for _, step in run(9, 0.05):\n"
        f"        if step == 5: {code}\n"
        "except KeyboardInterrupt: say('stopped')\nexcept ValueError as error: say(str(error))\n"
        "assert type(sys.stderr).__module__ == '_io', sys.stderr\n"
    )
    assert pty.exit_code() == 0
    lines = pty.screen().splitlines()
    assert lines[-1] in ("stopped", "broken")
    assert lines[-3].startswith("step 5/9") and lines[-2].startswith("loss")
    assert pty.output.count(b"\x1b[?25l") == pty.output.count(b"\x1b[?25h") == 1
    assert pty.output.rindex(b"\x1b[?25h") < pty.output.rindex(lines[-1].encode())


def test_a_key_ctrl_c_breaks_no_line(terminal: Callable[..., Pty]) -> None:
    """As the command handles it: the first Ctrl-C only says that the run will stop after its step."""
    pty = terminal(
        "asked = []\n"
        "signal.signal(signal.SIGINT, lambda *_: (asked.append(1), say('stopping after this step')))\n"
        "for _, step in run(100, 0.1):\n    if asked: break\n"
    )
    pty.wait_for(r"step \d/100")
    pty.type("\x03")
    assert pty.exit_code() == 0
    lines = pty.screen().splitlines()
    assert [line for line in lines if "stopping" in line] == lines[:1]
    assert len(lines) == 3 and re.match(r"step \d+/100", lines[1])
    assert pty.output.count(b"\x1b[?25h") == 1


def test_stdout_stays_the_answers(terminal: Callable[..., Pty], tmp_path: Path) -> None:
    pty = terminal("for _, step in run(3, 0.05): print('answer', step)", shell="> answers")
    assert pty.exit_code() == 0
    assert (tmp_path / "answers").read_text() == "answer 1\nanswer 2\nanswer 3\n"
    assert "answer" not in pty.screen()


def test_a_dumb_terminal_gets_lines(terminal: Callable[..., Pty]) -> None:
    pty = terminal("for _ in run(4, 0.01): pass", term="dumb")
    assert pty.exit_code() == 0
    assert b"\x1b" not in pty.output
    assert pty.screen().count("training: ") == 5


def test_a_terminal_that_goes_away_stops_nothing(terminal: Callable[..., Pty], tmp_path: Path) -> None:
    pty = terminal(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nfor display, step in run(20, 0.05):\n"
        "    if step == 10: say('x')\nPath('done').write_text('done')\n"
    )
    pty.wait_for(r"step \d+/20")
    os.close(pty.fd)
    deadline = time.monotonic() + 20
    while not (tmp_path / "done").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(os.waitpid(pty.pid, 0)[1]) == 0
    assert (tmp_path / "done").read_text() == "done"


def test_a_log_that_is_full_stops_nothing() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    code = PROGRAM + "for _ in run(20, 0): pass\nprint('done')"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_nothing_heavy_is_imported() -> None:
    code = "import sys\nimport train.logs, train.curve, train.display\n"
    code += "print({n.split('.')[0] for n in sys.modules} & {'torch', 'matplotlib', 'tensorboard', 'rich', 'numpy'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stderr
