"""A recipe: what a training set is made of, read from TOML and checked, before any row is read.

Knows the keys, their types and what contradicts what; reads no data.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from stellar_local.console import one_line
from stellar_local.errors import UsageError
from stellar_local.files import is_there
from stellar_local.tables.language import LANGUAGES

from .. import corpus
from ..likeness.duplicates import THRESHOLD
from ..likeness.overlap import RUN
from .tables import Table, is_a, near_spelling

_OF_SHIPPED = {"astronomy": "domain", "identity": "identity", "general": "general"}
_KEEP_SIMILAR = "identity"  # the category whose paraphrases are wanted
MOST_WEIGHT = 1000  # a number with a digit too many must not fill the memory
_LEAST_NEAR = 0.5  # below, most rows of one kind are near to each other


@dataclass(frozen=True)
class Source:
    """One source and what is taken of it. `files` has one file, or a shipped category's two."""

    name: str
    files: tuple[Path, ...]
    category: str
    given: str = ""  # the file as the recipe names it, or the shipped category
    weight: float = 1.0
    limit: int | None = None
    languages: tuple[str, ...] = ()
    min_chars: int = 0
    max_chars: int | None = None
    contains: tuple[re.Pattern[str], ...] = ()
    excludes: tuple[re.Pattern[str], ...] = ()
    keep_similar: bool = False
    validation: bool = True


@dataclass(frozen=True)
class Recipe:
    """All that decides a training set. `near` None: only exact duplicates go; `share` and `rows` both 0: no validation.

    `evaluations` are files as they are found, with the names that the recipe gives them.
    """

    sources: tuple[Source, ...]
    seed: int = 42
    split: str = "stellar"
    shares: tuple[tuple[str, float], ...] = ()
    max_repeat: int = 20
    reduce: bool = False
    share: float = 0.0
    rows: int = 0
    near: float | None = None
    same_question: str = "first"
    evaluations: tuple[tuple[str, Path], ...] = ()
    ngram: int = RUN


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with the program."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def _folder() -> Path:
    return Path(__file__).parent.parent / "recipes"


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of a shipped one. Raises UsageError where there is neither."""
    path, known = Path(name), shipped_recipes()
    if is_there(path) and not (name in known and path.is_dir()):  # such as a model's folder, which has its name too
        return path
    if name in known:
        return _folder() / f"{name}.toml"
    hint = near_spelling(name, known) if "/" not in name and "." not in name else "check the path"
    raise UsageError(f"recipe not found: {name}", hint)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; paths in it are relative to it. Raises UsageError naming the key that is wrong."""
    top = Table.read(path)
    tables = top.take_tables("source")
    if not tables:
        raise UsageError(f"{path} names no source", 'add one: [[source]] and path = "rows.jsonl"')
    shares = _shares(top.take_table("shares"))
    sources = tuple(_source(table, path.parent, bool(shares)) for table in tables)
    names = [source.name for source in sources]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{path}: two sources are named {twice[0]}", "give one another name")
    _match(shares, sources, path)
    seed = top.take("seed", int, 42)
    split = top.take("split", str, "stellar")
    max_repeat = top.take("max_repeat", int, 20)
    if max_repeat < 1:
        raise top.wrong("max_repeat", "must be at least 1")
    reduce = top.take("reduce", bool, False)
    share, rows = _validation(top.take_table("validation"))
    near, same_question = _duplicates(top.take_table("duplicates"))
    evaluations, ngram = _decontaminate(top.take_table("decontaminate"), path.parent)
    top.done()
    return Recipe(
        sources,
        seed,
        split,
        tuple(shares.items()),
        max_repeat,
        reduce,
        share,
        rows,
        near,
        same_question,
        evaluations,
        ngram,
    )


def _source(table: Table, folder: Path, with_shares: bool) -> Source:
    path, shipped = table.take("path", str, ""), table.take("shipped", str, "")
    if bool(path) == bool(shipped):
        raise UsageError(f"{table.where}: one of path and shipped must be given", 'for example path = "rows.jsonl"')
    if shipped and shipped not in corpus.CATEGORIES:
        raise table.wrong("shipped", f"names no shipped category: {shipped}", near_spelling(shipped, corpus.CATEGORIES))
    if "\0" in path or (path and not Path(path).name):
        raise table.wrong("path", f"names no file: {path!r}")
    name = table.take("name", str, shipped or Path(path).stem)
    for key in ("name", "category"):
        text = table.take(key, str, "x")
        if not text.strip() or text != one_line(text):
            raise table.wrong(key, "must be a text on one line", "it is said in reports")
    category = table.take("category", str, _OF_SHIPPED.get(shipped, "" if with_shares else name))
    if not category:
        raise UsageError(f"{table.where}: the source {name} has no category", "with [shares], each needs one")
    limit = table.take("limit", int, 0)
    if table.has("limit") and limit < 1:
        raise table.wrong("limit", "must be at least 1")
    least, most = table.take("min_chars", int, 0), table.take("max_chars", int, 0)
    if least < 0 or most < 0 or (table.has("max_chars") and most < max(1, least)):
        raise table.wrong("min_chars and max_chars", f"leave no answer: {least} to {most}")
    source = Source(
        name,
        tuple(corpus.shipped_files(shipped)) if shipped else (folder / path,),
        category,
        shipped or path,
        _weight(table),
        limit or None,
        _languages(table),
        least,
        most or None,
        _patterns(table, "contains"),
        _patterns(table, "excludes"),
        table.take("keep_similar", bool, category == _KEEP_SIMILAR),
        table.take("validation", bool, True),
    )
    table.done()
    return source


