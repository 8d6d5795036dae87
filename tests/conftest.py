"""Fixtures that all tests share: tiny models made on the spot, the real model, and a command line to run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import write_base

pytest_plugins = [
    "convert_fixtures",
    "doctor_cases",
    "engine_cases",
    "real_fixtures",
    "state_cases",
    "chat_cases",
    "train_runs",
]

# A shell that starts the tests in the background has Ctrl-C ignored in all children; the tests send it on purpose.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the user's settings or writes to the user's data, and all speak English."""
    for name in [name for name in os.environ if name.startswith("STELLAR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STELLAR_CONFIG", str(tmp_path_factory.getbasetemp() / "no-such-config.toml"))
    monkeypatch.setenv("STELLAR_DATA", str(tmp_path_factory.mktemp("data")))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    for name in ("TMUX", "TERM_PROGRAM", "VTE_VERSION", "NO_COLOR"):  # of the terminal that the tests run in
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def spm_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA with a SentencePiece tokenizer and grouped-query attention."""
    return write_base(tmp_path_factory.mktemp("bases") / "spm", "spm")


@pytest.fixture(scope="session")
def bpe_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA with LLaMA 3's kind of tokenizer."""
    return write_base(tmp_path_factory.mktemp("bases") / "bpe", "bpe")


@pytest.fixture(scope="session")
def spm_folder(spm_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SentencePiece base converted under StellarSpeak's template, at two levels."""
    return _convert(spm_base, tmp_path_factory.mktemp("converted") / "spm", "bayling", ["F32", "Q8_0"])


@pytest.fixture(scope="session")
def bpe_folder(bpe_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The byte-level BPE base converted under LLaMA 3's template."""
    return _convert(bpe_base, tmp_path_factory.mktemp("converted") / "bpe", "bayling-llama-3", ["F32"])


def _convert(base: Path, out: Path, template: str, levels: list[str]) -> Path:
    from exporting import export

    from convert.levels import parse_levels

    export(base, [], out, parse_levels(levels), name="tiny", template=template)
    return out


@pytest.fixture(scope="session")
def spm_model(spm_folder: Path) -> Path:
    return spm_folder / "tiny-F32.gguf"


@pytest.fixture(scope="session")
def bpe_model(bpe_folder: Path) -> Path:
    return bpe_folder / "tiny-F32.gguf"


@pytest.fixture(scope="session")
def real_model() -> Path:
    """SmolLM2-135M-Instruct as its package ships it."""
    from stellar_local.quickstart import bundled_model

    return bundled_model()


class Stellar:
    """Runs the command line in a fresh process, as a user does."""

    argv = [sys.executable, "-m", "stellar_local.cli"]

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}

    def __call__(
        self, *arguments: object, input: bytes | str = b"", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        data = input.encode("utf-8") if isinstance(input, str) else input
        done = subprocess.run(
            [*self.argv, *map(str, arguments)],
            input=data,
            capture_output=True,
            timeout=timeout,
            cwd=self.cwd,
            env=self.env,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def loading(self, *arguments: object, input: bytes | str = b"") -> set[str]:
        """The top-level modules that Python has loaded at the end of a command, by its own word."""
        probe = (
            "import sys, atexit\n"
            "def tell(): print('LOADED', *sorted({n.split('.')[0] for n in sys.modules}), file=sys.stderr)\n"
            "atexit.register(tell)\n"
            "from stellar_local.cli import main\n"
            "raise SystemExit(main(sys.argv[1:]))\n"
        )
        self.argv = [sys.executable, "-c", probe]
        done = self(*arguments, input=input)
        assert done.returncode == 0, done.stderr
        return set(done.stderr.rpartition("LOADED ")[2].split())

    def start(self, *arguments: object) -> subprocess.Popen[bytes]:
        """Start it with pipes on all three streams."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*self.argv, *map(str, arguments)], stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.cwd, env=self.env
        )


@pytest.fixture
def stellar(tmp_path: Path) -> Iterator[Stellar]:
    yield Stellar(tmp_path)
