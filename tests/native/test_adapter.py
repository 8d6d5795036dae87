"""LoRA adapters at run time: the right logits, several sets in one engine, files that are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny import write_adapter

from convert.adapter import Adapter as Trained
from convert.checkpoint import Checkpoint
from convert.llama import Shape
from convert.lora_gguf import write_lora_gguf
from stellar_local.config import RuntimeOptions, SamplingOptions
from stellar_local.engine import Engine, Request
from stellar_local.errors import ModelError, RequestError, UsageError
from stellar_local.native.adapter import Adapter
from stellar_local.native.context import Chunk, Context
from stellar_local.native.model import Model
from stellar_local.prompts import Turn
from stellar_local.runtime import Runtime

TOKENS = [1, 20, 300, 41, 77, 5]
GREEDY = SamplingOptions(temperature=0, max_tokens=10)


@dataclass
class Loras:
    """Two adapters of the tiny base, as PEFT's folders and as GGUF."""

    folders: list[Path]
    files: list[Path]


@pytest.fixture(scope="module")
def loras(spm_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Loras:
    root = tmp_path_factory.mktemp("loras")
    shape = Shape.from_config(Checkpoint.open(spm_base).config)
    folders = [write_adapter(spm_base, root / name, seed) for name, seed in (("astro", 1), ("星", 2))]
    files = [folder.with_suffix(".gguf") for folder in folders]
    for folder, file in zip(folders, files, strict=True):
        write_lora_gguf(Trained.open(folder), 1.0, shape, file.stem, file)
    return Loras(folders, files)


@pytest.fixture
def model(spm_model: Path) -> Iterator[Model]:
    with Model(spm_model) as model:
        yield model


def peft_logits(base: Path, adapter: Path) -> np.ndarray:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
        return np.asarray(tuned(torch.tensor([TOKENS])).logits[0, -1])


def test_logits_are_peft_s(model: Model, loras: Loras, spm_base: Path) -> None:
    adapters = [Adapter(model, file) for file in loras.files]
    with Context(model, 256) as context:
        for adapter, folder in zip(adapters, loras.folders, strict=True):
            context.set_adapters({adapter: 1.0})
            context.truncate(0, 0)
            context.decode([Chunk(0, 0, TOKENS, 1)])
            np.testing.assert_allclose(context.logits[0], peft_logits(spm_base, folder), atol=5e-3)


def test_requests_with_different_adapters_each_get_theirs(model: Model, loras: Loras) -> None:
    one, two = (Adapter(model, file) for file in loras.files)
    sets = [(), ((one, 1.0),), ((two, 0.5),), ((one, 0.5), (two, 1.0))]
    prompt = tuple(TOKENS)
    alone = []
    for adapters in sets:
        with Engine(Context(model, 256)) as engine:
            alone.append(engine.submit(Request(prompt, GREEDY, adapters=adapters)).answer.tokens)
    assert len(set(alone)) == len(sets)  # the adapters do change the answers
    with Engine(Context(model, 512, sequences=6), parallel=3) as engine:
        mixed = [(number, sets[number % 4]) for number in range(24)]
        streams = [engine.submit(Request(prompt, GREEDY, adapters=adapters)) for _, adapters in mixed]
        for (number, _), stream in zip(mixed, streams, strict=True):
            assert stream.answer.tokens == alone[number % 4]


def test_no_request_waits_for_ever_behind_others_adapters(model: Model, loras: Loras) -> None:
    adapter = Adapter(model, loras.files[0])
    ended: list[str] = []
    with Engine(Context(model, 512, sequences=4), parallel=2) as engine:
        plain = [engine.submit(Request((1, 9), GREEDY), lambda _: ended.append("plain")) for _ in range(3)]
        tuned = engine.submit(Request((1, 9), GREEDY, adapters=((adapter, 1.0),)), lambda _: ended.append("tuned"))
        plain += [engine.submit(Request((1, 9), GREEDY), lambda _: ended.append("plain")) for _ in range(60)]
        assert tuned.answer.tokens
        assert all(stream.answer for stream in plain)
    assert ended.index("tuned") < 20


def test_the_runtime_knows_them_by_their_files_names(spm_model: Path, loras: Loras) -> None:
    options = RuntimeOptions(lora=(f"{loras.files[0]}:0.5", f"{loras.files[1]}:0"))
    with Runtime(spm_model, options) as runtime:
        turns = [Turn("x")]

        def used(lora: dict[str, float | None] | None) -> dict[str, float]:
            request = runtime.request(turns, GREEDY, lora=lora)
            return {adapter.path.stem: scale for adapter, scale in request.adapters}

        assert used(None) == {"astro": 0.5}
        assert used({}) == {}
        assert used({"星": 1}) == {"星": 1.0}
        assert used({"星": None, "astro": None}) == {"星": 1.0, "astro": 0.5}  # loaded with 0: for those who name it
        for wrong, kind in (
            ({"other": 1.0}, "unknown_adapter"),
            ({"astro": 1e9}, "invalid_field"),
            ({"astro": float("nan")}, "invalid_field"),
            ({"astro": 10**400}, "invalid_field"),
        ):
            with pytest.raises(RequestError) as caught:
                used(wrong)
            assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("text", "message"),
    [("a.gguf:1e9", "must be a number from"), ("a.gguf:nan", "must be a number from")],
)
def test_wrong_scales(text: str, message: str, spm_model: Path) -> None:
    with pytest.raises(UsageError, match=message):
        Runtime(spm_model, RuntimeOptions(lora=(text,)))


def test_two_of_one_name(spm_model: Path, loras: Loras) -> None:
    with pytest.raises(UsageError, match="names two adapters astro"):
        Runtime(spm_model, RuntimeOptions(lora=(str(loras.files[0]), f"{loras.files[0]}:2")))


def test_files_that_are_no_adapter(model: Model, spm_model: Path, tmp_path: Path, loras: Loras) -> None:
    with pytest.raises(ModelError, match="not found"):
        Adapter(model, tmp_path / "no.gguf")
    with pytest.raises(ModelError, match="not a LoRA adapter"):
        Adapter(model, spm_model)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(loras.files[0].read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"cut\.gguf"):
        Adapter(model, cut)


def test_an_adapter_of_another_model(bpe_model: Path, loras: Loras) -> None:
    with Model(bpe_model) as other:
        assert other.n_vocab != 0
        shape_differs = loras.files[0].read_bytes().replace(b"blk.1.attn_q", b"blk.9.attn_q")
        wrong = loras.files[0].with_name("wrong.gguf")
        wrong.write_bytes(shape_differs)
        with pytest.raises(ModelError, match="does not exist in base model"):
            Adapter(other, wrong)
