"""Child processes that die in every way, for real, and what is told of them."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from doctor_cases import CPU_INFO, CUDA_INFO, MODERN, NVIDIA, around, fake_llama

from stellar_local.doctor.deaths import explain
from stellar_local.doctor.machine import Ran, c_library, in_container, old_gcc, run, this_machine, tool
from stellar_local.doctor.probe import Outcome, _signal, ask
from stellar_local.texts import Texts

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")


def probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, timeout: float = 60) -> Outcome:
    """The probe of the library, with a package in llama-cpp-python's place that runs this code when it is imported."""
    monkeypatch.syspath_prepend(fake_llama(tmp_path / "fake", code))
    return ask("probe_library", timeout)


def told(outcome: Outcome, **more: object) -> tuple[str, str]:
    words, fix = explain(outcome, around(**more), seconds=5)
    return words.text(Texts("en")), fix


@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV", "SIGKILL", "SIGBUS"])
def test_a_signal_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = probed(tmp_path, monkeypatch, f"import os, signal; os.kill(os.getpid(), signal.{name})")
    assert (outcome.signal, outcome.stage, outcome.done) == (name, "load", False)
    text, fix = told(outcome)
    assert name in text
    assert "loading" in text
    assert fix


def test_an_abort_is_told_in_ggml_s_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os; os.write(2, b'ggml.c:42: GGML_ASSERT(n > 0) failed\\nsome frame\\n'); os.abort()"
    outcome = probed(tmp_path, monkeypatch, code)
    assert outcome.signal == "SIGABRT"
    assert "GGML_ASSERT(n > 0) failed" in told(outcome)[0]


def test_a_hanging_library_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    outcome = probed(tmp_path, monkeypatch, "import time; time.sleep(600)", timeout=5)
    assert time.monotonic() - started < 60
    assert outcome.timed_out
    text, fix = told(outcome)
    assert "no answer within 5 s" in text
    assert fix == "stellar doctor --timeout 60"
    assert told(outcome, cards=NVIDIA)[1] == "sudo reboot"


def test_a_silent_exit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = probed(tmp_path, monkeypatch, "import os; os.write(2, b'license expired\\n'); os._exit(7)")
    text, fix = told(outcome)
    assert "code 7" in text
    assert "license expired" in text
    assert fix


def test_what_libraries_print_is_no_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = probed(tmp_path, monkeypatch, "import os; os.write(1, b'{\"done\": true}\\n'); raise RuntimeError('no')")
    assert not outcome.done
    assert outcome.error
    assert '"done"' in outcome.log


def test_the_child_finds_what_its_parent_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the standard library's name in the user's folder is not imported: our own path counts."""
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    outcome = ask("probe_library", 60)
    assert outcome.done, outcome
    assert outcome.facts["backends"]
    assert "AVX" in str(outcome.facts["system_info"]) or "NEON" in str(outcome.facts["system_info"])


def test_a_program_that_leaves_children_is_ended_with_them(tmp_path: Path) -> None:
    """A pipe held by a grandchild would keep us waiting."""
    marker = tmp_path / "alive"
    started = time.monotonic()
    ran = run(["sh", "-c", f"(sleep 3; touch {marker}) & echo one; sleep 600"], timeout=1)
    assert ran == Ran(None, "one\n", "")
    assert time.monotonic() - started < 30
    time.sleep(4)
    assert not marker.exists()


def test_programs_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run([str(tmp_path / "none")]) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tool("nvidia-smi") is None
    assert tool("nvidia-smi", "x", elsewhere=["/bin/echo"]) == Ran(0, "x\n", "")


def test_exit_codes() -> None:
    assert _signal(-signal.SIGSEGV) == "SIGSEGV"
    assert _signal(3) == ""
    assert _signal(0xC000001D) == _signal(0xC000001D - (1 << 32)) == "SIGILL"  # Windows, unsigned and signed
    assert _signal(0xC0000005) == "SIGSEGV"
    assert _signal(-200) == "signal 200"


def died(stage: str) -> Outcome:
    return Outcome({"stage": stage}, -signal.SIGILL, "SIGILL")


def test_amx_is_recognised_at_the_first_prompt() -> None:
    """llama.cpp built by a GCC before 14 loads, and dies at the first prompt; the Makefile avoids it."""
    amx = CPU_INFO + "AMX_INT8 = 1 | "
    has = MODERN | {"AMX_INT8"}
    words, fix = explain(died("prompt"), around(features=has), amx)
    assert "AMX" in words.text(Texts("en"))
    assert "GCC" in words.text(Texts("en"))
    assert fix.startswith("CMAKE_ARGS=\"-DCMAKE_C_FLAGS='-mno-amx-tile")
    words, fix = explain(died("prompt"), around(NVIDIA, features=has), CUDA_INFO + "AMX_INT8 = 1 | ", ("CUDA", "CPU"))
    assert fix.startswith('CMAKE_ARGS="-DGGML_CUDA=on -DCMAKE_C_FLAGS=')  # and stays a build for the GPU


def test_an_instruction_that_the_processor_lacks_is_named() -> None:
    words, fix = explain(died("prompt"), around(features=frozenset(["SSE3", "SSSE3", "AVX"])), CPU_INFO)
    assert "needs AVX2, BMI2, F16C, FMA" in words.text(Texts("en"))
    assert "--no-binary llama-cpp-python" in fix
    assert "amx" not in fix


def test_an_instruction_that_nobody_can_name() -> None:
    """It died when it was loaded: what it was built with is not known, what the processor has is."""
    words, fix = explain(died("load"), around())
    assert "built for another processor" in words.text(Texts("en"))
    assert "AVX2" in words.text(Texts("en"))
    assert "--no-binary" in fix


def test_a_rebuild_leaves_amx_out_under_an_old_gcc() -> None:
    assert "amx" in around(features=MODERN | {"AMX_INT8"}, old_gcc=True).rebuild()
    assert "amx" not in around(features=MODERN | {"AMX_INT8"}).rebuild()
    assert "amx" not in around(old_gcc=True).rebuild()
    assert old_gcc(Ran(0, "12\n"), Ran(0, "cc (Debian 12.2.0-14) 12.2.0"))
    assert old_gcc(Ran(0, "13.2.0\n"), None)
    assert not old_gcc(Ran(0, "14\n"), Ran(0, "gcc 14"))
    assert not old_gcc(Ran(0, "4.2.1\n"), Ran(0, "Apple clang version 15.0.0"))
    assert not old_gcc(None, None)


def test_this_machine() -> None:
    machine = this_machine()
    assert machine.python[0] == 3
    assert machine.bits == 64
    assert shutil.which("sh")
    if machine.system == "Linux":
        assert machine.libc


def test_c_libraries_and_containers(tmp_path: Path) -> None:
    assert c_library(("glibc", "2.35"), tmp_path) == "glibc 2.35"
    assert c_library(("", ""), tmp_path) == ""
    (tmp_path / "ld-musl-x86_64.so.1").touch()
    assert c_library(("", ""), tmp_path) == "musl"
    assert c_library(("musl", "1.2.4"), tmp_path / "none") == "musl"
    assert not in_container(tmp_path)
    (tmp_path / "proc" / "1").mkdir(parents=True)
    (tmp_path / "proc" / "1" / "cgroup").write_text("12:pids:/kubepods/besteffort/pod1\n")
    assert in_container(tmp_path)
    (tmp_path / "proc" / "1" / "cgroup").write_text("0::/init.scope\n")
    (tmp_path / ".dockerenv").touch()
    assert in_container(tmp_path)
