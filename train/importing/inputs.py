"""Which files are imported, and how each is read by its ending. Knows the file system; knows no rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stellar_local.errors import StellarError, UsageError
from stellar_local.files import files_below, is_there, real

JSON, TEXT, WORKBOOK = "json", "text", "workbook"
_ENDINGS = {
    ".json": JSON,
    ".jsonl": JSON,
    ".ndjson": JSON,
    ".csv": TEXT,
    ".tsv": TEXT,
    ".xlsx": WORKBOOK,
    ".xlsm": WORKBOOK,
    ".xls": WORKBOOK,  # refused, with the reason
}
_READERS = {  # of each format
    "auto": (JSON, TEXT, WORKBOOK),
    "alpaca": (JSON,),
    "sharegpt": (JSON,),
    "csv": (TEXT, WORKBOOK),
    "astro-qa": (WORKBOOK, TEXT),
}


def reader(path: Path) -> str:
    """How a file is read, by its ending; "" where that says nothing."""
    return _ENDINGS.get(path.suffix.lower(), "")


def collect(given: Sequence[Path], out: Path, format: str) -> list[Path]:
    """The files to import: those given, and those below given folders whose ending fits `format`, each once, sorted.

    Raises UsageError and StellarError for what is not there or cannot be of that format, and where `out` would be
    written over an input or into a folder that the next import would read it from.
    """
    found: dict[Path, Path] = {}
    for path in given:
        if not is_there(path):
            raise StellarError(f"not found: {path}", "check the path")
        if path.is_dir():
            if real(out).is_relative_to(real(path)) and reader(out) in _READERS[format]:
                raise UsageError(f"--out {out} lies in {path}, which is imported", "write it outside of that folder")
            files = _below(path, format)
            if not files:
                raise StellarError(f"nothing to import below {path}", f"its files must end in {_endings(format)}")
        elif reader(path) not in _READERS[format]:
            what = "a file to import" if format == "auto" else f"of the format {format}"
            raise UsageError(f"this cannot be {what}, by its ending: {path}", f"it must end in {_endings(format)}")
        else:
            files = [path]
        for file in files:
            found.setdefault(real(file), file)
    if real(out) in found:
        raise UsageError(f"--out {out} is one of the files to import", "write it elsewhere")
    return list(found.values())


def _below(folder: Path, format: str) -> list[Path]:
    return [path for path in files_below(folder) if reader(path) in _READERS[format]]


def _endings(format: str) -> str:
    return ", ".join(ending for ending, how in _ENDINGS.items() if how in _READERS[format] and ending != ".xls")
