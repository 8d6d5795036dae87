"""`stellar plan` as a user runs it: what MODEL may be, what is shown, and that chat and batch then do the first row."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Stellar
from plan_cases import GIB, MIB, ideal_of

from stellar_local.cli import main
from stellar_local.flags import Setup
from stellar_local.native.devices import Device
from stellar_local.native.header import read_header
from stellar_local.plan import hardware
from stellar_local.plan.models import candidates
from stellar_local.plan.shapes import SHAPES

HEAVY = {"torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers"}
Capture = pytest.CaptureFixture[str]


def planned(capsys: Capture, *arguments: object, code: int = 0) -> dict[str, Any]:
    """What --json says, in this process."""
    assert main(["plan", *map(str, arguments), "--json"]) == code
    return dict(json.loads(capsys.readouterr().out))


def shown(capsys: Capture, *arguments: object, code: int = 0) -> str:
    assert main(["plan", *map(str, arguments)]) == code
    return capsys.readouterr().out


def refused(done: subprocess.CompletedProcess[str], sentence: str, code: int = 1) -> None:
    """One sentence on stderr, nothing on stdout."""
    assert (done.returncode, done.stdout) == (code, "")
    errors = [line for line in done.stderr.splitlines() if not line.startswith("  hint: ")]
    assert len(errors) == 1, done.stderr
    assert sentence in errors[0]
    assert errors[0].startswith("stellar: error: ")


def check_sums(value: dict[str, Any]) -> None:
    for use in {"chat", "batch"} & set(value):
        for plan in (*value[use]["plans"], *value[use]["refused"]):
            for parts in plan["memory"].values():
                assert parts["total"] == sum(size for name, size in parts.items() if name != "total")
            assert plan["fits"] == (plan in value[use]["plans"])
            assert (plan["spare"] >= 0) == plan["fits"]
            assert {"RAM", *(gpu["name"] for gpu in value["machine"]["gpus"])} == set(plan["memory"])


def test_a_folder_as_a_table(stellar: Stellar, spm_folder: Path) -> None:
    done = stellar("plan", spm_folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert [done.stdout.count(name) for name in ("stellar chat", "stellar batch")] == [1, 1]
    rows = re.findall(r"^(F32|Q8_0) +([\d,]+) +(\w+) +(\d+) +(\d.*)$", done.stdout, re.MULTILINE)
    assert [row[:4] for row in rows] == [
        ("Q8_0", "512", "f16", "1"),
        ("F32", "512", "f16", "1"),
        ("Q8_0", "8,192", "f16", "16"),
        ("F32", "8,192", "f16", "16"),
    ]


def test_a_single_file_with_llama_cpps_word_on_it(stellar: Stellar, spm_model: Path) -> None:
    done = stellar("plan", spm_model, "--json")
    value = json.loads(done.stdout)
    check_sums(value)
    (plan,) = value["chat"]["plans"]
    assert (plan["model"], plan["level"], plan["ctx"], plan["kv"]) == (str(spm_model), "F32", 512, "f16")
    assert plan["probed"]
    assert plan["memory"]["RAM"]["weights"] == sum(tensor.nbytes for tensor in read_header(spm_model).tensors)


def test_a_file_of_which_only_the_header_is_there(stellar: Stellar, spm_model: Path, tmp_path: Path) -> None:
    header, data = read_header(spm_model), spm_model.read_bytes()
    (tmp_path / "whole-F32.gguf").write_bytes(data)
    (tmp_path / "cut-F32.gguf").write_bytes(data[: header.data_start])
    (tmp_path / "in-F32.gguf").write_bytes(data[: header.data_start // 2])
    plans = [json.loads(stellar("plan", f"{name}-F32.gguf", "--json").stdout)["batch"] for name in ("whole", "cut")]
    for plan in (each for one in plans for each in one["plans"]):
        plan.pop("model")
        plan.pop("spare")  # what is free changes
        assert plan["probed"]
    assert plans[0] == plans[1]
    refused(stellar("plan", "in-F32.gguf"), "truncated GGUF file: in-F32.gguf")


def test_what_is_no_model_is_one_sentence(stellar: Stellar, tmp_path: Path, spm_base: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello\n")
    refused(stellar("plan", "text.gguf"), "not a GGUF file: text.gguf")
    refused(stellar("plan", "70b"), "model not found: 70b")
    refused(stellar("plan", spm_base), "(a Hugging Face folder)")
    refused(stellar("plan"), "plan what?", 2)


def test_damaged_files_beside_good_ones_are_told_of(spm_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(spm_folder, tmp_path / "model")
    (tmp_path / "model" / "tiny-Q2_K.gguf").write_bytes(b"GGUF")
    assert main(["plan", str(tmp_path / "model")]) == 0
    said = capsys.readouterr()
    assert re.match(r"stellar: warning: truncated GGUF file: .*tiny-Q2_K.gguf\n$", said.err)
    assert "Q2_K" not in said.out


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_before_any_download(name: str, capsys: Capture) -> None:
    value = planned(capsys, name.upper(), "--vram", "24GiB", "--ram", "64GiB", "--level", "q4_k_m")
    check_sums(value)
    for use, at_once in (("chat", 1), ("batch", {"7b": 64, "8b": 64, "13b": 32}[name])):
        (plan,) = value[use]["plans"]
        assert (plan["parallel"], plan["level"], plan["kv"]) == (at_once, "Q4_K_M", "f16")
        assert plan["gpu_layers"] == plan["layers"] == {"7b": 33, "8b": 33, "13b": 41}[name]
        assert plan["memory"]["GPU0"]["total"] <= 24 * GIB
        assert not plan["probed"]
    assert value["machine"] == {
        "ram": 64 * GIB,
        "stated": True,
        "gpus": [value["machine"]["gpus"][0] | {"name": "GPU0", "free": 24 * GIB, "total": 24 * GIB}],
    }


def test_several_cards_and_main_memory(capsys: Capture) -> None:
    value = planned(capsys, "13b", "--vram", "6GiB,4000MiB", "--ram", "9", "--for", "chat")
    check_sums(value)
    assert set(value) == {"machine", "chat"}
    assert [gpu["free"] for gpu in value["machine"]["gpus"]] == [6 * GIB, 4000 * MIB]
    assert value["machine"]["ram"] == 9 * GIB
    for plan in value["chat"]["plans"]:
        assert plan["memory"]["GPU0"]["total"] <= 6 * GIB
        assert plan["memory"]["GPU1"]["total"] <= 4000 * MIB
        assert plan["memory"]["RAM"]["total"] <= 9 * GIB
    only = planned(capsys, "7b", "--ram", "6GiB", "--gpu-layers", "0", "--for", "batch")
    assert all(set(plan["memory"]) == {"RAM"} for plan in only["batch"]["plans"])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--vram", "much"], "--vram must be a size as in 8GiB, not 'much'"),
        (["--vram", "8,,8"], "--vram must be a size"),
        (["--ram", "0"], "--ram must be a size"),
        (["--kv", "q2"], "--kv must be"),
        (["--ctx", "3"], "--ctx must be"),
        (["--level", "Q9"], "unknown level: Q9"),
        (["--parallel", "65"], "65 is not in the range"),
        (["--for", "train"], "'train' is not one of"),
        (["--cards"], "--cards plans for BayLing's sizes"),
    ],
)
def test_what_cannot_be_asked(flags: list[str], sentence: str, capsys: Capture) -> None:
    assert main(["plan", "7b", *flags]) == 2
    said = capsys.readouterr()
    assert (said.out, sentence in said.err) == ("", True), said.err


def test_what_is_fixed_is_honoured_and_checked(capsys: Capture) -> None:
    fixed = ["--ctx", 6000, "--kv", "q4_0", "--gpu-layers", 20, "--parallel", 3, "--level", "Q4_K_M"]
    for vram, code in (("8GiB", 0), ("2GiB", 1)):
        value = planned(capsys, "13b", "--vram", vram, *fixed, code=code)
        check_sums(value)
        for use, at_once in (("chat", 1), ("batch", 3)):
            (plan,) = value[use]["refused" if code else "plans"]
            assert (plan["ctx"], plan["kv"], plan["gpu_layers"], plan["parallel"]) == (6000, "q4_0", 20, at_once)
            if code:
                assert re.fullmatch(
                    r"13b Q4_K_M needs 4.\d GiB at 6,000; 2.0 GiB of GPU memory and .* GiB of main memory are not .*",
                    plan["reason"],
                )
    own = planned(capsys, "7b", "--vram", 24, "--per-request", 300, "--for", "batch", "--level", "Q4_K_M")
    assert own["batch"]["plans"][0]["ctx"] == 64 * 300


def test_the_refusal_says_how_it_would_fit(capsys: Capture) -> None:
    out = shown(capsys, "13b", "--vram", "8GiB", "--level", "Q4_K_M", "--for", "chat")
    assert re.search(
        r"  13B Q4_K_M needs 11.\d GiB at 4,096; with q8_0 KV instead of f16, 3\d of 41 layers on the GPU "
        r"it fits 8.0 GiB, slower\n",
        out,
    )
    out = shown(capsys, "13b", "--vram", "8GiB", "--level", "Q4_K_M", "--for", "chat", "--ui-lang", "zh")
    assert re.search(r"  13B Q4_K_M 在 4,096 个 token 时需要 11.\d GiB；.*，就能放进 8.0 GiB，但较慢\n", out)
    assert "显存 GiB" in out


def test_nothing_fits(stellar: Stellar) -> None:
    done = stellar("plan", "13b", "--ram", "1GiB", "--ui-lang", "zh")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.count("怎么都放不下") == 16
    assert done.stdout.startswith("内存：可用 1.0 GiB\n")


def test_cards(capsys: Capture) -> None:
    value = planned(capsys, "--cards")
    assert [(row["card"], row["gib"], row["computed_only"]) for row in value["chat"]] == [
        *(("NVIDIA", size, False) for size in (8, 10, 12, 16, 24)),
        *(("Apple", size, True) for size in (8, 16, 24, 36)),
    ]
    assert all(row[name]["fits"] for use in value.values() for row in use for name in SHAPES)
    first = value["chat"][2]["13b"]
    out = shown(capsys, "--cards", "--ui-lang", "zh")
    line = next(line for line in out.splitlines() if "NVIDIA 12 GiB" in line)
    assert f"{first['level']}，{first['ctx']:,}" in line
    assert "* 由计算得出，没有在这种机器上试过" in out
    assert "Apple 36 GB *" in shown(capsys, "--cards")


def test_nobody_says_what_is_free(spm_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: None)
    monkeypatch.setattr(hardware, "gpus", list)
    value = planned(capsys, spm_folder)
    for use in ("chat", "batch"):
        assert [plan["level"] for plan in value[use]["plans"]] == ["Q8_0", "F32"]  # chat takes the smallest
        assert value[use]["refused"] == []
    out = shown(capsys, spm_folder)
    assert out.startswith("this system does not say how much memory is free\n")
    assert "needs" not in out


def test_it_loads_nothing_heavy(stellar: Stellar, spm_folder: Path) -> None:
    loaded = stellar.loading("plan", spm_folder)
    assert "stellar_local" in loaded
    assert not loaded & HEAVY


def test_the_loss_is_in_words(capsys: Capture) -> None:
    out = shown(capsys, "7b", "--vram", "24GiB", "--for", "chat")
    for level, word in (("Q8_0", "none"), ("Q4_K_M", "little"), ("Q2_K", "very")):
        assert re.search(rf"^{level} .* {word}( much)? *$", out, re.MULTILINE), out


@pytest.mark.parametrize(("use", "missing"), [*itertools.product(("chat", "batch"), (0, 1, MIB)), ("chat", 8 * MIB)])
def test_the_first_row_is_what_runs(
    use: str, missing: int, spm_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Where the best level as it should be fits, or fails to by a byte, a MiB or more than its scores take."""
    wish = {} if use == "chat" else {"parallel": None}
    ideal = ideal_of(candidates(spm_folder, "Q8_0"), hardware.Machine(0), **wish).refused[0]
    assert ideal.short is not None
    free = ideal.short - missing
    monkeypatch.setattr(hardware, "available_memory", lambda: free)
    monkeypatch.setattr(hardware, "gpus", list)
    (first, *_) = [
        *planned(capsys, spm_folder, "--for", use, code=int(missing > 7 * MIB))[use]["plans"],
        None,
    ]
    assert (first is None) == (missing > 7 * MIB)  # there is nothing to give up of 512 tokens
    with Setup({}, verbose=False).open(spm_folder, parallel=1 if use == "chat" else None) as runtime:
        context = runtime.engine.context
        assert runtime.model.path.name == "tiny-Q8_0.gguf"
        if first:
            assert first["model"] == str(runtime.model.path)
            assert (context.n_ctx, context.kv_type, runtime.engine.parallel) == (
                first["ctx"],
                first["kv"],
                first["parallel"],
            )
            assert context.flash == first["flash"] == (use == "batch" or missing > 0)
            assert first["parallel"] == (1 if use == "chat" else 8 if missing else 16)


