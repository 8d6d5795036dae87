"""The 64 tokens: really generated with a tiny model, and judged by outcomes of machines that are not here."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from doctor_cases import CPU_INFO, CUDA0, MODERN, NVIDIA, around, cuda, loaded

from stellar_local.doctor.finding import Finding, State
from stellar_local.doctor.generation import TOKENS, check_generation, placed
from stellar_local.doctor.probe import Outcome, ask
from stellar_local.texts import Texts

FACTS: dict[str, Any] = {
    "stage": "answer",
    "load": 1.0,
    "size": 4 << 30,
    "layers": 32,
    "context": 4096,
    "threads": 8,
    "prompt_tokens": 150,
    "tokens": TOKENS,
    "prompt_speed": 900.0,
    "speed": 60.0,
    "finite": True,
    "done": True,
}


def log(**devices: int) -> str:
    """llama.cpp's lines on where its layers are."""
    names = [name for name, count in devices.items() for _ in range(count)]
    return "".join(
        f"load_tensors: layer {n:3d} assigned to device {name}, is_swa = 0\n" for n, name in enumerate(names)
    )


def judged(library: Outcome, text: str = "", load: float = 0, **facts: Any) -> Finding:
    outcome = Outcome({**FACTS, **facts}, 0, "", text)
    return check_generation(outcome, library, around(NVIDIA), "'m.gguf'", 300, load)


def text(finding: Finding) -> str:
    return finding.said.text(Texts("en"))


def test_a_real_generation(spm_model: Path) -> None:
    outcome = ask("probe_generation", 300, model=str(spm_model), seconds=300, tokens=TOKENS)
    assert outcome.done, outcome
    assert outcome.facts["tokens"] == TOKENS
    assert outcome.facts["prompt_tokens"] >= 128
    finding = check_generation(outcome, ask("probe_library", 60), around(), "m", 300)
    assert finding.details["finite"] is True
    assert sum(finding.details["layers"].values()) == 3  # two, and the output
    assert finding.state is not State.FAILURE
    assert f"{TOKENS} tokens at" in text(finding)


