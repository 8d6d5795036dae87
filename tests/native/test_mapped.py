"""Mapped pages that were copied into another order go after loading; what is still read from the file stays right."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from exporting import export

from convert.levels import parse_levels
from stellar_local.native import model as native_model
from stellar_local.native.context import Chunk, Context
from stellar_local.native.library import recorded
from stellar_local.native.mapped import let_go
from stellar_local.native.model import Model

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's list of mappings")
TOKENS = [1, 5, 7, 9, 11]


@pytest.fixture(scope="module")
def repacked(spm_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A level whose matrices llama.cpp copies into another order on most processors."""
    out = tmp_path_factory.mktemp("repacked") / "m"
    export(spm_base, out=out, levels=parse_levels("Q4_0"))
    return next(out.glob("*.gguf"))


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def logits(model: Model) -> np.ndarray:
    with Context(model, 64) as context:
        context.decode([Chunk(0, 0, TOKENS, 1)])
        return context.logits.copy()


def test_repacked_weights_count_once(repacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(native_model, "let_go", lambda path: 0)
        with recorded() as log, Model(repacked) as model:
            if native_model._REPACKED not in "".join(log):
                pytest.skip("llama.cpp repacks nothing on this processor")
            assert resident(repacked) > os.sysconf("SC_PAGE_SIZE")
            expected = logits(model)
    with Model(repacked) as model:
        assert resident(repacked) == 0
        np.testing.assert_array_equal(logits(model), expected)
        assert resident(repacked) > 0  # the embedding is read from the file


def test_what_is_not_repacked_stays(spm_model: Path) -> None:
    with Model(spm_model):
        assert resident(spm_model) > 0


def test_only_readable_mappings_of_that_very_file_go(tmp_path: Path, repacked: Path) -> None:
    status = repacked.stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    rows = [
        f"1000-2000 rw-p 00000000 {device} {status.st_ino}   {repacked}",
        f"1000-2000 r--p 00000000 00:01 {status.st_ino}   {repacked}",
        f"1000-2000 r--p 00000000 {device} {status.st_ino + 1}   /other",
        "rubbish",
    ]
    maps = tmp_path / "maps"
    maps.write_text("\n".join(rows))
    assert let_go(repacked, maps) == 0  # none of these is touched; address 0x1000 would fail
    assert let_go(tmp_path / "missing", maps) == 0
    assert let_go(repacked, tmp_path / "no-maps") == 0
