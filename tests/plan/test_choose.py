"""MODEL → file: levels by name, the best that fits and why, and clear refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from exporting import export
from tiny import write_adapter

from stellar_local.errors import ModelError, UsageError
from stellar_local.flags import open_runtime
from stellar_local.native import library
from stellar_local.native.header import read_header
from stellar_local.plan import choose, hardware
from stellar_local.plan.choose import Choice, Reason, choose_model, describe, level_of, needed_memory, ranked
from stellar_local.plan.hardware import Memory
from stellar_local.texts import LANGUAGES, Texts

ENGLISH = Texts("en")
PLENTY, NOTHING = Memory(1 << 40), Memory(0)
TWO = ["F32", "Q8_0"]


def test_level_by_name(spm_folder: Path) -> None:
    found = choose_model(spm_folder, "q8_0")
    assert (found.path.name, found.level, found.reason) == ("tiny-Q8_0.gguf", "Q8_0", Reason.NAMED)
    assert level_of(Path("stellarspeak-13b-Q4_K_M.gguf")) == "Q4_K_M"
    with pytest.raises(UsageError, match="level Q2_K is not in") as caught:
        choose_model(spm_folder, "Q2_K")
    assert "F32" in caught.value.hint
    assert "Q8_0" in caught.value.hint


def test_the_largest_that_fits(spm_folder: Path) -> None:
    big, small = spm_folder / "tiny-F32.gguf", spm_folder / "tiny-Q8_0.gguf"
    assert choose_model(spm_folder, memory=PLENTY).path == big
    enough = needed_memory(read_header(big), 512)
    assert choose_model(spm_folder, memory=Memory(enough)).path == big
    assert choose_model(spm_folder, memory=Memory(enough - 1)).path == small
    assert choose_model(spm_folder, memory=NOTHING).path == small


def test_why(spm_folder: Path) -> None:
    enough = needed_memory(read_header(spm_folder / "tiny-F32.gguf"), 512)
    best, fitting = (choose_model(spm_folder, memory=Memory(free)) for free in (enough, enough - 1))
    assert (best.reason, best.better) == (Reason.BEST, None)
    assert fitting.reason is Reason.FITTING
    assert fitting.better is not None
    assert (fitting.better.level, fitting.better.needed, fitting.better.fits) == ("F32", enough, False)
    assert fitting.chosen is not None
    assert (fitting.chosen.level, fitting.chosen.n_ctx, fitting.chosen.fits) == ("Q8_0", 512, True)
    assert choose_model(spm_folder, memory=NOTHING).reason is Reason.NONE
    assert choose_model(spm_folder / "tiny-F32.gguf") == Choice(spm_folder / "tiny-F32.gguf", Reason.FILE)


def test_all_levels_are_ranked(spm_folder: Path) -> None:
    found = ranked(spm_folder, 1024, "q8_0", PLENTY)
    assert [one.level for one in found] == TWO
    for one in found:
        assert one.size == one.file.stat().st_size
        assert one.kv == 2 * 2 * 1024 * 2 * 16 * 34 // 32
        assert one.needed == one.size + one.kv + (512 << 20)
        assert (one.layers, one.n_ctx, one.fits) == (2, 1024, True)
    assert [one.fits for one in ranked(spm_folder)] == [None, None]


def test_on_gpus_each_has_its_reserve(spm_folder: Path) -> None:
    big = ranked(spm_folder, memory=Memory(1 << 40, gpus=2))[0]
    assert big.needed == big.size + big.kv + 2 * (614 << 20)
    assert choose_model(spm_folder, memory=Memory(big.needed, 2)).reason is Reason.BEST
    assert choose_model(spm_folder, memory=Memory(big.needed - 1, 2)).reason is Reason.FITTING
    assert choose_model(spm_folder, memory=Memory(big.needed - 1, 2)).gpu_layers is None


def test_where_nothing_fits_on_the_gpu_the_processor_takes_layers(spm_folder: Path) -> None:
    small = ranked(spm_folder, memory=Memory(1 << 40, gpus=1))[-1]
    one_layer = (small.size + small.kv) / 3  # two layers, and what follows them
    for held in (0, 1, 2):
        free = int((614 << 20) + (held + 0.5) * one_layer)
        found = choose_model(spm_folder, memory=Memory(free, 1))
        assert (found.path, found.reason, found.gpu_layers) == (small.file, Reason.NONE, held)
    assert choose_model(spm_folder, memory=Memory(0, 1)).gpu_layers == 0
    assert choose_model(spm_folder, memory=NOTHING).gpu_layers is None


def test_layers_asked_for_are_what_must_fit(spm_folder: Path) -> None:
    big = ranked(spm_folder, memory=Memory(1 << 40, 1))[0]
    third = ranked(spm_folder, memory=Memory(1 << 40, 1), gpu_layers=1)[0]
    assert third.needed == (614 << 20) + (big.size + big.kv) // 3
    assert ranked(spm_folder, memory=Memory(1 << 40, 1), gpu_layers=99)[0].needed == big.needed
    assert choose_model(spm_folder, memory=Memory(third.needed, 1), gpu_layers=1).path == big.file


@pytest.mark.parametrize(("flag", "layers"), [(None, 1), ("2", 2), ("auto", 1)])
def test_opening_leaves_layers_to_the_processor_unless_told(
    spm_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str | None, layers: int
) -> None:
    small = ranked(spm_folder, memory=Memory(1 << 40, gpus=1))[-1]
    free = int((614 << 20) + 1.5 * (small.size + small.kv) / 3)
    monkeypatch.setattr(choose, "free_memory", lambda on_gpu: Memory(free, 1))
    monkeypatch.setattr(library, "_verbose", False)  # put back afterwards
    runtime, _ = open_runtime(spm_folder, {"gpu_layers": flag}, verbose=True)
    with runtime:
        assert runtime.model.path == small.file
        assert runtime.model.gpu_layers == layers
    assert "with 1 of 2 layers there" in capsys.readouterr().err


@pytest.mark.parametrize(("layers", "asked"), [(None, True), (5, True), (0, False)])
def test_the_gpu_decides_where_it_computes(
    spm_folder: Path, monkeypatch: pytest.MonkeyPatch, layers: int | None, asked: bool
) -> None:
    calls = []
    monkeypatch.setattr(choose, "free_memory", lambda on_gpu: (calls.append(on_gpu), PLENTY)[1])
    choose_model(spm_folder, gpu_layers=layers)
    assert calls == [asked]


def test_no_memory_is_asked_for_where_there_is_no_choice(spm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(choose, "free_memory")
    choose_model(spm_folder / "tiny-F32.gguf")
    choose_model(spm_folder, "F32")


def test_a_system_that_does_not_say(spm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: None)
    monkeypatch.setattr(hardware, "gpus", list)
    found = choose_model(spm_folder)
    assert (found.level, found.reason) == ("Q8_0", Reason.UNKNOWN)
    assert describe(found, ENGLISH) == (
        "tiny-Q8_0.gguf: the smallest level (2 in all), since this system does not say how much memory is free"
    )


def test_the_line_that_says_why(spm_folder: Path) -> None:
    def line(free: int, gpus: int = 0, **more: object) -> str:
        return describe(choose_model(spm_folder, memory=Memory(free, gpus), **more), ENGLISH)  # type: ignore[arg-type]

    assert line(3 << 30) == "tiny-F32.gguf: the best of 2 levels; it needs 513 MiB of the 3.0 GiB of free memory"
    assert line(3 << 30, 1).endswith("it needs 615 MiB of the 3.0 GiB of free GPU memory")
    short = ranked(spm_folder, 512, memory=PLENTY)[0].needed - 1
    assert line(short, n_ctx=512) == (
        "tiny-Q8_0.gguf: the best of 2 levels that fits in 513 MiB of free memory with 512 tokens of context "
        "(F32 would need 513 MiB)"
    )
    assert line(100 << 20).startswith("tiny-Q8_0.gguf: the smallest level, and still too large: it needs 512 MiB")
    assert "100 MiB of GPU memory are free; with 0 of 2 layers there" in line(100 << 20, 1)
    assert line(1 << 40, level="f32") == "tiny-F32.gguf: level F32, as asked for"
    assert describe(choose_model(spm_folder / "tiny-F32.gguf"), ENGLISH) == ""


@pytest.mark.parametrize("gpus", [0, 1])
def test_each_reason_has_its_line_in_both_languages(spm_folder: Path, bpe_folder: Path, gpus: int) -> None:
    enough = ranked(spm_folder, memory=Memory(0, gpus))[0].needed
    choices = [choose_model(spm_folder, memory=Memory(free, gpus)) for free in (enough, enough - 1, 0)]
    choices += [choose_model(bpe_folder, memory=Memory(1 << 40, gpus)), choose_model(spm_folder, "F32")]
    assert [one.reason for one in choices] == [Reason.BEST, Reason.FITTING, Reason.NONE, Reason.ONLY, Reason.NAMED]
    for choice in choices:
        for language in LANGUAGES:
            line = describe(choice, Texts(language))
            assert "{" not in line
            assert choice.path.name in line


def test_a_damaged_level_stops_only_what_it_might_have_been(spm_folder: Path, tmp_path: Path) -> None:
    for file in spm_folder.glob("*.gguf"):
        shutil.copy(file, tmp_path)
    (tmp_path / "tiny-Q2_K.gguf").write_bytes(b"GGUF")
    assert [one.level for one in ranked(tmp_path, memory=PLENTY)] == TWO
    assert choose_model(tmp_path, memory=PLENTY).level == "F32"
    with pytest.raises(ModelError, match="truncated GGUF file: .*Q2_K"):
        choose_model(tmp_path, memory=NOTHING)
    assert choose_model(tmp_path, "Q8_0").level == "Q8_0"


def test_needed_memory_by_hand(spm_model: Path) -> None:
    header = read_header(spm_model)
    kv = 2 * 2 * 512 * 2 * 16 * 2  # keys and values, layers, tokens, heads, width, bytes
    assert needed_memory(header, 512) == spm_model.stat().st_size + kv + (512 << 20)


def test_refusals(tmp_path: Path, spm_base: Path, spm_model: Path) -> None:
    with pytest.raises(ModelError, match="model not found"):
        choose_model(tmp_path / "no")
    with pytest.raises(ModelError, match="no .gguf file"):
        choose_model(tmp_path)
    with pytest.raises(ModelError, match="Hugging Face folder"):
        choose_model(spm_base)
    with pytest.raises(UsageError, match="--level chooses within a folder"):
        choose_model(spm_model, "Q8_0")


def test_an_adapter_beside_the_levels_is_no_level(spm_base: Path, spm_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(spm_base, tmp_path / "lora")
    folder = tmp_path / "model"
    export(spm_base, [(adapter, 1.0)], lora_gguf=folder / "a-LORA.gguf")
    with pytest.raises(ModelError, match="no .gguf file"):
        choose_model(folder)
    shutil.copy(spm_model, folder / "a-F32.gguf")
    found = choose_model(folder, memory=PLENTY)
    assert (found.path.name, found.reason, len(found.candidates)) == ("a-F32.gguf", Reason.ONLY, 1)
