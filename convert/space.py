"""Disk space: whether the outputs will fit, asked before hours of work, and sizes in words."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from stellar_local.errors import StellarError

_SPARE = 16 << 20  # room for the small files beside the weights


def readable(size: int) -> str:
    """A size in bytes as GiB, or as MiB below one GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB"


def check_space(needs: Mapping[Path, int]) -> None:
    """Raise StellarError unless each file system has room for what goes there (existing folder → bytes)."""
    totals: dict[int, tuple[Path, int]] = {}
    for folder, size in needs.items():
        device = folder.stat().st_dev
        first, before = totals.get(device, (folder, 0))
        totals[device] = (first, before + size)
    for folder, size in totals.values():
        free = shutil.disk_usage(folder).free
        if size + _SPARE > free:
            raise StellarError(
                f"not enough disk space in {folder}: {readable(size + _SPARE)} are needed, {readable(free)} are free",
                "free some space, choose another folder, or ask for fewer levels",
            )
