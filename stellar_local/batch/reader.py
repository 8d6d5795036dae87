"""Input → items, whatever its format. A bad line becomes an error of its own, never the end. Knows no model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import RequestError, StellarError, UsageError
from ..files import explain
from .fields import Defaults, Item, item_of_error, item_of_json, item_of_text
from .lines import BOM, LONGEST, Line, read_lines
from .table import PromptTemplate, read_rows

FORMATS = ("auto", "lines", "jsonl", "csv", "tsv")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BY_EXTENSION = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "lines",
}


def read_items(
    lines: Iterable[Line], format: str, defaults: Defaults, template: PromptTemplate | None = None
) -> Iterator[Item]:
    """Read items as lines come. With "auto" the first line that is not blank decides: one that opens with "{" means
    JSON lines, any other plain lines.

    Blank lines are skipped, and counted. Raises UsageError for a table's header.
    """
    if format in ("csv", "tsv"):
        yield from read_rows(lines, "\t" if format == "tsv" else ",", template, defaults)
        return
    as_json = {"lines": False, "jsonl": True}.get(format)
    for index, (raw, end) in enumerate(lines):
        if raw is None:
            as_json = bool(as_json)
            yield item_of_error(
                index, RequestError("line_too_long", f"the line is longer than {LONGEST >> 20} MiB"), end
            )
            continue
        if index == 0 and raw.startswith(_UTF16):
            raise StellarError("the input is UTF-16", "save it as UTF-8")
        line = raw.removeprefix(BOM) if index == 0 else raw
        if not line.strip():
            continue
        if as_json is None:
            as_json = line.lstrip().startswith(b"{")
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            wrong = RequestError("invalid_utf8", f"the line is not UTF-8 (byte {error.start})")
            yield item_of_error(index, wrong, end)
            continue
        yield item_of_json(index, text, defaults, end) if as_json else item_of_text(index, text, defaults, end)


@dataclass(frozen=True)
class Shard:
    """Every `count`-th line, from line `number` - 1 on."""

    number: int = 1
    count: int = 1

    def holds(self, index: int) -> bool:
        """Whether a line is of this shard."""
        return index % self.count == self.number - 1


class Source:
    """The input: a file, or stdin where `path` is None. Raises StellarError if the file cannot be opened.

    `size` is the file's in bytes, None for pipes and devices.
    """

    def __init__(
        self,
        path: Path | None,
        format: str = "auto",
        template: PromptTemplate | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.path, self.shard = path, shard or Shard()
        if format == "auto" and path is not None:
            format = _BY_EXTENSION.get(path.suffix.lower(), "auto")
        if template and format not in ("csv", "tsv"):
            raise UsageError("--prompt-template needs a table", "give a .csv or .tsv file, or --input-format csv")
        self._format, self._template = format, template
        self.size: int | None = None
        if path is not None:
            self._probe(path)

    def _probe(self, path: Path) -> None:
        try:
            if path.is_dir():
                raise IsADirectoryError(21, "Is a directory")
            if path.is_file():  # opening a named pipe would wait for its writer
                with path.open("rb") as file:
                    self.size = os.fstat(file.fileno()).st_size
            else:
                path.stat()
        except OSError as error:
            raise explain(error, path, "read") from error

    def items(self, defaults: Defaults, waiting: Callable[[], None] = lambda: None) -> Iterator[Item]:
        """The shard's items, from the input's beginning. `waiting` is called before each read, which may block.

        Raises UsageError for a table's header, StellarError where reading fails.
        """
        descriptor = 0  # stdin
        try:
            if self.path is not None:
                descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            lines = read_lines(descriptor, waiting)
            for item in read_items(lines, self._format, defaults, self._template):
                if self.shard.count == 1 or self.shard.holds(item.index):
                    yield item
        except OSError as error:
            raise explain(error, self.path or "the input", "read") from error
        finally:
            if descriptor:
                with suppress(OSError):
                    os.close(descriptor)

    def check(self) -> None:
        """Read a file's beginning, so that a wrong header is told before the model loads."""
        if self.size is not None:
            for _ in self.items(Defaults()):
                break
