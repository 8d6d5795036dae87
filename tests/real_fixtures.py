"""Fixtures of tests/real: one run of the whole pipeline on the real model, killed once on its way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Demo:
    """A finished quickstart folder, and what its three runs said: killed while training, finished, repeated."""

    folder: Path
    killed: str
    finished: subprocess.CompletedProcess[str]
    again: subprocess.CompletedProcess[str]


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "stellar_local.cli", "quickstart", "--dir", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, capture_output=True, text=True, encoding="utf-8", cwd=folder.parent, env=env)


def run_and_kill(folder: Path, when: str) -> str:
    """Start it, and kill the whole process group, as a power cut would, once stderr matches `when`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stellar_local.cli", "quickstart", "--dir", str(folder)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert process.stderr
    said = b""
    watchdog = threading.Timer(900, lambda: os.killpg(process.pid, signal.SIGKILL))
    watchdog.start()
    while not re.search(when, said.decode("utf-8", "replace")):
        block = os.read(process.stderr.fileno(), 4096)
        assert block, f"it ended before {when!r}: {said.decode()}"
        said += block
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    watchdog.cancel()
    process.wait()
    process.stderr.close()
    return said.decode("utf-8", "replace")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("quickstart") / "demo"
    killed = run_and_kill(folder, r"(?s)train a LoRA adapter.*?training: [456]0%")
    finished = run(folder)
    assert finished.returncode == 0, finished.stderr
    return Demo(folder, killed, finished, run(folder))
