"""Verification: what is damaged is named, and the divergence is what an independent computation gives."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from conftest import Stellar
from exporting import export
from gguf_facts import tensors

from convert.levels import LEVELS, parse_levels
from convert.manifest import TensorRecord, read_manifest
from convert.prose import PROSE
from convert.verify import LevelCheck, record, verify
from stellar_local.engine.likelihood import divergence, log_softmax
from stellar_local.errors import ModelError, UsageError

FILE = "m-Q8_0.gguf"


@pytest.fixture(scope="module")
def converted(bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three levels whose manifest lists every tensor, by gguf's own reader."""
    out = tmp_path_factory.mktemp("verify") / "m"
    export(bases("bpe-tied-576"), out=out, levels=parse_levels("F16,Q8_0,Q2_K"), template="bayling")
    manifest = read_manifest(out)
    assert manifest is not None
    levels = {}
    for name, item in manifest.levels.items():
        found = tensors(out / item.file)
        records = {key: TensorRecord(kind, hashlib.sha256(data).hexdigest()) for key, (_, kind, data) in found.items()}
        levels[name] = replace(item, tensors=records)
    (out / "manifest.json").write_text(replace(manifest, levels=levels).text(), encoding="utf-8")
    return out


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "m"))


def logits(path: Path, ids: list[int]) -> torch.Tensor:
    """llama.cpp's logits through llama-cpp-python's high-level class, float64 [tokens, vocabulary]."""
    from llama_cpp import Llama

    model = Llama(
        str(path), n_ctx=512, flash_attn=False, n_batch=32, n_ubatch=32, logits_all=True, verbose=False, n_gpu_layers=0
    )
    model.eval(ids)
    out = torch.from_numpy(np.array(model.scores[: len(ids)], np.float64))
    model.close()
    return out


def test_divergence_against_an_independent_computation(
    converted: Path, llama_tokens: Callable[..., list[list[int]]]
) -> None:
    checks = {check.level: check for check in verify(converted)}
    assert all(check.sound for check in checks.values())
    assert checks["F16"].divergence is None
    texts = llama_tokens(converted / "m-F16.gguf", list(PROSE.values()), True)
    for level in ("Q8_0", "Q2_K"):
        found = checks[level].divergence
        assert found is not None
        assert (found.reference, checks[level].note) == ("F16", "against F16")
        divergences, agreements = [], []
        for name, ids in zip(PROSE, texts, strict=True):
            p, q = (logits(converted / f"m-{kind}.gguf", ids[:256]) for kind in ("F16", level))
            kl = torch.nn.functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="none", log_target=True)
            divergences.append(kl.sum(-1))
            agreements.append((p.argmax(-1) == q.argmax(-1)).double())
            figures = found.languages[name]
            assert figures.tokens == 256
            assert figures.kl == pytest.approx(divergences[-1].mean().item(), rel=1e-4)
            assert figures.same_top == pytest.approx(agreements[-1].mean().item(), abs=1e-9)
        assert found.overall.tokens == 512
        assert found.overall.kl == pytest.approx(torch.cat(divergences).mean().item(), rel=1e-4)
        assert found.overall.same_top == pytest.approx(torch.cat(agreements).mean().item(), abs=1e-9)
    assert checks["Q2_K"].divergence.overall.kl > 20 * checks["Q8_0"].divergence.overall.kl > 0


def test_the_arithmetic_is_sound() -> None:
    random = np.random.default_rng(3)
    a, b = (random.normal(scale=200, size=5000).astype(np.float32) for _ in range(2))
    p, q = (torch.from_numpy(x.astype(np.float64)).log_softmax(-1) for x in (a, b))
    expected = torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True).item()
    (kl,), (same,) = divergence(log_softmax(a[None]), log_softmax(b[None]))
    assert kl == pytest.approx(expected, rel=1e-6)
    assert same == 0.0
    assert divergence(log_softmax(a[None]), log_softmax(a[None])) == ([0.0], [True])
    assert np.isfinite(log_softmax(np.array([[1e38, -1e38]], np.float32))).all()


