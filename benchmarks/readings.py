"""What a process takes, in main memory and on NVIDIA's GPUs, now and at its peak. Knows Linux's /proc, and nvml.py.

Main memory is counted as the system does: a process's own pages, pages of files that it sees (a mapped model's too),
and shared ones. Where a system does not tell one of them, it counts as nothing.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

from nvml import Gpus

_PAUSE = 0.02  # seconds between two looks


@dataclass(frozen=True)
class Main:
    """Bytes of main memory: a process's own, of files and shared; `peak` is the system's word on the most so far."""

    own: int
    files: int = 0
    shared: int = 0
    peak: int | None = None

    @property
    def total(self) -> int:
        """All that is there now."""
        return self.own + self.files + self.shared


def main_memory(pid: int | None = None) -> Main | None:
    """What a process [default: this one] has in main memory; None where that is not told, as when it is gone."""
    try:
        text = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    sizes = {name: int(size) << 10 for name, size in re.findall(r"^(VmHWM|VmRSS|Rss\w+):\s+(\d+)", text, re.MULTILINE)}
    if "RssAnon" in sizes:
        return Main(sizes["RssAnon"], sizes.get("RssFile", 0), sizes.get("RssShmem", 0), sizes.get("VmHWM"))
    return Main(sizes["VmRSS"], peak=sizes.get("VmHWM")) if "VmRSS" in sizes else None


def forget_peak() -> bool:
    """Let the system count this process's peak from here on; whether it does."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def family(pid: int) -> set[int]:
    """A process and all that it has started, as far as the system tells."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir() if Path("/proc").is_dir() else []:
        if folder.name.isdigit():
            try:
                text = (folder / "stat").read_text(errors="replace")
                parents[int(folder.name)] = int(text.rpartition(")")[2].split()[1])  # after the name, and the state
            except (OSError, ValueError, IndexError):
                continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


@dataclass
class Peak:
    """The most that was seen, in bytes. `process` is what the driver says that the process holds, None where it says
    nothing of it; `device` how much more was in use than before, whoever used it.
    """

    main: Main | None = None
    process: int | None = None
    device: int | None = None

    @property
    def gpu(self) -> int | None:
        """The process's GPU memory; where it is not told, what more was in use."""
        return self.device if self.process is None else self.process


@dataclass
class Watch:
    """Looks at a process again and again while the block runs, from a thread. `before` is what was in use on the GPUs
    before the process began. With `children`, what it started counts as its own on the GPU.
    """

    gpus: Gpus | None
    before: int = 0
    pid: int = field(default_factory=os.getpid)
    children: bool = False
    peak: Peak = field(default_factory=Peak)

    def __post_init__(self) -> None:
        self._stop, self._lock = threading.Event(), threading.Lock()

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(_PAUSE)

    def look(self) -> Peak:
        """Look once more; what is there now."""
        main = main_memory(self.pid)
        process = device = None
        if self.gpus:
            pids = family(self.pid) if self.children else {self.pid}
            try:
                sizes = [size for size in map(self.gpus.of, pids) if size is not None]
                process = max(sizes) if sizes else None
                device = max(self.gpus.used() - self.before, 0)
            except OSError:
                pass
        with self._lock:
            peak = self.peak
            if main and (peak.main is None or main.total > peak.main.total):
                peak.main = main
            peak.process = _most(peak.process, process)
            peak.device = _most(peak.device, device)
        return Peak(main, process, device)


def _most(one: int | None, other: int | None) -> int | None:
    known = [size for size in (one, other) if size is not None]
    return max(known) if known else None
