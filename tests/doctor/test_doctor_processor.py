"""The processor against the build, and threads against what a container may use."""

from __future__ import annotations

import pytest
from doctor_cases import CPU_INFO, CUDA0, CUDA_INFO, MODERN, NVIDIA, around, cuda, loaded

from stellar_local.doctor.finding import State
from stellar_local.doctor.probe import Outcome
from stellar_local.doctor.processor import check_processor, check_threads
from stellar_local.texts import Texts

ENGLISH = Texts("en")


def test_all_used() -> None:
    assert check_processor(loaded(), around()).state is State.OK


def test_features_that_lie_idle_are_slow() -> None:
    finding = check_processor(loaded(), around(features=MODERN | {"AVX512", "AVX512_VNNI"}))
    assert finding.state is State.WARNING
    assert "not used: AVX512, AVX512_VNNI" in finding.said.text(ENGLISH)
    assert "--no-binary llama-cpp-python" in finding.fix


def test_they_matter_less_where_a_gpu_computes() -> None:
    """A CUDA wheel is built without AVX2 on purpose."""
    info = CUDA_INFO.replace("AVX2 = 1 | F16C = 1 | FMA = 1 | ", "")
    assert check_processor(cuda(CUDA0, info=info), around(NVIDIA)).state is State.OK
    idle = check_processor(cuda(info=info), around(NVIDIA))
    assert idle.state is State.WARNING
    assert idle.fix.startswith('CMAKE_ARGS="-DGGML_CUDA=on"')


def test_features_that_the_processor_lacks() -> None:
    finding = check_processor(loaded(), around(features=frozenset(["SSE3", "SSSE3", "AVX"])))
    assert finding.state is State.FAILURE
    assert "AVX2, BMI2, F16C, FMA" in finding.said.text(ENGLISH)
    assert "--no-binary" in finding.fix


def test_amx_left_out_is_no_fault() -> None:
    finding = check_processor(loaded(), around(features=MODERN | {"AMX_INT8"}))
    assert finding.state is State.OK
    assert "AMX" in finding.said.text(ENGLISH)
    assert check_processor(loaded(info=CPU_INFO + "AMX_INT8 = 1 | "), around()).state is State.FAILURE


def test_unknown() -> None:
    assert check_processor(Outcome({"stage": "load"}, 1), around()).state is State.SKIPPED
    assert check_processor(loaded(), around(features=frozenset())).state is State.SKIPPED


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_threads(8, 16).state is State.OK
    capped = check_threads(8, 16, 2)
    assert (capped.state, capped.fix) == (State.WARNING, "export STELLAR_THREADS=2")
    assert check_threads(2, 2, 2).state is State.OK
    monkeypatch.setenv("STELLAR_THREADS", "64")
    many = check_threads(8, 16)
    assert (many.state, many.fix) == (State.WARNING, "export STELLAR_THREADS=8")
    assert many.details["threads"] == 64
    monkeypatch.setenv("STELLAR_THREADS", "2")
    assert check_threads(8, 16, 2).state is State.OK
