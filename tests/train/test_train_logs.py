"""The logs of a training run: what other programs read in them, and that a kill or a full disk leaves them whole."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from stellar_local.errors import StellarError
from train.logs import RunLog, StepStats, read_log

EVERY = 3  # steps between two evaluations


def stats(step: int, shift: float = 0.0) -> StepStats:
    """A step whose numbers float32 and nine digits hold exactly."""
    return StepStats(step, step / 4, 3.5 - step / 8 + shift, 2.0**-12 / step, step / 16, 4000 + step, 900, 0.5, 7 << 30)


def log_steps(log: RunLog, first: int, last: int, shift: float = 0.0) -> None:
    for step in range(first, last + 1):
        log.step(stats(step, shift))
        if step % EVERY == 0:
            log.evaluation(step, 4.0 - step / 8 + shift)


def whole(folder: Path, steps: int, **options: Any) -> bytes:
    """The table of a run that nothing interrupted."""
    log = RunLog(folder, 0, **options)
    log_steps(log, 1, steps)
    log.close()
    return (folder / "log.csv").read_bytes()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads in a folder of event files: by tag, steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_other_programs_read_the_table(tmp_path: Path) -> None:
    whole(tmp_path, 4, events=None)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "3", "4"]
    numbers = ["2", "0.5", "3.25", "0.000122070312", "0.125", "4002", "900", "0.5", "7516192768", ""]
    names = "step epoch loss learning_rate grad_norm tokens learned seconds memory validation_loss"
    assert rows[1] == dict(zip(names.split(), numbers, strict=True))
    assert {name: cell for name, cell in rows[3].items() if cell} == {"step": "3", "validation_loss": "3.625"}
    table = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    assert np.array_equal(table["loss"], [3.375, 3.25, 3.125, np.nan, 3.0], equal_nan=True)
    assert np.array_equal(table["validation_loss"], [np.nan, np.nan, np.nan, 3.625, np.nan], equal_nan=True)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0, events=None)
    written = [stats(1), stats(2), StepStats(3, 1.0, float("inf"), 0.0, float("-inf"), 0, 0, 1e-7, 0)]
    for one in written:
        log.step(one)
    third = float(np.float32(1 / 3))
    log.evaluation(3, third)
    log.close()
    log.close()
    steps, evaluations = read_log(tmp_path / "log.csv")
    assert [step.learning_rate for step in steps] == pytest.approx([step.learning_rate for step in written], rel=1e-8)
    assert [step.loss for step in steps] == [step.loss for step in written]
    assert steps[2] == written[2]
    assert np.float32(evaluations[0][1]) == np.float32(third)
    assert evaluations[0][0] == 3


@pytest.mark.parametrize("resume_step", [1, 3, 4, 6, 7])
def test_a_resumed_table_is_that_of_an_uninterrupted_run(resume_step: int, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    expected = whole(tmp_path / "whole", 10)
    killed = RunLog(tmp_path, 0)
    log_steps(killed, 1, 7)
    killed.close()
    with (tmp_path / "log.csv").open("ab") as file:
        file.write(b"8,2,2.5,0.0")
    resumed = RunLog(tmp_path, resume_step)
    if resume_step % EVERY == 0:
        resumed.evaluation(resume_step, 99.0)  # made again: it is there already
    log_steps(resumed, resume_step + 1, 10)
    resumed.close()
    assert (tmp_path / "log.csv").read_bytes() == expected
    assert scalars(tmp_path / "tensorboard") == scalars(tmp_path / "whole" / "tensorboard")


def test_wherever_a_kill_cuts_the_table(tmp_path: Path) -> None:
    expected = whole(tmp_path, 4, events=None)
    path = tmp_path / "log.csv"
    for end in range(expected.index(b"\n") + 1, len(expected) + 1):
        path.write_bytes(expected[:end])
        steps, evaluations = read_log(path)
        assert steps == [stats_read(step) for step in range(1, len(steps) + 1)]
        assert expected[:end].count(b"\n") == 1 + len(steps) + len(evaluations)
        log = RunLog(tmp_path, len(steps), events=None)
        if steps and len(steps) % EVERY == 0:
            log.evaluation(len(steps), 4.0 - len(steps) / 8)
        log_steps(log, len(steps) + 1, 4)
        log.close()
        assert path.read_bytes() == expected


def stats_read(step: int) -> StepStats:
    """A step as the table holds it: of the learning rate, nine digits."""
    values = {**stats(step).__dict__, "learning_rate": float(f"{2.0**-12 / step:.9g}")}
    return StepStats(**values)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL here")
def test_a_kill_loses_no_step_that_was_logged(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom train.logs import RunLog, StepStats\n"
        "log = RunLog(Path(sys.argv[1]), 0)\n"
        "for step in range(1, 10**6):\n"
        "    log.step(StepStats(step, 0.5, 2.0, 1e-4, 1.0, 10, 5, 0.1, 0)); print(step, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(200)]
    child.send_signal(signal.SIGKILL)
    said += [int(line) for line in child.stdout.read().split(b"\n")[:-1]]
    child.wait()
    steps, _ = read_log(tmp_path / "log.csv")
    assert [step.step for step in steps][: len(said)] == said
    assert [step for step, _ in scalars(tmp_path / "tensorboard")["train/loss"]][: len(said)] == said


def test_tensorboard_reads_every_number(tmp_path: Path) -> None:
    whole(tmp_path, 4)
    found = scalars(tmp_path / "tensorboard")
    assert found == {
        "train/loss": [(1, 3.375), (2, 3.25), (3, 3.125), (4, 3.0)],
        "train/learning_rate": [(step, pytest.approx(2.0**-12 / step)) for step in range(1, 5)],
        "train/grad_norm": [(step, step / 16) for step in range(1, 5)],
        "train/epoch": [(step, step / 4) for step in range(1, 5)],
        "train/tokens_per_second": [(step, (4000 + step) / 0.5) for step in range(1, 5)],
        "train/memory_gib": [(step, 7.0) for step in range(1, 5)],
        "eval/loss": [(3, 3.625)],
    }


def test_tensorboard_forgets_what_a_killed_run_did_after_its_checkpoint(tmp_path: Path) -> None:
    killed = RunLog(tmp_path, 0)
    log_steps(killed, 1, 7, shift=50.0)
    killed.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    events.write_bytes(events.read_bytes()[:-5])
    resumed = RunLog(tmp_path, 4)
    log_steps(resumed, 5, 8)
    resumed.close()
    found = scalars(tmp_path / "tensorboard")
    assert found["train/loss"] == [(s, 3.5 - s / 8 + (50 if s <= 4 else 0)) for s in range(1, 9)]
    assert found["eval/loss"] == [(3, 53.625), (6, 3.25)]


def test_a_run_from_the_beginning_begins_the_logs_anew(tmp_path: Path) -> None:
    old = RunLog(tmp_path, 0)
    old.evaluation(0, 9.0)
    log_steps(old, 1, 5, shift=50.0)
    old.close()
    new = RunLog(tmp_path, 0)
    new.evaluation(0, 8.0)
    log_steps(new, 1, 2)
    new.close()
    assert read_log(tmp_path / "log.csv") == ([stats_read(1), stats_read(2)], [(0, 8.0)])
    found = scalars(tmp_path / "tensorboard")
    assert found["train/loss"] == [(1, 3.375), (2, 3.25)]
    assert found["eval/loss"] == [(0, 8.0)]


def test_a_table_that_a_spreadsheet_has_saved_goes_on(tmp_path: Path) -> None:
    expected = whole(tmp_path, 4, events=None).decode()
    header, *rows = expected.splitlines()
    quoted = ",".join(f'"{name}"' for name in header.split(","))
    (tmp_path / "log.csv").write_bytes("\r\n".join(["\ufeff" + quoted, *rows, ""]).encode())
    assert read_log(tmp_path / "log.csv")[0] == [stats_read(step) for step in range(1, 5)]
    RunLog(tmp_path, 4, events=None).close()
    assert (tmp_path / "log.csv").read_text() == expected


@pytest.mark.parametrize("resume_step", [0, 3])
def test_a_file_that_is_no_log_is_left_alone(
    resume_step: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.csv").write_text("name,mass\nSun,1\n")
    log = RunLog(tmp_path, resume_step)
    log_steps(log, resume_step + 1, 5)
    log.close()
    assert (tmp_path / "log.csv").read_text() == "name,mass\nSun,1\n"
    (line,) = capsys.readouterr().err.splitlines()
    assert "no log of a training run" in line
    assert "training goes on without it" in line
    assert len(scalars(tmp_path / "tensorboard")["train/loss"]) == 5 - resume_step


def test_logs_that_cannot_be_made_are_told_and_stop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.csv").mkdir()
    (tmp_path / "tensorboard").write_text("a file")
    log = RunLog(tmp_path, 0)
    log_steps(log, 1, 3)
    log.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("stellar: warning: cannot ") and "training goes on" in line for line in lines)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the system refuses the rest of a write, as a full disk does."""
    resource = pytest.importorskip("resource", reason="no limits on files here")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_once_and_the_log_completed_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "whole").mkdir()
    expected = whole(tmp_path / "whole", 12)
    log = RunLog(tmp_path, 0)
    log_steps(log, 1, 3)
    size = (tmp_path / "log.csv").stat().st_size
    with full_disk(size + 20):  # in the middle of a row; of the event file, longer by now, nothing more
        log_steps(log, 4, 9)
        assert (tmp_path / "log.csv").read_bytes() == expected[:size]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # one for each log
    assert "log.csv" in lines[0] and "training goes on" in lines[0]
    log_steps(log, 10, 12)
    log.close()
    assert (tmp_path / "log.csv").read_bytes() == expected
    assert scalars(tmp_path / "tensorboard") == scalars(tmp_path / "whole" / "tensorboard")


