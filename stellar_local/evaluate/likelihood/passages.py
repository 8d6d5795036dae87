"""Texts to score: rows with an answer, rows with a text, and whole text files, as token ids of which some are scored.

Of a row with instruction and output the answer is scored, to the token that ends it, after the prompt that the template
makes: what training's loss is. A row's text is scored whole; what exceeds the context is cut into windows in which
every token is scored once, after at least half a window. A text file is cut as llama.cpp's llama-perplexity does
(tools/perplexity/perplexity.cpp): chunks of so many tokens, each begun with BOS, the second half scored.
Knows files, templates and tokens; knows no figures.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import RequestError, StellarError
from ...files import read_text
from ...prompts import Turn
from ...runtime import Runtime
from ...tables.language import main_language, stated_language
from ..json_rows import BrokenRowError, read_rows, text_of
from ..ordering import spread

_HINT = 'rows look like {"instruction": "...", "output": "..."} or {"text": "..."}'
_ROWS = (".json", ".jsonl")
WINDOW = 512  # tokens of a row's text at once, whatever the context: figures may not depend on it


@dataclass(frozen=True)
class Passage:
    """A text to score: an exchange, whose response is scored, or a text; `chunk` is the length in tokens that a file's
    text is cut into, 0 for a row's.
    """

    key: str
    language: str
    kind: str
    turn: Turn | None = None
    text: str = ""
    chunk: int = 0


@dataclass(frozen=True)
class Part:
    """Token ids of which the last `scored` are to be scored, which stand for so many bytes of text."""

    key: str
    tokens: array[int] = field(repr=False)
    scored: int
    bytes: int
    ends: bool = False  # whether the last token ends an answer, and stands for no text

    def made(self, runtime: Runtime) -> tuple[tuple[int, ...], int]:
        """What an item that scores it is made of."""
        return tuple(self.tokens), self.scored

    def digest(self, scored: int) -> str:
        """What tells these tokens from others, as far as the first `scored` of the scored ones."""
        return hashlib.sha256(self.tokens[: len(self.tokens) - self.scored + scored].tobytes()).hexdigest()[:32]


def read_passages(paths: Sequence[Path], chunk: int) -> tuple[list[Passage], int]:
    """The passages of files, in an order of which every beginning has some of all languages and kinds. Broken rows are
    told of and left out, and counted.

    Raises StellarError for a file that cannot be read, or holds nothing that can be scored.
    """
    found: list[Passage] = []
    broken = 0
    names = [path.name for path in paths]
    for number, path in enumerate(paths, 1):
        name = path.name if names.count(path.name) == 1 else f"{number}:{path.name}"
        own, left_out = _of_file(path, name, chunk, several=len(paths) > 1)
        found, broken = found + own, broken + left_out
    return [passage for _, passage in spread(found, lambda one: one.language, lambda one: one.kind)], broken


def _of_file(path: Path, name: str, chunk: int, several: bool) -> tuple[list[Passage], int]:
    if path.suffix.lower() not in _ROWS:
        text = read_text(path, "text")
        if not text.strip():
            raise StellarError(f"the text is empty: {path}", "give a file with text")
        return [Passage(name, main_language(text), name if several else "", text=text, chunk=chunk)], 0
    found: list[Passage] = []
    rows, broken = read_rows(path, "data file", _HINT, _row)
    for number, row in enumerate(rows, 1):
        kind = row["kind"] or (name if several else "")
        turn = Turn(row["instruction"], row["output"], row["input"]) if row["instruction"] else None
        said = row["output"] if turn else row["text"]
        language = stated_language(row["language"], said)
        found.append(Passage(f"{name}:{number}", language, kind, turn, "" if turn else said))
    return found, len(broken)


def _row(row: dict[str, Any]) -> dict[str, str]:
    """A row's texts. Raises BrokenRowError."""
    found = {name: text_of(row, name, required=False) for name in ("language", "input")}
    kind = row.get("kind") or row.get("category") or ""
    found["kind"] = kind if isinstance(kind, str) else ""
    if "text" in row and "instruction" not in row:
        return {**found, "instruction": "", "output": "", "text": text_of(row, "text")}
    if "instruction" not in row:
        raise BrokenRowError('it has neither "instruction" with "output" nor "text"')
    return {**found, "instruction": text_of(row, "instruction"), "output": text_of(row, "output"), "text": ""}


def parts_of(passage: Passage, runtime: Runtime, system: str | None = None) -> list[Part]:
    """The token ids of a passage for a model. Raises StellarError where its template cannot render it, RequestError
    where nothing of it can be scored.
    """
    if passage.turn:
        tokens, scored = runtime.answered(passage.turn, system)
        if scored < 1 or scored >= len(tokens):
            raise RequestError("invalid_request", "nothing of the answer can be scored", "check the template")
        answer = (passage.turn.response or "").encode("utf-8", "replace")
        return [Part(passage.key, array("i", tokens), scored, len(answer), runtime.model.is_eog(tokens[-1]))]
    ids = runtime.model.tokenize(passage.text)
    bos = [runtime.model.bos] if runtime.model.add_bos and runtime.model.bos is not None else []
    size = passage.chunk or min(WINDOW, runtime.model.n_ctx_train - 1)
    if size >= runtime.engine.longest:
        raise RequestError(
            "context_length_exceeded",
            f"{size} tokens at once exceed the context of {runtime.engine.longest}",
            "allow more with --ctx, or cut texts into less with --chunk",
        )
    cut = _chunks([*bos, *ids], bos, size) if passage.chunk else _windows([*bos, *ids], size)
    made = []
    for number, (part, count) in enumerate(cut):
        span = sum(len(runtime.model.piece(token)) for token in part[-count:])
        if bos and not passage.chunk and not number:  # SentencePiece begins with a blank that the text does not have
            span -= sum(len(runtime.model.piece(token)) for token in ids) - len(passage.text.encode("utf-8", "replace"))
        made.append(Part(f"{passage.key}#{number}", array("i", part), count, span))
    if not made:
        least = passage.chunk or 2
        raise RequestError(
            "too_short", f"the text has {len(bos) + len(ids)} tokens, {least} are needed", "give a longer text"
        )
    return made


def _chunks(ids: Sequence[int], bos: Sequence[int], size: int) -> Iterator[tuple[list[int], int]]:
    """Chunks as llama-perplexity has them: whole ones only, BOS in the place of each one's first token."""
    first = size // 2
    for start in range(0, len(ids) - size + 1, size):
        yield [*bos, *ids[start + len(bos) : start + size]], size - first - 1


def _windows(ids: Sequence[int], size: int) -> Iterator[tuple[list[int], int]]:
    """Windows in which each token but the very first is scored once, after at least half a window where it can be."""
    done = 1
    while done < len(ids):
        end = min(len(ids), size if done == 1 else done + size // 2)
        yield list(ids[max(0, end - size) : end]), end - done
        done = end