def test_figures_go_into_manifest_and_card(folder: Path) -> None:
    card, before = (
        (folder / "README.md").read_text(encoding="utf-8"),
        json.loads((folder / "manifest.json").read_text()),
    )
    checks = verify(folder, ["q8_0"])
    assert [check.level for check in checks] == ["Q8_0"]
    figures = checks[0].divergence
    assert figures is not None
    record(folder, checks)
    after = json.loads((folder / "manifest.json").read_text())
    assert after["levels"]["Q8_0"].pop("divergence")["overall"]["kl"] == pytest.approx(figures.overall.kl, abs=1e-9)
    assert after == before
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f"| {figures.overall.kl:.5f} | {figures.overall.same_top:.1%} |" in text
    assert text.split("<!-- end of levels -->")[1] == card.split("<!-- end of levels -->")[1]
    assert read_manifest(folder).levels["Q8_0"].divergence.languages.keys() == {"en", "zh"}


def test_without_f16_the_note_says_so(folder: Path) -> None:
    manifest = read_manifest(folder)
    kept = {name: item for name, item in manifest.levels.items() if name != "F16"}
    (folder / "manifest.json").write_text(replace(manifest, levels=kept).text(), encoding="utf-8")
    note = {check.level: check.note for check in verify(folder)}["Q2_K"]
    assert note == "against Q8_0, the most precise level here; F16 among --levels would be a better reference"


def only(folder: Path) -> LevelCheck:
    """The check of Q8_0, the one damaged file, with the others sound."""
    checks = {check.level: check for check in verify(folder)}
    assert checks["F16"].sound and checks["Q2_K"].sound and checks["Q2_K"].divergence is not None
    return checks["Q8_0"]


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_changed_byte_names_its_tensor(folder: Path) -> None:
    reader = gguf.GGUFReader(folder / FILE)
    place = next(int(item.data_offset) for item in reader.tensors if item.name == "blk.1.ffn_up.weight")
    del reader
    flip(folder / FILE, place + 7)
    found = only(folder)
    assert found.problems == (f"{FILE}: the bytes of tensor blk.1.ffn_up.weight are not those that were written",)
    assert found.divergence is None


def test_a_changed_header(folder: Path) -> None:
    flip(folder / FILE, (folder / FILE).read_bytes().index(b"tokenizer.chat_template") + 60)
    assert "header or padding was changed" in only(folder).problems[0]


def test_a_cut_and_a_missing_file(folder: Path) -> None:
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(data[:-100])
    assert only(folder).problems == (f"{FILE} has {len(data) - 100:,} bytes, not the {len(data):,} that were written",)
    (folder / FILE).write_bytes(data[:1000])
    assert "truncated" in only(folder).problems[0]
    (folder / FILE).unlink()
    assert "not found" in only(folder).problems[0]


def test_another_set_of_tensors(folder: Path) -> None:
    manifest = read_manifest(folder)
    item = manifest.levels["Q8_0"]
    records = dict(item.tensors)
    records["blk.0.attn_k.weight"] = replace(records["blk.0.attn_k.weight"], type="Q4_K")
    records["blk.9.attn_k.weight"] = records.pop("blk.0.attn_q.weight")
    levels = {**manifest.levels, "Q8_0": replace(item, tensors=records)}
    (folder / "manifest.json").write_text(replace(manifest, levels=levels).text(), encoding="utf-8")
    assert only(folder).problems == (
        f"{FILE}: tensor blk.9.attn_k.weight is missing",
        f"{FILE}: tensor blk.0.attn_q.weight was not written by the conversion",
        f"{FILE}: tensor blk.0.attn_k.weight is Q8_0, not Q4_K",
    )


