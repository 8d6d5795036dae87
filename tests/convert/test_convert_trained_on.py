"""Which base an adapter was trained on: what refuses, what warns, and copies of one base that pass in silence."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import write_adapter, write_base
from transformers import AutoModelForCausalLM

from convert.checkpoint import Checkpoint
from convert.compare import is_finite, is_zero, same_numbers, same_rows
from convert.safetensors import same_values
from convert.trained_on import check_trained_on
from stellar_local.errors import ModelError
from stellar_local.files import sha256


@pytest.fixture(scope="module")
def base(bases: Callable[[str], Path]) -> Path:
    return bases("spm-gqa-64")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same shape, with the same config.json, but other weights."""
    return write_base(tmp_path_factory.mktemp("other") / "base", seed=9)


def record(adapter: Path, base: Path | str, config: str) -> Path:
    """What `stellar train` leaves."""
    adapter.mkdir(exist_ok=True)
    run = {"base": str(base), "base_config": config, "data": "0" * 64}
    (adapter / "training.json").write_text(json.dumps({"steps": 3, "run": run}), encoding="utf-8")
    return adapter


def check(adapter: Path, named: str | Path, base: Path) -> None:
    check_trained_on(adapter, str(named), Checkpoint.open(base))


def test_the_record_is_the_one_that_training_writes(base: Path, tmp_path: Path) -> None:
    from convert import trained_on
    from train.config import TrainConfig
    from train.folder import RECORD, fingerprint

    (tmp_path / "data.jsonl").write_text("{}\n")
    config = TrainConfig(base=base, data=tmp_path / "data.jsonl", out=tmp_path / "out", template="alpaca")
    run = fingerprint(config, "{}")
    assert trained_on.RECORD == RECORD
    assert run["base"] == str(base.resolve())
    assert run["base_config"] == sha256(base / "config.json")


def test_another_base_of_the_same_shape(base: Path, other: Path, tmp_path: Path) -> None:
    assert sha256(base / "config.json") == sha256(other / "config.json")
    with pytest.raises(ModelError, match=r"was trained on .*other.*, whose weights \(.*\) are not those of "):
        check(tmp_path, other, base)
    with pytest.raises(ModelError, match="whose weights"):
        check(record(tmp_path / "recorded", other, sha256(base / "config.json")), "", base)


def test_another_base_of_another_shape(base: Path, bases: Callable[[str], Path], tmp_path: Path) -> None:
    deep = bases("spm-mha-256-deep")
    with pytest.raises(ModelError, match="whose layers are not those of"):
        check(tmp_path, deep, base)