def _weight(table: Table) -> float:
    """How many times a row counts: `repeat` in whole numbers, `weight` in any."""
    repeat, weight = table.take("repeat", int, 1), table.take("weight", float, 1.0)
    if table.has("repeat") and table.has("weight"):
        raise UsageError(f"{table.where}: repeat and weight are both given", "keep one of them")
    if not 1 <= repeat <= MOST_WEIGHT:
        raise table.wrong("repeat", f"must be from 1 to {MOST_WEIGHT}")
    if not 0 < weight <= MOST_WEIGHT:
        raise table.wrong("weight", f"must be above 0 and at most {MOST_WEIGHT}")
    return float(repeat) if table.has("repeat") else weight


def _languages(table: Table) -> tuple[str, ...]:
    languages = table.take_texts("language")
    for language in languages:
        if language not in LANGUAGES:
            raise table.wrong("language", f"is unknown: {language}", f"use one of {', '.join(LANGUAGES)}")
    return languages


def _patterns(table: Table, key: str) -> tuple[re.Pattern[str], ...]:
    """Regular expressions, compiled. Python warns of doubtful ones on stderr, which is no place for its warnings."""
    compiled = []
    for text in table.take_texts(key):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compiled.append(re.compile(text))
        except (re.error, RecursionError, OverflowError) as error:
            hint = "a backslash before ( [ * + ? takes them as they are; 'single quotes' keep backslashes"
            raise table.wrong(key, f"is no regular expression: {text}: {error}", hint) from error
    return tuple(compiled)


def _shares(table: Table) -> dict[str, float]:
    shares: dict[str, float] = {}
    for name, value in table.values.items():
        if not is_a(value, float) or not 0 < value <= 1:
            raise table.wrong(name, "must be a share above 0, such as 0.2", "leave a category out with its sources")
        shares[name] = float(value)
    total = math.fsum(shares.values())
    if shares and abs(total - 1) > 1e-6:
        raise UsageError(f"{table.where}: the shares add up to {total:g}, not to 1", "change one of them")
    return shares


def _match(shares: dict[str, float], sources: tuple[Source, ...], path: Path) -> None:
    """Raises UsageError unless the shares name the sources' categories, all of them and no other."""
    if not shares:
        return
    categories = list(dict.fromkeys(source.category for source in sources))
    for name in shares:
        if name not in categories:
            raise UsageError(f"{path}, [shares]: no source is of the category {name}", near_spelling(name, categories))
    for source in sources:
        if source.category not in shares:
            raise UsageError(
                f"{path}, [shares]: no share for {source.category}, the category of {source.name}",
                near_spelling(source.category, list(shares)),
            )


def _validation(table: Table) -> tuple[float, int]:
    share, rows = table.take("share", float, 0.0 if table.has("rows") else 0.02), table.take("rows", int, 0)
    if table.has("share") and table.has("rows"):
        raise UsageError(f"{table.where}: share and rows are both given", "keep one of them")
    if not 0 <= share < 1:
        raise table.wrong("share", "must be at least 0 and below 1", "0.02 holds 2% of the questions out")
    if rows < 0:
        raise table.wrong("rows", "must be at least 0")
    table.done()
    return share, rows


def _duplicates(table: Table) -> tuple[float | None, str]:
    near: float | None
    if table.values.get("near") == "off":
        table.take("near", str, "off")
        near = None
    elif table.values.get("near") is False:
        table.take("near", bool, False)
        near = None
    else:
        near = table.take("near", float, THRESHOLD)
        if not _LEAST_NEAR <= near < 1:
            raise table.wrong("near", f'must be "off", or at least {_LEAST_NEAR} and below 1')
    same_question = table.take("same_question", str, "first")
    if same_question not in ("first", "all"):
        raise table.wrong("same_question", 'must be "first" or "all"', "it says which answers to one question stay")
    table.done()
    return near, same_question


def _decontaminate(table: Table, folder: Path) -> tuple[tuple[tuple[str, Path], ...], int]:
    files, ngram = table.take_texts("files"), table.take("ngram", int, RUN)
    if not 4 <= ngram <= 100:
        raise table.wrong("ngram", "must be from 4 to 100", "13 words, or Chinese characters, in a row are an overlap")
    table.done()
    return tuple((file, folder / file) for file in files), ngram