def test_names_of_tensors_do_not_drive_the_terminal(folder: Path, stellar: Stellar) -> None:
    manifest = read_manifest(folder)
    item = manifest.levels["Q8_0"]
    records = {**item.tensors, "x\x1b]0;owned\x07": item.tensors["blk.0.attn_k.weight"]}
    levels = {"Q8_0": replace(item, tensors=records)}
    (folder / "manifest.json").write_text(replace(manifest, levels=levels).text(), encoding="utf-8")
    done = stellar("convert", "--verify", "--out", str(folder))
    assert f"{FILE}: tensor x␛]0;owned is missing" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout and "\x07" not in done.stderr + done.stdout


def test_a_vocabulary_of_another_length(folder: Path) -> None:
    """One token more than the embedding has rows, as converters have written it: found before llama.cpp refuses."""
    reader = gguf.GGUFReader(folder / FILE)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    fields["tokenizer.ggml.tokens"].append("<extra>")
    writer = gguf.GGUFWriter(folder / "new", "llama")
    writer.add_uint32("llama.block_count", fields["llama.block_count"])
    writer.add_array("tokenizer.ggml.tokens", fields["tokenizer.ggml.tokens"])
    for item in reader.tensors:
        writer.add_tensor(item.name, np.array(item.data), raw_dtype=item.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "new").replace(folder / FILE)
    manifest = read_manifest(folder)
    data = (folder / FILE).read_bytes()
    changed = replace(manifest.levels["Q8_0"], size=len(data), sha256=hashlib.sha256(data).hexdigest())
    levels = {**manifest.levels, "Q8_0": changed}
    (folder / "manifest.json").write_text(replace(manifest, levels=levels).text(), encoding="utf-8")
    assert only(folder).problems == (f"{FILE}: tensor token_embd.weight has 485 rows, the vocabulary 486 tokens",)


def test_weights_that_compute_no_numbers(bases: Callable[[str], Path], tmp_path: Path) -> None:
    export(bases("spm-gqa-64"), out=tmp_path / "m", levels=[LEVELS["F32"]])
    path = tmp_path / "m/m-F32.gguf"
    (check,) = verify(tmp_path / "m")
    assert (check.level, check.sound, check.divergence) == ("F32", True, None)
    assert check.note == "the only level here: nothing to measure it against"
    reader = gguf.GGUFReader(path, "r+")
    next(item for item in reader.tensors if item.name == "output_norm.weight").data[:] = np.nan
    reader.data.flush()
    del reader
    manifest = read_manifest(tmp_path / "m")
    item = replace(manifest.levels["F32"], sha256=hashlib.sha256(path.read_bytes()).hexdigest(), tensors={})
    (tmp_path / "m/manifest.json").write_text(replace(manifest, levels={"F32": item}).text(), encoding="utf-8")
    assert "NaN or infinite" in verify(tmp_path / "m")[0].problems[0]


def test_what_cannot_be_verified(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Q5_K_M is not in"):
        verify(folder, ["Q5_K_M"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no manifest\.json"):
        verify(tmp_path / "empty")
    with pytest.raises(ModelError, match="not found"):
        verify(tmp_path / "absent")


def test_figures_belong_to_the_file_that_was_measured(bases: Callable[[str], Path], tmp_path: Path) -> None:
    export(bases("spm-gqa-64"), out=tmp_path, levels=parse_levels("F16,Q8_0,Q6_K"), name="m")
    checks = verify(tmp_path)
    manifest = read_manifest(tmp_path)
    levels = {**manifest.levels, "Q8_0": replace(manifest.levels["Q8_0"], sha256="0" * 64)}
    del levels["Q6_K"]
    (tmp_path / "manifest.json").write_text(replace(manifest, levels=levels).text(), encoding="utf-8")
    record(tmp_path, checks)  # as if a conversion had written the folder anew meanwhile
    assert {name: item.divergence for name, item in read_manifest(tmp_path).levels.items()} == {
        "F16": None,
        "Q8_0": None,
    }
    (tmp_path / "manifest.json").write_text(replace(manifest, levels={}).text(), encoding="utf-8")
    with pytest.raises(ModelError, match="lists no level"):
        verify(tmp_path)