def test_a_context_too_small_for_it_all(spm_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_CTX", "64")  # rounded up to 256 by llama.cpp
    outcome = ask("probe_generation", 300, model=str(spm_model), seconds=300, tokens=TOKENS)
    assert outcome.done, outcome
    assert outcome.facts["context"] == 256
    assert outcome.facts["tokens"] == TOKENS


def test_weights_that_are_no_numbers(spm_model: Path, tmp_path: Path) -> None:
    """The output's norm made NaN, as a damaged file may hold: every logit is NaN then."""
    from stellar_local.native.header import read_header

    header = read_header(spm_model)
    (norm,) = (tensor for tensor in header.tensors if tensor.name == "output_norm.weight")
    data = bytearray(spm_model.read_bytes())
    start = header.data_start + norm.offset
    data[start : start + norm.nbytes] = b"\x00\x00\xc0\x7f" * (norm.nbytes // 4)
    path = tmp_path / "nan.gguf"
    path.write_bytes(data)
    outcome = ask("probe_generation", 300, model=str(path), seconds=300, tokens=TOKENS)
    finding = check_generation(outcome, loaded(), around(), f"'{path}'", 300)
    assert finding.state is State.FAILURE
    assert "finite" in text(finding)
    assert finding.fix.startswith("stellar convert")


def test_a_slow_machine_is_cut_short(spm_model: Path) -> None:
    """Nothing fits into no time at all; what came is told, and the child ends by itself."""
    outcome = ask("probe_generation", 300, model=str(spm_model), seconds=0, tokens=TOKENS)
    assert outcome.done
    assert outcome.facts["tokens"] < TOKENS


def test_a_broken_configuration(spm_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text("nonsense = 1\n")
    monkeypatch.setenv("STELLAR_CONFIG", str(tmp_path / "config.toml"))
    outcome = ask("probe_generation", 60, model=str(spm_model), seconds=60, tokens=TOKENS)
    finding = check_generation(outcome, loaded(), around(), "'m.gguf'", 60)
    assert finding.state is State.FAILURE
    assert "nonsense" in text(finding)
    assert finding.fix == "STELLAR_CONFIG=/dev/null stellar doctor 'm.gguf'"


def test_where_the_layers_are() -> None:
    assert placed(log(CPU=3, CUDA0=30)) == {"CPU": 3, "CUDA0": 30}
    assert placed("nothing of the kind") == {}


def test_on_the_processor() -> None:
    finding = judged(loaded(), log(CPU=33))
    assert finding.state is State.OK
    assert "CPU 33/33" in text(finding)
    assert finding.details["tokens_per_second"] == 60.0
    assert "other programs" in text(judged(loaded(), log(CPU=33), load=9.0))


def test_on_the_gpu() -> None:
    assert judged(cuda(CUDA0), log(CUDA0=33)).state is State.OK


def test_a_part_on_the_gpu_and_none() -> None:
    part = judged(cuda(CUDA0), log(CPU=10, CUDA0=23))
    assert part.state is State.WARNING
    assert "CUDA0 23/33, CPU 10/33" in text(part)
    assert part.fix == "stellar chat 'm.gguf' --ctx 2048 --kv q8_0"
    none = judged(cuda(CUDA0), log(CPU=33))
    assert none.state is State.WARNING
    assert "no layer is on the GPU" in text(none)


def test_a_gpu_slower_than_a_processor() -> None:
    """Windows moves to main memory what the GPU's cannot hold, and says nothing."""
    slow = judged(cuda(CUDA0), log(CUDA0=33), speed=3.0)
    assert slow.state is State.WARNING
    assert "moved a part to main memory" in text(slow)
    assert judged(cuda(CUDA0), log(CUDA0=33), speed=3.0, size=100 << 20).state is State.OK  # too small to tell
    assert judged(loaded(), log(CPU=33), speed=3.0).state is State.OK


def test_what_is_no_number() -> None:
    finding = judged(loaded(), log(CPU=33), finite=False)
    assert finding.state is State.FAILURE
    assert judged(cuda(CUDA0), log(CUDA0=33), finite=False).fix.endswith("--gpu-layers 0")


def test_too_slow() -> None:
    assert judged(loaded(), log(CPU=33), tokens=20).state is State.WARNING
    finding = judged(loaded(), log(CPU=33), tokens=0)
    assert finding.state is State.FAILURE
    assert "in the time allowed (300 s) 0 tokens of an answer came" in text(finding)
    assert "tokens/s" not in text(finding)
    assert "tokens_per_second" not in finding.details
    assert finding.fix == "stellar doctor 'm.gguf' --timeout 1200"


@pytest.mark.parametrize(
    ("outcome", "word", "fix"),
    [
        (
            Outcome({"stage": "load"}, -signal.SIGKILL, "SIGKILL"),
            "memory ran out",
            "stellar chat 'm.gguf' --ctx 1024 --kv q8_0",
        ),
        (Outcome({"stage": "prompt"}, -signal.SIGSEGV, "SIGSEGV"), "SIGSEGV", "pip install"),
        (Outcome({"stage": "prompt"}, -signal.SIGILL, "SIGILL"), "AMX", "-mno-amx-tile"),
        (Outcome({"stage": "prompt"}, None), "no answer within 300 s", "stellar doctor --timeout 1200"),
        (
            Outcome(
                {
                    "stage": "load",
                    "error": {"message": "llama.cpp cannot load m.gguf: out of memory", "hint": "smaller"},
                }
            ),
            "hint: smaller",
            "stellar chat 'm.gguf' --ctx 1024",
        ),
        (
            Outcome(
                {
                    "stage": "prompt",
                    "error": {"message": "the model's own chat template cannot be rendered", "hint": ""},
                }
            ),
            "template",
            "--template bayling",
        ),
        (
            Outcome({"stage": "load", "error": {"message": "ImportError: no llguidance", "hint": ""}}),
            "llguidance",
            "pip check",
        ),
    ],
)
def test_what_ends_it(outcome: Outcome, word: str, fix: str) -> None:
    library = loaded(info=CPU_INFO + "AMX_INT8 = 1 | ")
    finding = check_generation(outcome, library, around(features=MODERN | {"AMX_INT8"}), "'m.gguf'", 300)
    assert finding.state is State.FAILURE
    assert word in text(finding)
    assert fix in finding.fix
