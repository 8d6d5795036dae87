"""`stellar doctor` as a user runs it: healthy, with a damaged model, with a broken library, and in both languages."""

from __future__ import annotations

import json
import platform
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Stellar
from damage import cut
from doctor_cases import LINUX, around, fake_llama, loaded, program

from stellar_local.doctor import cards
from stellar_local.doctor.examination import Examination, Order, examine
from stellar_local.doctor.finding import Finding, State, failure, ok, said, warning
from stellar_local.doctor.report import Report, as_json, healthy
from stellar_local.texts import LANGUAGES, Texts, catalogue

ALWAYS = {
    "python",
    "platform",
    "library",
    "build",
    "gpu",
    "driver",
    "processor",
    "threads",
    "memory",
    "disk",
    "data",
    "training",
}


def report(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The checks of a JSON report by their ids."""
    data = json.loads(done.stdout)
    assert set(data) == {"healthy", "version", "checks"}
    assert (done.returncode == 0) == data["healthy"], done.stdout
    rows = {row["id"]: row for row in data["checks"]}
    assert len(rows) == len(data["checks"])
    for row in rows.values():
        assert set(row) == {"id", "state", "found", "fix", "details"}
        assert row["found"]
        assert "\n" not in row["found"]
        assert row["fix"] or row["state"] in ("ok", "skipped"), row
        assert not (row["fix"] and row["state"] == "ok"), row
    assert data["healthy"] == all(row["state"] != "failure" for row in rows.values())
    return rows


@pytest.mark.usefixtures("sound_machine")
@pytest.mark.real
def test_the_real_model_is_healthy_here(stellar: Stellar, real_model: Path) -> None:
    """The bundled model, which is taken where none is named."""
    done = stellar("doctor", "--json", timeout=400)
    assert done.returncode == 0, done.stdout
    rows = report(done)
    assert set(rows) >= ALWAYS | {"model", "model-template", "model-tokens", "generation"}
    assert rows["model"]["details"]["file"] == str(real_model)
    assert rows["generation"]["details"]["tokens"] == 64
    assert rows["generation"]["details"]["tokens_per_second"] > 0
    assert done.stderr == ""


@pytest.mark.usefixtures("sound_machine")
def test_a_folder_for_people(stellar: Stellar, spm_folder: Path) -> None:
    done = stellar("doctor", spm_folder, timeout=400)
    assert done.returncode == 0, done.stdout
    assert "Healthy." in done.stdout
    assert "as in manifest.json" in done.stdout
    margin = done.stdout.splitlines()[0].index(platform.python_version())
    for line in done.stdout.splitlines():
        assert len(line) <= 100 or " " not in line[margin:], line  # a long path is one word, and not broken
    assert not re.search(r"\{\w+\}", done.stdout)  # a text whose value is missing
    assert done.stderr == ""


@pytest.mark.usefixtures("sound_machine")
def test_in_chinese_by_the_locale(stellar: Stellar, spm_model: Path) -> None:
    stellar.env["LC_ALL"] = "zh_CN.UTF-8"
    done = stellar("doctor", spm_model, timeout=400)
    assert done.returncode == 0, done.stdout
    assert "一切正常" in done.stdout
    assert "模型文件" in done.stdout
    stellar.env["LC_ALL"] = "C"
    assert "一切正常" in stellar("doctor", spm_model, "--ui-lang", "zh", timeout=400).stdout


def test_a_damaged_model(stellar: Stellar, spm_model: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(spm_model, tmp_path / "my model.gguf"))
    cut(path, -5000)
    done = stellar("doctor", path, "--json", timeout=400)
    assert done.returncode == 1
    rows = report(done)
    assert rows["model"]["state"] == "failure"
    assert rows["generation"]["state"] == "skipped"
    assert set(rows) >= ALWAYS
    plain = stellar("doctor", path, timeout=400)
    assert plain.returncode == 1
    assert "✗ model file" in plain.stdout
    assert "download or convert it again" in plain.stdout
    assert "→ stellar convert --base BASE --out NEW" in plain.stdout
    assert "Not healthy. Failures: " in plain.stdout


def test_a_model_that_is_not_there(stellar: Stellar) -> None:
    done = stellar("doctor", "none.gguf", "--json", timeout=400)
    assert done.returncode == 1
    assert "not found" in report(done)["model"]["found"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("import time; time.sleep(600)", "no answer within 5 s"),
        (
            "raise RuntimeError(\"Failed to load shared library '/x/libllama.so': libcudart.so.12: "
            'cannot open shared object file: No such file or directory")',
            "libcudart.so.12 is missing",
        ),
    ],
    ids=["illegal", "hangs", "missing"],
)
def test_a_broken_library(code: str, words: str, stellar: Stellar, spm_model: Path, tmp_path: Path) -> None:
    """A package in the place of llama-cpp-python: the doctor outlives it, and what needs no library is looked at."""
    fake_llama(tmp_path / "fake", code)
    stellar.env["PYTHONPATH"] = f"{tmp_path / 'fake'}:{stellar.env['PYTHONPATH']}"
    done = stellar("doctor", spm_model, "--json", "--timeout", "5", timeout=400)
    assert done.returncode == 1
    rows = report(done)
    assert rows["library"]["state"] == "failure"
    assert words in rows["library"]["found"]
    assert rows["library"]["fix"]
    assert {rows[name]["state"] for name in ("generation", "gpu", "model")} == {"skipped"}
    assert {rows[name]["state"] for name in ("python", "memory", "disk")} <= {"ok", "warning"}


def test_a_gpu_that_lies_idle(stellar: Stellar, spm_model: Path, tmp_path: Path) -> None:
    """nvidia-smi says that there is a card; the build here is for the processor."""
    program(
        tmp_path / "bin",
        "nvidia-smi",
        'case "$1" in --query-gpu*) echo "NVIDIA GeForce RTX 3090, 24576, 24115, 00000000:01:00.0, 535.183.01, 8.6";; '
        '*) echo "Driver Version: 535.183.01   CUDA Version: 12.2";; esac',
    )
    stellar.env["PATH"] = f"{tmp_path / 'bin'}:{stellar.env['PATH']}"
    done = stellar("doctor", spm_model, "--json", timeout=400)
    rows = report(done)
    if rows["gpu"]["details"]["llama_cpp"]:
        pytest.skip("llama.cpp uses a GPU here")
    assert done.returncode == 1
    assert "RTX 3090" in rows["gpu"]["found"]
    assert "--extra-index-url https://abetlen.github.io/llama-cpp-python/whl/cu122" in rows["gpu"]["fix"]
    assert rows["driver"]["details"] == {"version": "535.183.01", "cuda": "12.2", "capabilities": ["8.6"]}
    assert rows["gpu-memory"]["details"]["gpus"][0]["total"] == 24576 << 20
    assert rows["generation"]["state"] != "failure"  # it works, on the processor


@pytest.mark.usefixtures("sound_machine")
def test_it_is_light(stellar: Stellar, spm_model: Path) -> None:
    """What may crash is loaded by the children alone."""
    found = stellar.loading("doctor", spm_model)
    assert not found & {"torch", "transformers", "peft", "llama_cpp", "numpy", "gguf", "llguidance"}


def test_without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_local.doctor.examination.bundled_file", lambda: None)
    examination = Examination(Order())
    rows = {finding.id: finding for finding in examine(stubbed(examination))}
    assert rows["model"].state is State.SKIPPED
    assert rows["model"].fix == "stellar doctor MODEL"
    assert rows["generation"].state is State.SKIPPED
    assert "model-tokens" not in rows


def stubbed(examination: Examination) -> Examination:
    """An examination whose slow findings are there already."""
    examination.__dict__.update(around=around(), loaded=loaded(), machine=LINUX)
    return examination


def test_a_check_that_breaks_is_said_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_local.doctor.examination.bundled_file", lambda: None)

    def broken(*_arguments: object) -> Finding:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("stellar_local.doctor.surroundings.check_python", broken)
    monkeypatch.setattr("stellar_local.doctor.graphics.check_gpu", broken)
    rows = {finding.id: finding for finding in examine(stubbed(Examination(Order())))}
    for name in ("python", "gpu"):
        assert rows[name].state is State.FAILURE
        assert "ZeroDivisionError: oh" in rows[name].said.text(Texts("en"))
        assert rows[name].fix
    assert rows["library"].state is State.OK
    assert rows["disk"].id == "disk"


def test_what_cannot_be_collected_breaks_no_more_than_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_local.doctor.examination.bundled_file", lambda: None)

    def broken(*_arguments: object) -> cards.Cards:
        raise OSError("no /sys")

    monkeypatch.setattr("stellar_local.doctor.cards.collect", broken)
    examination = Examination(Order())
    examination.__dict__.update(loaded=loaded())
    rows = {finding.id: finding for finding in examine(examination)}
    assert rows["gpu"].state is State.FAILURE
    assert "no /sys" in rows["gpu"].said.text(Texts("en"))
    assert rows["python"].state is State.OK
    assert rows["memory"].id == "memory"


FINDINGS = [
    ok("python", said("doctor.gpu_none"), version="3"),
    warning("memory", said("doctor.memory", free="1 GiB").and_then(said("doctor.memory_low")), "ps aux"),
    failure("gpu", said("doctor.said", words="\x1b[31mred\nnext {free}"), "pip install 'x'"),
]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_report_stands_in_columns(language: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Report(Texts(language))
    shown.labelled(finding.id for finding in FINDINGS)
    for finding in FINDINGS:
        shown.begin(finding.id)
        shown.show(finding)
    shown.end(FINDINGS)
    out = capsys.readouterr().out
    assert "\x1b" not in out  # neither ours, as this is no terminal, nor a message's
    assert "next {free}" in out
    lines = out.splitlines()
    assert [line[2] for line in lines if line[2:3] in tuple("✓!✗-")] == ["✓", "!", "✗"]
    assert [line.strip() for line in lines if "→" in line][:2] == ["→ ps aux", "→ pip install 'x'"]


def test_json_is_english_and_stable() -> None:
    data = json.loads(as_json(FINDINGS))
    assert not data["healthy"]
    assert [row["state"] for row in data["checks"]] == ["ok", "warning", "failure"]
    assert data["checks"][1]["found"] == "1 GiB free; that is little: a 7B model needs about 5 GiB"
    assert data["checks"][0]["fix"] is None
    assert healthy(FINDINGS[:2])


def test_every_check_has_a_name_and_every_sentence_exists() -> None:
    """The keys in the code against texts.json; values that a sentence wants are tried by the tests of each check."""
    for id, _ in Examination(Order()).checks():
        assert f"doctor.id_{id.replace('-', '_')}" in catalogue()
    folder = Path(cards.__file__).parent
    source = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    named = set(re.findall(r'"(doctor\.[a-z_0-9]+)"', source))
    assert named <= set(catalogue())
    families = set(re.findall(r'f"(doctor\.[a-z_]+)\{', source))
    assert families == {"doctor.id_", "doctor.stage_", "doctor.blind_", "doctor.driver_"}
    unnamed = {key for key in catalogue() if key.startswith("doctor.")} - named
    assert all(any(key.startswith(family) for family in families) for key in unnamed)
    stages = set(re.findall(r'stage="(\w+)"', source))
    assert {f"doctor.stage_{stage}" for stage in stages} <= set(catalogue())


@pytest.mark.skipif(
    not hasattr(signal, "SIGTERM") or not Path("/proc").is_dir(), reason="processes are looked up in /proc"
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_leaves_no_child_behind(number: int, code: int, stellar: Stellar, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    fake_llama(tmp_path / "fake", f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    stellar.env["PYTHONPATH"] = f"{tmp_path / 'fake'}:{stellar.env['PYTHONPATH']}"
    process = stellar.start("doctor")
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    status = Path("/proc") / pid.read_text() / "status"
    assert not status.exists() or "zombie" in status.read_text()
