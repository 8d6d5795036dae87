"""The plan of a run: what is said, what is recorded and what is done are one thing; its peak is the measured one."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import write_base
from train_runs import record, settings, start, write_rows

from stellar_local.errors import ModelError
from train.fit import describe
from train.memory import GIB, Shape
from train.packing import packed_length
from train.planning import planned
from train.run import train
from train.trainer import PackedTrainer


@pytest.mark.parametrize("values", [{}, {"packing": 200}, {"checkpointing": "on", "micro_batch_size": 0}], ids=str)
def test_what_is_said_is_recorded_and_done(
    values: Any, spm_base: Path, train_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from train import run

    plans: list[Any] = []
    done: list[int] = []
    loss = PackedTrainer._loss

    def noted(*given: Any) -> Any:
        plans.append(planned(*given))
        return plans[-1]

    def counted(self: Any, model: Any, rows: Any) -> Any:
        done.append(packed_length(rows))
        assert self.args.gradient_checkpointing == plans[0].choice.setup.checkpointing
        return loss(self, model, rows)

    monkeypatch.setattr(run, "planned", noted)
    monkeypatch.setattr(PackedTrainer, "_loss", counted)
    out = train(settings(spm_base, train_rows, tmp_path / "out", **values))
    (plan,) = plans
    said = capsys.readouterr().err.splitlines()
    lines = describe(plan.choice)
    first = said.index(lines[0])
    assert said[first : first + len(lines)] == lines
    written = record(out)["plan"]
    assert written == json.loads(json.dumps(plan.choice.as_json()))
    assert max(done) == written["setup"]["tokens"]
    assert f"{max(done):,} tokens at once" in lines[0]
    peak = next(line for line in lines if "at the peak" in line)
    assert float(peak.split()[3]) == pytest.approx(written["bytes"]["device_total"] / GIB, abs=0.006)
    assert written["setup"]["checkpointing"] == (values.get("checkpointing") == "on")


def test_too_little_memory_is_said_before_anything_is_loaded(
    spm_base: Path, train_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train import run

    monkeypatch.setattr(run, "load_base", lambda *given: pytest.fail("loaded"))
    with pytest.raises(ModelError, match=r"needs .* for \d+ tokens, but .* may be used"):
        train(settings(spm_base, train_rows, tmp_path / "out", memory="100MiB"))
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.fixture(scope="module")
def middling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of 67 million weights."""
    sizes = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 16, "vocab_size": 16000}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    base = write_base(tmp_path_factory.mktemp("bases") / "middling", "spm", **sizes, **heads)
    assert 60e6 < Shape.of(json.loads((base / "config.json").read_text())).parameters < 70e6
    return base


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="an allocator whose holes can be closed")
@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_the_peak_on_a_cpu_is_the_planned_one(checkpointing: str, middling: Path, tmp_path: Path) -> None:
    """What tensors take, within a fifth: with glibc's threshold fixed its heap has no holes, which are extra."""
    data = write_rows(tmp_path / "rows.json", 10)
    values = {"checkpointing": checkpointing, "batch_size": 10, "micro_batch_size": 0, "max_steps": 1}
    config = settings(middling, data, tmp_path / "out", **values)
    process = start(config, MALLOC_MMAP_THRESHOLD_="65536")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err.decode()
    done = record(config.out)
    planned_bytes, measured = done["plan"]["bytes"], done["peak_bytes"]["all"]
    assert planned_bytes["slack"] > 0
    assert measured == pytest.approx(planned_bytes["device_total"] - planned_bytes["slack"], rel=0.2)
    words = re.search(r"measured (\d\.\d\d) GiB at peak, (as planned|\d+% (above|below) the plan)", err.decode())
    assert words is not None
    assert float(words[1]) == pytest.approx(measured / GIB, abs=0.006)