def test_what_depends_on_its_line_alone_depends_on_no_free_memory(spm_model: Path) -> None:
    """The words may differ between the two kinds of attention, of which one needs more memory."""
    for deterministic in (False, True):
        with Setup({}, verbose=False).open(spm_model, deterministic=deterministic) as runtime:
            assert runtime.engine.context.flash == deterministic
    with Setup({"flash_attn": "off"}, verbose=False).open(spm_model, deterministic=True) as runtime:
        assert not runtime.engine.context.flash


def test_the_layers_of_the_first_row_are_those_that_open(
    spm_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A card that this build does not use, so that a probe says that nothing is computed there."""
    file = spm_folder / "tiny-Q8_0.gguf"
    ideal = ideal_of(candidates(file), hardware.Machine(None, (Device("CUDA0", "", 1, 1, False),)), gpu_layers=1)
    (plan,) = ideal.refused
    free = plan.need.on_gpus.total + 128 * MIB - hardware.CUDA_CONTEXT  # for one layer, before it was asked
    monkeypatch.setattr(hardware, "gpus", lambda: [Device("CUDA0", "a card", free, free, False)])
    first = planned(capsys, file, "--for", "chat")["chat"]["plans"][0]
    with Setup({}, verbose=False).open(file) as runtime:
        assert min(runtime.model.gpu_layers, plan.model.weights.layers) == first["gpu_layers"] > 1