@pytest.mark.parametrize(
    ("preparation", "said"),
    [
        ("sys.modules['tensorboard'] = None", "the package tensorboard is not installed (pip install tensorboard)"),
        (
            "sys.modules['google.protobuf'] = None",
            "the package tensorboard cannot be used (import of google.protobuf halted",
        ),
    ],
)
def test_without_tensorboard_there_is_the_table_alone(preparation: str, said: str, tmp_path: Path) -> None:
    code = f"import sys\n{preparation}\nfrom pathlib import Path\nfrom train.logs import RunLog, StepStats\n"
    code += "log = RunLog(Path(sys.argv[1]), 0)\nlog.step(StepStats(1, 1.0, 2.0, 1e-4, 1.0, 10, 5, 0.1, 0))\n"
    code += "log.evaluation(1, 1.5)\nlog.close()\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"stellar: warning: no TensorBoard files: {said}")
    assert [step.step for step in read_log(tmp_path / "log.csv")[0]] == [1]
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2,0.5,1", "3 columns instead of 10"),
        ("2,0.5,x,1,1,1,1,1,1,", "'x' where a number should be"),
        ("2,,1,1,1,1,1,1,1,", "'' where a number should be"),
        ("2,1,1,1,1,nan,1,1,1,", "'nan' where a number should be"),
        ("2,1,1,1,1,1,1,1,inf,", "'inf' where a number should be"),
        (",,,,,,,,,1.5", "'' where a number should be"),
        ("2,,,,,,,,,x", "'x' where a number should be"),
        ("9" * 5000 + ",1,1,1,1,1,1,1,1,", "'9999"),
        ("\x00\x00\x00", "1 columns instead of 10"),
    ],
)
def test_a_broken_row_is_named_and_taken_out_when_a_run_goes_on(row: str, reason: str, tmp_path: Path) -> None:
    lines = whole(tmp_path, 2, events=None).decode().splitlines()
    (tmp_path / "log.csv").write_text("\n".join([lines[0], lines[1], row, lines[2], ""]))
    with pytest.raises(StellarError) as caught:
        read_log(tmp_path / "log.csv")
    assert f"log.csv, line 3 is no row of a log: {reason}" in caught.value.message
    RunLog(tmp_path, 2, events=None).close()
    assert read_log(tmp_path / "log.csv")[0] == [stats_read(1), stats_read(2)]


def test_what_is_no_log_is_said(tmp_path: Path) -> None:
    with pytest.raises(StellarError, match="the log not found"):
        read_log(tmp_path / "log.csv")
    (tmp_path / "other.csv").write_text("name,mass\n")
    with pytest.raises(StellarError, match="no log of a training run") as caught:
        read_log(tmp_path / "other.csv")
    assert "step,epoch,loss" in caught.value.hint
