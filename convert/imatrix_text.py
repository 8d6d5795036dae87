"""Texts to measure a model on: files → tokens → chunks of one length, as llama-imatrix cuts them.

Plain text is tokenized whole; rows of training data are rendered in the model's own template, question and answer, one
after another. Knows files and their forms; a tokenizer and a template are handed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stellar_local.errors import StellarError, UsageError
from stellar_local.files import read_text

ROW_SUFFIXES = (".json", ".jsonl")
Triple = tuple[str, str, str]  # instruction, input, output
_ROW_HINT = 'rows look like {"instruction": "...", "input": "...", "output": "..."}; "input" may be missing'


def holds_rows(path: Path) -> bool:
    """Whether a file is training data by its name, and not plain text."""
    return path.suffix.lower() in ROW_SUFFIXES


def read_tokens(
    path: Path, tokenize: Callable[[str], list[int]], render: Callable[[Triple], list[int]]
) -> NDArray[np.int32]:
    """A file's tokens, without any at its beginning that only say that a text begins.

    Raises StellarError for a file that cannot be read, is empty, or holds a row that is none.
    """
    if not holds_rows(path):
        text = read_text(path, "text")
        if not text.strip():
            raise StellarError(
                f"no text in {path}", "give a file with text in the languages that the model is to speak"
            )
        return np.array(tokenize(text), np.int32)
    ids: list[int] = []
    for row in _rows(path):
        ids += render(row)
    if not ids:
        raise StellarError(f"no rows in {path}", _ROW_HINT)
    return np.array(ids, np.int32)


def cut(texts: Sequence[NDArray[np.int32]], size: int, begin: int | None) -> NDArray[np.int32]:
    """Tokens as chunks, int32 [chunks, size], of all texts in turn, so that the first ones have their share of each.

    What is left at the texts' ends is put together and cut too; what is left of that is dropped. `begin` is the token
    that texts begin with, if the model wants one: each text gets one, and each chunk's first token gives way to it.
    """
    if begin is not None:
        texts = [np.concatenate(([np.int32(begin)], text)) for text in texts]
    whole = [len(text) // size for text in texts]
    places = sorted((((at + 0.5) / count, number, at) for number, count in enumerate(whole) for at in range(count)))
    parts = [texts[number][at * size : (at + 1) * size] for _, number, at in places]
    rest = np.concatenate([text[count * size :] for text, count in zip(texts, whole, strict=True)])
    parts += [rest[at * size : (at + 1) * size] for at in range(len(rest) // size)]
    chunks = np.array(parts, np.int32).reshape(-1, size)
    if begin is not None:
        chunks[:, 0] = begin
    return chunks


def _rows(path: Path) -> Iterator[Triple]:
    """The triples of a JSON list or of JSON lines. Raises StellarError naming the place of what is none."""
    text = read_text(path, "training data")
    if text.lstrip()[:1] == "[":
        values = _parsed(text, path, "")
        for number, value in enumerate(values if isinstance(values, list) else [], 1):
            yield _triple(value, f"{path}, row {number}")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _triple(_parsed(line, path, f", line {number}"), f"{path}, line {number}")


def _parsed(text: str, path: Path, where: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StellarError(f"not JSON: {path}{where}: {getattr(error, 'msg', error)}", _ROW_HINT) from error
    return value


def _triple(value: object, where: str) -> Triple:
    row = value if isinstance(value, dict) else {}
    texts = [row.get("instruction"), row.get("input") or "", row.get("output")]
    if not all(isinstance(text, str) for text in texts) or not all((texts[0], texts[2])):
        raise StellarError(f"{where} is no row of training data", _ROW_HINT)
    return str(texts[0]), str(texts[1]), str(texts[2])


def check_enough(chunks: NDArray[np.int32], texts: Sequence[NDArray[np.int32]], size: int) -> None:
    """Raise UsageError unless there is a whole chunk."""
    if not len(chunks):
        have = sum(map(len, texts))
        raise UsageError(
            f"too little text: {have:,} tokens, and one chunk takes {size:,}",
            f"give more text with --data (some 100 chunks are usual), or a smaller --ctx (32 to {have})"
            if have > 32
            else "give more text with --data; some 100 chunks are usual",
        )
