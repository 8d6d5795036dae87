"""Checking a folder of levels against its manifest, and measuring what each level lost.

Every byte is read again: sizes, headers, alignment, the set of tensors, the SHA-256 of each and of the whole file.
Then llama.cpp loads and runs each sound file. What is wrong is found and named, not raised, so that one bad file does
not hide another. Knows manifests, GGUF headers and divergence; knows nothing of how the files were made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from stellar_local.console import Progress, progress, warn
from stellar_local.errors import ModelError, StellarError, UsageError
from stellar_local.files import atomic_text, exclusive, explain, read_text, require_folder
from stellar_local.native.ggml import GgmlType
from stellar_local.native.header import Header, TensorInfo, check_runnable, read_header

from . import card
from .divergence import Reference, measure, read_reference
from .manifest import FILE, Divergence, LevelFile, Manifest, read_manifest

_PREFERRED = ("F16", "BF16", "F32")  # as references
_BLOCK = 1 << 20
_MOST_NAMED = 5  # tensors of a file that are named one by one


@dataclass(frozen=True)
class LevelCheck:
    """What was found of one level. `problems` are sentences that name the file and the tensor; `note` says what the
    divergence was measured against, or why there is none.
    """

    level: str
    file: str
    problems: tuple[str, ...] = ()
    divergence: Divergence | None = None
    note: str = ""
    sha256: str = ""  # of the file that was checked, as its manifest told it

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.problems


def verify(folder: Path, names: Sequence[str] | None = None, threads: int | None = None) -> list[LevelCheck]:
    """Check the levels `names` of a converted folder (None: all that its manifest lists) and measure them.

    The reference is the folder's F16 file, else BF16, F32, else its most precise level; it is used even where `names`
    leaves it out. Raises UsageError for a level that the manifest does not list, ModelError for a folder without a
    manifest or with a damaged one; whatever is wrong with a file is in the result.
    """
    require_folder(folder, "converted folder", "give a folder made by stellar convert")
    manifest = read_manifest(folder)
    if manifest is None:
        raise ModelError(f"{folder} holds no {FILE}", "give a folder made by stellar convert")
    if not manifest.levels:
        raise ModelError(f"{folder}/{FILE} lists no level", "convert the model into this folder again")
    chosen = [name.upper() for name in names] if names is not None else list(manifest.levels)
    if unknown := next((name for name in chosen if name not in manifest.levels), None):
        raise UsageError(f"level {unknown} is not in {folder}", f"it holds {', '.join(manifest.levels)}")
    items = [manifest.levels[name] for name in dict.fromkeys(chosen)]
    with progress(f"{folder.name}: checking", sum(item.size for item in items)) as bar:
        checks = {
            item.level: LevelCheck(item.level, item.file, _problems(folder, item, bar), sha256=item.sha256)
            for item in items
        }
    _measure_all(folder, manifest, checks, threads)
    return list(checks.values())


def record(folder: Path, checks: Iterable[LevelCheck]) -> None:
    """Write measured divergences into the folder's manifest.json and the table of its README.md; the rest stays.

    Raises StellarError if they cannot be written, ModelError without a manifest.
    """
    measured = [check for check in checks if check.divergence is not None]
    if not measured:
        return
    with exclusive(folder / ".lock", folder):
        manifest = read_manifest(folder)
        if manifest is None:
            raise ModelError(f"{folder} holds no {FILE}", "give a folder made by stellar convert")
        # A conversion may have written the folder anew meanwhile: figures belong to the very file that was measured.
        found = {
            check.level: check.divergence
            for check in measured
            if check.divergence and check.level in manifest.levels
            if manifest.levels[check.level].sha256 == check.sha256
        }
        changed = manifest.measured(found)
        atomic_text(folder / FILE, changed.text())
        if not (folder / card.FILE).is_file():
            return
        text = card.replace_table(read_text(folder / card.FILE, "model card"), list(changed.levels.values()))
        if text is None:
            warn(f"{card.FILE} has no table of levels between its marks any more; it stays as it is")
        else:
            atomic_text(folder / card.FILE, text)


def _problems(folder: Path, item: LevelFile, bar: Progress | None) -> tuple[str, ...]:
    """What is wrong with a file; without a `bar`, only what its header tells."""
    path = folder / item.file
    try:
        header = read_header(path)
        if header.file_size != item.size:
            return (f"{item.file} has {header.file_size:,} bytes, not the {item.size:,} that were written",)
        check_runnable(header)
        return tuple(_header_problems(header, item)) or (tuple(_byte_problems(header, item, bar)) if bar else ())
    except StellarError as error:
        return (f"{item.file}: {error.message}",)


def _header_problems(header: Header, item: LevelFile) -> list[str]:
    """Alignment, vocabulary, and the set of tensors with their types."""
    found = {tensor.name: tensor for tensor in header.tensors}
    alignment = header.metadata.get("general.alignment", 32)
    out, end = [], 0
    for tensor in sorted(header.tensors, key=lambda tensor: tensor.offset):
        if tensor.offset % alignment or tensor.offset < end:
            out.append(f"{item.file}: tensor {tensor.name} begins at {tensor.offset}, where none can")
        end = tensor.offset + tensor.nbytes
    if item.tensors:
        out += [f"{item.file}: tensor {name} is missing" for name in item.tensors if name not in found]
        for name, tensor in found.items():
            record, type = item.tensors.get(name), _type_name(tensor)
            if record is None:
                out.append(f"{item.file}: tensor {name} was not written by the conversion")
            elif record.type != type:
                out.append(f"{item.file}: tensor {name} is {type}, not {record.type}")
    tokens = header.metadata.get("tokenizer.ggml.tokens", 0)
    count = tokens if isinstance(tokens, int) else len(tokens)
    for name in ("token_embd.weight", "output.weight"):
        if name in found and found[name].shape[-1] != count:
            out.append(f"{item.file}: tensor {name} has {found[name].shape[-1]} rows, the vocabulary {count} tokens")
    return _shortened(out)


def _byte_problems(header: Header, item: LevelFile, bar: Progress) -> list[str]:
    """Read the whole file once and compare every tensor's SHA-256, then the file's own."""
    whole, changed = hashlib.sha256(), []
    try:
        with header.path.open("rb") as handle:
            for tensor in sorted(header.tensors, key=lambda tensor: tensor.offset):
                _feed(handle, header.data_start + tensor.offset - handle.tell(), bar, whole)
                own = hashlib.sha256()
                _feed(handle, tensor.nbytes, bar, whole, own)
                record = item.tensors.get(tensor.name)
                if record is not None and own.hexdigest() != record.sha256:
                    changed.append(f"{item.file}: the bytes of tensor {tensor.name} are not those that were written")
            _feed(handle, header.file_size - handle.tell(), bar, whole)
    except OSError as error:
        raise explain(error, header.path, "read") from error
    if not changed and whole.hexdigest() != item.sha256:
        what = "its header or padding was changed" if item.tensors else "its bytes are not those that were written"
        changed.append(f"{item.file}: {what} (SHA-256)")
    return _shortened(changed)


def _feed(handle: IO[bytes], size: int, bar: Progress, *digests: Any) -> None:
    """Read `size` bytes into the digests."""
    while size > 0:
        block = handle.read(min(size, _BLOCK))
        if not block:
            raise OSError(None, "the file ended while it was read")
        for digest in digests:
            digest.update(block)
        bar.advance(len(block))
        size -= len(block)


def _type_name(tensor: TensorInfo) -> str:
    try:
        return GgmlType(tensor.type).name
    except ValueError:
        return f"type {tensor.type}"


def _shortened(problems: list[str]) -> list[str]:
    more = len(problems) - _MOST_NAMED
    return problems if more <= 0 else [*problems[:_MOST_NAMED], f"and {more} more of this file"]


def _measure_all(folder: Path, manifest: Manifest, checks: dict[str, LevelCheck], threads: int | None) -> None:
    """Run every sound level and put into `checks` what it gave: the reference first, then the others one by one."""
    reference = _find_reference(folder, manifest, checks, threads)
    for name, check in checks.items():
        if reference is None or not check.sound:
            continue
        if name == reference.level:
            alone = len(manifest.levels) == 1
            note = "the only level here: nothing to measure it against" if alone else "what others are measured against"
            checks[name] = replace(check, note=note)
            continue
        try:
            with progress(f"{check.file}: measuring", 1.0) as bar:
                found = measure(folder / check.file, reference, threads, bar.advance)
            checks[name] = replace(check, divergence=found, note=_against(reference.level))
        except StellarError as error:
            checks[name] = replace(check, problems=(f"{check.file}: {error.message}",))


def _find_reference(
    folder: Path, manifest: Manifest, checks: dict[str, LevelCheck], threads: int | None
) -> Reference | None:
    """The first of the preferred references, else of the levels by precision, that is sound and runs."""
    precise = sorted(manifest.levels.values(), key=lambda item: item.bits_per_weight, reverse=True)
    for name in dict.fromkeys([*_PREFERRED, *(item.level for item in precise)]):
        if name not in manifest.levels:
            continue
        item, check = manifest.levels[name], checks.get(name)
        if _problems(folder, item, None) if check is None else check.problems:
            continue
        try:
            with progress(f"{item.file}: running", 1.0) as bar:
                return read_reference(folder / item.file, name, threads, bar.advance)
        except StellarError as error:
            if check is None:
                warn(f"{item.file} cannot be the reference: {error.message}")
            else:
                checks[name] = replace(check, problems=(f"{item.file}: {error.message}",))
    return None


def _against(reference: str) -> str:
    if reference in _PREFERRED:
        return f"against {reference}"
    return f"against {reference}, the most precise level here; F16 among --levels would be a better reference"
