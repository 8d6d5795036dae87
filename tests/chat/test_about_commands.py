"""/plan: what the model in hand takes, and for each level beside it whether it would fit in its place."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from chat_cases import Talk, opened
from plan_cases import GIB, MIB, cards

from stellar_local.chat import about_commands
from stellar_local.plan.estimate import estimate
from stellar_local.plan.hardware import Machine
from stellar_local.plan.opening import running
from stellar_local.plan.weights import Weights
from stellar_local.texts import Texts


def lines(talk: Talk, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Each level's line, by its file."""
    monkeypatch.setattr(about_commands, "this_machine", lambda on_gpu: machine)
    rows = [" ".join(line.split()) for line in talk.say("/plan") if line.endswith(".gguf")]
    return {row.split()[-1]: row for row in rows}


def test_what_fits_in_its_place(spm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(spm_folder / "tiny-F32.gguf", None) as talk:
        for machine, word in [
            (Machine(8 * GIB), "fits"),
            (Machine(MIB), "too large"),
            (Machine(None), "not known"),
            (cards(8 * GIB), "fits"),
            (cards(256 * MIB, ram=8 * GIB), "fits"),  # the card that this model was said to leave has room for its like
        ]:
            rows = lines(talk, machine, monkeypatch)
            assert set(rows) == {"tiny-F32.gguf", "tiny-Q8_0.gguf"}
            assert rows["tiny-F32.gguf"].startswith("* F32 ")
            assert rows["tiny-Q8_0.gguf"].startswith("Q8_0 ")
            assert f"iB {word} tiny" in rows["tiny-F32.gguf"], machine


def test_what_it_takes(spm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(spm_folder / "tiny-F32.gguf", None) as talk:
        monkeypatch.setattr(about_commands, "this_machine", lambda on_gpu: Machine(3 * GIB))
        first, second, *_ = talk.say("/plan")
        assert first.endswith("(512 tokens, f16), computing 8 MiB")
        assert second == "free memory now: 3.0 GiB"
        talk.chat.texts = Texts("zh")
        assert talk.say("/plan")[1] == "现在的可用内存：3.0 GiB"


def test_attention_that_was_not_asked_for_is_not_held_to(spm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model in hand has memory for all scores; what /model would open in its place need not."""
    with opened(spm_folder / "tiny-F32.gguf", None) as talk:
        runtime = talk.chat.runtime
        assert runtime.options.flash_attn == "off"
        weights = Weights.of(runtime.model.header)
        with_it = estimate(weights, replace(running(runtime.engine.context), flash=True), Machine(None))
        rows = lines(talk, Machine(with_it.host.total + 128 * MIB), monkeypatch)
        assert "iB fits tiny" in rows["tiny-F32.gguf"]


def test_a_file_of_another_name(spm_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No .gguf in its name; alone in its folder, and beside others."""
    shutil.copy(spm_model, tmp_path / "model.bin")
    with opened(tmp_path / "model.bin", None) as talk:
        assert any(line.endswith("fits  model.bin") for line in talk.say("/plan"))
        shutil.copy(spm_model, tmp_path / "tiny-Q8_0.gguf")
        assert any(line.endswith("fits  model.bin") for line in talk.say("/plan"))
