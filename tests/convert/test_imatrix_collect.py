"""Sums of what matrices are multiplied with: against Transformers' own inputs, llama-imatrix, and what it left us."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest

from convert.imatrix_collect import Collector, squares_of
from convert.imatrix_loss import perplexity
from convert.imatrix_run import Order, make
from stellar_local.config import RuntimeOptions
from stellar_local.engine.likelihood import log_likelihoods
from stellar_local.errors import ModelError
from stellar_local.native.ggml import GgmlType
from stellar_local.native.model import Model

DATA = Path(__file__).parent / "data"
TEXT = (DATA / "imatrix.txt").read_text(encoding="utf-8")
CPU = RuntimeOptions(gpu_layers=0, threads=1)
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def stored(path: Path) -> dict[str, np.ndarray]:
    return {item.name: np.array(item.data).reshape(-1) for item in gguf.GGUFReader(path).tensors}


def fields(path: Path) -> dict[str, object]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items() if name[:5] != "GGUF."}


def order(model: Path, folder: Path, **more: object) -> Order:
    """Of the text beside this file, twice, so that there is enough of it for chunks of 64 tokens."""
    text = folder / "校准.txt"
    text.write_text(TEXT, encoding="utf-8")
    return Order(model, (text,), folder / "m.imatrix", **{"size": 64, "most": 5, **more})  # type: ignore[arg-type]


def chunks_of(model: Path, size: int, most: int) -> np.ndarray:
    """As llama-imatrix cuts them: the whole text with BOS, and BOS in the place of each chunk's first token."""
    with Model(model, vocab_only=True) as opened:
        ids = [opened.bos, *opened.tokenize(TEXT)]
        chunks = np.array(ids[: size * most]).reshape(most, size)
        chunks[:, 0] = opened.bos
    return chunks