def test_one_changed_layer_is_another_base(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    shutil.copytree(base, tmp_path / "tuned")
    with torch.no_grad():
        for weight in model.model.layers[1].mlp.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    model.save_pretrained(tmp_path / "tuned")
    with pytest.raises(ModelError, match=r"whose weights \(model.layers.1.mlp"):
        check(tmp_path, tmp_path / "tuned", base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_copies_of_a_base_pass(
    dtype: torch.dtype, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    AutoModelForCausalLM.from_pretrained(base).to(dtype).save_pretrained(copy)
    capsys.readouterr()
    for one, two in ((copy, base), (base, copy), (base, base)):
        check(tmp_path, one, two)
    check(record(tmp_path / "recorded", copy, "0" * 64), "", base)
    assert capsys.readouterr().err == ""


def test_a_base_with_added_tokens_is_that_base(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(490)
    model.save_pretrained(tmp_path / "grown")
    capsys.readouterr()
    check(tmp_path, tmp_path / "grown", base)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("named", "silent"),
    [
        ("lmsys/Vicuna-7B_v1.5", True),
        ("D:\\models\\vicuna-7b-v1.5\\", True),
        ("meta-llama/Llama-2-7b-hf", False),
        ("模型/百聆", False),
        ("", True),
    ],
)
def test_names_only_warn(
    named: str, silent: bool, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "vicuna-7b-v1.5"
    shutil.copytree(base, given)
    check(tmp_path, named, given)
    said = capsys.readouterr().err
    assert (said == "") == silent
    assert silent or (named in said and str(given) in said)


def test_no_server_is_asked(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter from the network may name a share, and Windows would log in there."""
    asked: list[Path] = []
    monkeypatch.setattr(Path, "is_file", lambda path: bool(asked.append(path)))
    named = (
        r"\\far-away\share\base",
        "//far-away/share/base",
        r"/\far-away\share\base",
        r"\/far-away/share/base",
        r"\\?\UNC\far-away\share\base",
        r"\??\UNC\far-away\share\base",
    )
    for name in named:
        check_trained_on(tmp_path, name, Checkpoint(base, {}, {}))
    assert not [path for path in asked if "far-away" in str(path)]


def test_controls_in_a_name_are_not_printed(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(tmp_path, "a/\x1b[2Jllama", base)
    assert "\x1b" not in capsys.readouterr().err


def test_names_that_a_base_goes_by(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached = tmp_path / "models--ICTNLP--bayling-13b-v1.1" / "snapshots" / "0123abcd"
    shutil.copytree(base, cached)
    check(tmp_path, "ictnlp/bayling-13b-v1.1", cached)
    renamed = tmp_path / "my model"
    shutil.copytree(base, renamed)
    config = json.loads((renamed / "config.json").read_text())
    (renamed / "config.json").write_text(json.dumps({**config, "_name_or_path": "ictnlp/百聆-7b"}), encoding="utf-8")
    check(tmp_path, "models/百聆-7B", renamed)
    assert capsys.readouterr().err == ""


def test_the_recorded_hash(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the recorded folder is gone: an equal config.json passes in silence, another one warns."""
    gone = tmp_path / "gone"
    check(record(tmp_path / "a", gone, sha256(base / "config.json")), gone, base)
    assert capsys.readouterr().err == ""
    check(record(tmp_path / "b", gone, "0" * 64), gone, base)
    assert "was trained on" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", '{"run": 5}', '{"run": {"base": 7}}'])
def test_a_record_of_another_program(text: str, base: Path, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(text)
    check(tmp_path, base.name, base)


def test_a_base_that_cannot_be_opened_any_more(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(base, tmp_path / "q")
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "q/config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    check(tmp_path, tmp_path / "q", base)
    assert "cannot be checked" in capsys.readouterr().err


def test_an_adapter_is_held_against_its_base(base: Path, other: Path, tmp_path: Path) -> None:
    from exporting import export

    lora = write_adapter(other, tmp_path / "lora")
    with pytest.raises(ModelError, match="whose weights"):
        export(base, [(lora, 1.0)], hf=tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_same_numbers(base: Path, other: Path) -> None:
    numbers = torch.randn(64, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert same_numbers(numbers.numpy(), numbers.to(dtype).float().numpy())
    assert same_numbers(numbers.half().float().numpy(), numbers.half().bfloat16().float().numpy())
    assert not same_numbers(numbers.numpy(), (numbers * 1.01).numpy())
    assert not same_numbers(numbers.numpy(), torch.full((64,), float("nan")).numpy())
    nan = torch.full((64,), float("nan")).numpy()
    assert not same_numbers(nan, nan)
    one, two = (Checkpoint.open(folder).source("lm_head.weight") for folder in (base, other))
    assert same_rows(one, one)
    assert not same_rows(one, two)


@dataclass
class Wide:
    """Rows of one number, made when they are read: 64 MiB in all as float32."""

    value: float
    shape: tuple[int, ...] = (1024, 16384)
    dtype: str = "F32"

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.full((min(stop, self.shape[0]) - start, *self.shape[1:]), self.value, np.float32)


def test_wide_tensors_are_compared_in_small_pieces() -> None:
    tracemalloc.start()
    try:
        assert same_rows(
            Wide(1.0), Wide(1.0 + 2**-12)
        )  # equal as bfloat16, so that every step of the comparison is made
        assert same_values(Wide(1.0), Wide(1.0))
        assert is_zero(Wide(0.0)) and is_finite(Wide(1.0))
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert not is_zero(Wide(1.0, (3,))) and not is_finite(Wide(np.nan, (3,)))