def test_sums_are_those_of_transformers(spm_model: Path, spm_base: Path, tmp_path: Path) -> None:
    """Hooks on every Linear of the same model, in float32, on the same tokens; the perplexity too."""
    import torch
    from transformers import AutoModelForCausalLM

    made = make(order(spm_model, tmp_path, output=True), CPU)
    model = AutoModelForCausalLM.from_pretrained(spm_base)
    sums: dict[str, np.ndarray] = {}

    def watch(name: str) -> object:
        def hook(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
            sums[name] = sums.get(name, 0) + inputs[0][0].double().square().sum(0).numpy()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            block, _, kind = name.removeprefix("model.layers.").partition(".")
            module.register_forward_pre_hook(watch(f"blk.{block}.{NAMES[kind]}" if kind else "output"))
    losses = []
    for chunk in chunks_of(spm_model, 64, 5):
        with torch.no_grad():
            logits = model(torch.tensor(chunk[None])).logits[0].double().log_softmax(-1)
        losses.append(-logits[torch.arange(32, 63), torch.tensor(chunk[33:])])
    found = stored(made.path)
    assert {name.removesuffix(".weight.in_sum2") for name in found if name.endswith("in_sum2")} == set(sums)
    assert made.entries == len(sums) == 15
    for name, expected in sums.items():
        assert found[f"{name}.weight.counts"].tolist() == [320]
        np.testing.assert_allclose(found[f"{name}.weight.in_sum2"], expected, rtol=5e-3, err_msg=name)
        assert abs(found[f"{name}.weight.in_sum2"].sum() / expected.sum() - 1) < 1e-3, name
    assert made.perplexity
    all_losses = torch.cat(losses)
    assert made.perplexity[0] == pytest.approx(float(all_losses.mean().exp()), rel=1e-3)
    error = float(all_losses.mean().exp() * all_losses.std(correction=0) / np.sqrt(len(all_losses) - 1))
    assert made.perplexity[1] == pytest.approx(error, rel=1e-2)


def peer() -> str | None:
    folder = os.environ.get("LLAMA_CPP_BIN", "")
    return shutil.which("llama-imatrix", path=folder or None)


@pytest.mark.skipif(peer() is None, reason="no llama-imatrix on the PATH or in LLAMA_CPP_BIN")
@pytest.mark.parametrize("more", [[], ["--process-output"]], ids=["blocks", "output"])
def test_files_are_those_of_llama_imatrix(more: list[str], spm_model: Path, tmp_path: Path) -> None:
    """Byte for byte, but for the last bits of the sums."""
    job = order(spm_model, tmp_path, output=bool(more))
    ours, theirs = make(job, CPU).path, tmp_path / "theirs.gguf"
    command = [peer(), "-m", spm_model, "-f", job.data[0], "-o", theirs, "-c", "64", "-b", "64", "--chunks", "5"]
    subprocess.run([*command, "-t", "1", "-fa", "off", *more], check=True, capture_output=True, cwd=tmp_path)
    expected = fields(theirs)
    assert fields(ours) == {**expected, "imatrix.datasets": ["校准.txt"]}
    ours_stored, theirs_stored = stored(ours), stored(theirs)
    assert list(ours_stored) == list(theirs_stored)
    for name, values in theirs_stored.items():
        np.testing.assert_allclose(ours_stored[name], values, rtol=1e-3, err_msg=name)
    again = tmp_path / "again.gguf"  # it reads what we wrote, and adds it to nothing
    subprocess.run([peer(), "-m", "-", "--in-file", ours, "-o", again], check=True, capture_output=True, cwd=tmp_path)
    assert stored(again).keys() == ours_stored.keys()
    for name, values in stored(again).items():
        np.testing.assert_array_equal(ours_stored[name], values)


@pytest.mark.real
def test_the_real_model_gives_what_llama_imatrix_gave(real_model: Path, tmp_path: Path) -> None:
    """A stored reference; how it was made stands in it.

    A quantized model rounds what its weights are multiplied with to 8 bits, so that the last bit of a sum, which
    another processor computes otherwise, grows from block to block: to some 0.6 % of a tensor's sum, as llama-imatrix's
    own flash attention shows. Before any of that, and in most tensors, 0.1 % holds everywhere.
    """
    reference = json.loads((DATA / "imatrix.json").read_text(encoding="utf-8"))
    made = make(order(real_model, tmp_path, size=reference["ctx"], most=reference["chunks"]), CPU)
    found = stored(made.path)
    assert made.entries == len(reference["tensors"]) == 210
    differences = []
    for name, expected in reference["tensors"].items():
        sums = found[f"{name}.in_sum2"].astype(np.float64)
        assert found[f"{name}.counts"].tolist() == [reference["ctx"] * reference["chunks"]]
        differences.append(abs(sums.sum() / expected["sum"] - 1))
        if name.startswith("blk.0.attn_") and "output" not in name:
            np.testing.assert_allclose(sums[expected["columns"]], expected["values"], rtol=1e-3, err_msg=name)
            assert differences[-1] < 1e-3, name
    assert np.median(differences) < 1e-3
    assert max(differences) < 2e-2
    assert made.perplexity
    assert made.perplexity[0] == pytest.approx(reference["perplexity"], rel=5e-3)


def test_a_long_chunk_in_several_batches_gives_the_same(spm_model: Path, tmp_path: Path) -> None:
    """In parts of one length: a short last one, which llama-imatrix leaves out, there is none."""
    whole = make(order(spm_model, tmp_path, size=100, most=3), CPU)
    sums = stored(whole.path)
    parts = make(order(spm_model, tmp_path, size=100, most=3), RuntimeOptions(gpu_layers=0, threads=1, batch_size=48))
    for name, values in stored(parts.path).items():
        np.testing.assert_allclose(values, sums[name], rtol=2e-3, err_msg=name)
    assert {name: int(values[0]) for name, values in stored(parts.path).items() if name.endswith("counts")} == {
        name: 300 for name in sums if name.endswith("counts")
    }
    assert parts.perplexity and whole.perplexity
    assert parts.perplexity[0] == pytest.approx(whole.perplexity[0], rel=1e-3)


class Tensor:
    """What a collector asks of a graph's tensor."""

    def __init__(self, name: str, values: np.ndarray, *sources: Tensor, operation: str = "") -> None:
        self.name, self.values, self.sources, self.operation = name, values, sources, operation
        self.address, self.type, self.span = id(self), GgmlType.F32, values.nbytes
        self.shape = (*values.shape[::-1], *[1] * 4)[:4]
        self.reads = 0

    def source(self, number: int) -> Tensor:
        return self.sources[number]

    def read(self, room: object = None) -> np.ndarray:
        self.reads += 1
        return self.values.reshape(self.shape[::-1])


RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def dense(weight: str, factor: Tensor, matrices: tuple[int, ...] = ()) -> Tensor:
    return Tensor("", normal(1), Tensor(weight, normal(*matrices, 4, 8)), factor, operation="MUL_MAT")


def see(collector: Collector, *nodes: Tensor) -> None:
    for node in nodes:
        if collector.wants(node):  # type: ignore[arg-type]
            collector.take(node)  # type: ignore[arg-type]


def test_one_factor_of_several_matrices_is_read_once() -> None:
    collector, factor = Collector(), Tensor("attn_norm-0", normal(20, 8))
    for _batch in range(2):
        collector.begin()
        see(collector, *(dense(f"blk.0.attn_{kind}.weight", factor) for kind in "qkv"))
    assert factor.reads == 2
    for kind in "qkv":
        sums = collector.sums[f"blk.0.attn_{kind}.weight"]
        np.testing.assert_allclose(sums.squares[0], 2 * np.square(factor.values.astype(float)).sum(0), rtol=1e-6)
        assert sums.counts.tolist() == [40]


def test_a_batch_that_llama_cpp_cuts_in_two_is_read_twice() -> None:
    """The second part lies at the same addresses, with other values, and nobody says that it began."""
    collector, factor = Collector(), Tensor("attn_norm-0", normal(20, 8))
    expected = np.zeros(8)
    for _part in range(2):
        factor.values = normal(20, 8)
        expected += np.square(factor.values.astype(float)).sum(0)
        see(collector, dense("blk.0.attn_q.weight", factor), dense("blk.0.attn_k.weight", factor))
    for kind in "qk":
        np.testing.assert_allclose(collector.sums[f"blk.0.attn_{kind}.weight"].squares[0], expected, rtol=1e-6)


def test_what_llama_imatrix_leaves_out() -> None:
    half = Tensor("x", normal(20, 8))
    half.type = GgmlType.F16
    rows = Tensor("x", normal(20, 8))
    collector = Collector()
    see(collector, dense("blk.0.a.weight", Tensor("x", normal(15, 8))), dense("blk.0.b.weight", half))
    see(
        collector,
        dense("output.weight", rows),
        dense("cache_k_l0 (view)", rows),
        Tensor("", normal(1), operation="ADD"),
    )
    assert not collector.sums
    see(Collector(output=True), dense("output.weight", rows))
    assert rows.reads == 1


def test_matrices_of_one_tensor_are_told_apart() -> None:
    """As collect_imatrix walks them: parts of the factor go to the matrices in turn, and one count serves them all."""
    collector, factor = Collector(), Tensor("x", normal(6, 20, 8))  # six parts for three matrices
    see(collector, dense("blk.0.k_b.weight", factor, (3,)))
    sums, squares = collector.sums["blk.0.k_b.weight"], np.square(factor.values.astype(float)).sum(1)
    np.testing.assert_allclose(sums.squares, squares[:3] + squares[3:], rtol=1e-6)
    assert sums.counts.tolist() == [40]


@pytest.mark.parametrize("places", [1, 2], ids=["one factor for all experts", "one for each"])
def test_experts_are_told_apart(places: int) -> None:
    """As collect_imatrix walks them, in a loop: 5 tokens, 2 of 4 experts each, of which one is never chosen."""
    chosen = np.array([[0, 2], [2, 0], [0, 3], [3, 2], [2, 3]], np.int32)
    factor = Tensor("x", normal(5, places, 8))
    experts, ids = Tensor("blk.0.ffn_up_exps.weight", normal(4, 4, 8)), Tensor("ids", chosen)
    collector = Collector()
    see(collector, Tensor("", normal(1), experts, factor, ids, operation="MUL_MAT_ID"))
    squares, counts = np.zeros((4, 8)), np.zeros(4, int)
    for token in range(5):
        for place in range(2):
            squares[chosen[token, place]] += np.square(factor.values[token, place % places].astype(float))
            counts[chosen[token, place]] += 1
    sums = collector.sums["blk.0.ffn_up_exps.weight"]
    np.testing.assert_allclose(sums.squares, squares, rtol=1e-6)
    assert sums.counts.tolist() == counts.tolist() == [3, 0, 4, 3]


def test_what_is_no_number_names_its_matrix() -> None:
    values = normal(20, 8)
    values[3, 4] = np.inf
    with pytest.raises(ModelError, match=r"blk\.0\.ffn_down\.weight is multiplied with NaN or infinite values"):
        see(Collector(), dense("blk.0.ffn_down.weight", Tensor("x", values)))


def test_expert_numbers_are_checked() -> None:
    ids = Tensor("ids", np.array([[4]], np.int32))
    node = Tensor(
        "", normal(1), Tensor("e", normal(4, 4, 8)), Tensor("x", normal(1, 1, 8)), ids, operation="MUL_MAT_ID"
    )
    with pytest.raises(ModelError, match="an expert that does not exist"):
        see(Collector(), node)


def test_sums_of_squares_are_exact_enough() -> None:
    rows = normal(1000, 7)
    np.testing.assert_allclose(squares_of(rows), np.square(rows.astype(float)).sum(0), rtol=1e-6)
    assert squares_of(rows[:0]).tolist() == [0.0] * 7


def test_likelihoods() -> None:
    logits = normal(3, 5) * 50
    expected = [
        np.log(np.exp(row.astype(float) - row[token]).sum()) for row, token in zip(logits, [1, 0, 4], strict=True)
    ]
    np.testing.assert_allclose(-log_likelihoods(logits, [1, 0, 4]), expected, rtol=1e-5)
    assert perplexity((0.0, 0.0, 1)) is None
    assert perplexity((2.0, 2.0, 2)) == (pytest.approx(np.e), 0.0)
