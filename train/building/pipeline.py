"""From a recipe to rows: read, filter, take evaluation sets out, split, remove what is said twice, balance, shuffle.

Knows the order of these steps and why it is so; writes no file. The same recipe and sources give the same rows in
every process: nothing depends on Python's own hashes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from stellar_local.errors import StellarError

from ..likeness.duplicates import counted
from ..likeness.evaluation import files_of, texts_of, texts_of_row
from ..likeness.overlap import Evaluation
from .recipe import Recipe
from .rows import Removals, Row, first_of_identical, limited, read_source
from .shares import Part, Plan, plan, spread
from .sifting import (
    EVALUATION,
    LIKE_VALIDATION,
    NEAR,
    OVERLAPS_VALIDATION,
    Barrier,
    apart_from,
    unique_questions,
    without_similar,
)
from .split import divide

REDUCED = "given up for the shares"  # why a row is left out
_REASONS = 3  # that an error names, the most frequent
_MANY = 0.3  # of a source: if more go as near duplicates, they may be something else


@dataclass
class Built:
    """What a recipe gave. `train` has its repetitions; `distinct` counts each source's rows without them, `read` those
    of its files; `texts` is how many evaluation texts there were, `cut` where the split parted the hashes.
    """

    recipe: Recipe
    train: list[Row]
    validation: list[Row]
    read: dict[str, int]
    distinct: dict[str, int]
    removals: Removals
    cut: float
    texts: int
    warnings: list[str] = field(default_factory=list)


def build(recipe: Recipe) -> Built:
    """Make the rows of a recipe. Raises StellarError or UsageError where a source, a category or the result is empty,
    or a file cannot be read; MissingExtraError where a package for it is not installed.
    """
    removals = Removals()
    evaluations = [one for name, path in recipe.evaluations for one in files_of(name, path)]
    rows: list[Row] = []
    read: dict[str, int] = {}
    for source in recipe.sources:
        own, read[source.name] = read_source(source, removals)
        rows += own
    texts = 0
    barriers: list[Barrier] = []
    if evaluations:
        evaluation = Evaluation((text for name, path in evaluations for text in texts_of(name, path)), recipe.ngram)
        texts = evaluation.texts
        barriers.append(Barrier(evaluation, EVALUATION))
        rows = barriers[0].passed(rows, removals)
    rows = limited(first_of_identical(rows, removals), recipe.seed, removals)
    likeness = counted([row.form for row in rows]) if recipe.near is not None else None
    # Before anything else that compares rows: what is in validation must not hang on what other sources say.
    split = divide(rows, recipe)
    validation = unique_questions(split.validation, removals)
    # First what validation forbids: a row that is forbidden must not have driven out another one before.
    train = split.train
    if validation:
        train = apart_from(validation, train, recipe.near, likeness, removals)
        held_out = (text for row in validation for text in texts_of_row(f"validation, {row.place}", row.triple))
        barriers.append(Barrier(Evaluation(held_out), OVERLAPS_VALIDATION))
        train = barriers[-1].passed(train, removals)
    train = without_similar(train, recipe.near, recipe.same_question, removals, likeness)
    chosen, mixed, distinct = _balanced(train, recipe, barriers, validation, removals)
    random.Random(recipe.seed).shuffle(mixed)
    warnings = _doubts(recipe, chosen, distinct, validation, removals)
    return Built(recipe, mixed, validation, read, distinct, removals, split.cut, texts, warnings)


def _balanced(
    train: list[Row], recipe: Recipe, barriers: Sequence[Barrier], validation: Sequence[Row], removals: Removals
) -> tuple[Plan, list[Row], dict[str, int]]:
    """The plan, the rows as often as it says, and how many distinct ones of each source there were to take from.

    Of what is written, nothing may overlap with an evaluation set, by what is form there: a wording that was one
    before may be none among the rows that are left. Then a few more go, and the shares are looked at again.
    """
    while train:
        counts = Counter(row.source.name for row in train)
        parts = [Part(one.name, one.category, counts[one.name], one.weight) for one in recipe.sources]
        for category, _ in recipe.shares:
            if not any(part.rows for part in parts if part.category == category):
                raise _empty_category(category, recipe, validation, removals)
        chosen = plan(parts, dict(recipe.shares), recipe.max_repeat, recipe.reduce)
        mixed = _mixed(train, chosen, recipe.seed)
        if not mixed:
            raise StellarError("no row is left for training", "raise the weights in the recipe")
        taken = {id(row): row for row in mixed}
        passed = list(taken.values())
        for barrier in barriers:
            passed = barrier.passed(passed, removals)
        if len(passed) == len(taken):
            for row in train:
                if id(row) not in taken:
                    removals.add(row, REDUCED)
            return chosen, mixed, {part.name: part.rows for part in parts}
        gone = taken.keys() - set(map(id, passed))
        train = [row for row in train if id(row) not in gone]
    raise StellarError("no row is left for training", f"removed: {summed_up(removals)}")


def _empty_category(category: str, recipe: Recipe, validation: Sequence[Row], removals: Removals) -> StellarError:
    """The error that says where the rows of a category went."""
    names = [source.name for source in recipe.sources if source.category == category]
    went: Counter[str] = Counter()
    for name in names:
        went.update(removals.of(name))
    went["held out for validation"] = sum(row.source.name in names for row in validation)
    told = ", ".join(f"{count:,} {reason}" for reason, count in went.most_common(_REASONS) if count)
    return StellarError(f"no row is left in the category {category}, which has a share", f"of its rows went: {told}")


def summed_up(removals: Removals) -> str:
    """How many rows went for each reason, the most frequent first."""
    return ", ".join(f"{count:,} {reason}" for reason, count in removals.totals().items()) or "none"


def _mixed(rows: Sequence[Row], chosen: Plan, seed: int) -> list[Row]:
    """Each source's rows as often as planned, source by source."""
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row.source.name, []).append(row)
    mixed = []
    for name, own in by_source.items():
        mixed += spread(own, chosen.rows[name], f"{seed} {name} repeated")
    return mixed


def _doubts(
    recipe: Recipe, chosen: Plan, distinct: dict[str, int], validation: Sequence[Row], removals: Removals
) -> list[str]:
    """What the user should know of a result that is not what the recipe asked for."""
    doubts = [
        f"{name} stays below its share: its rows would have to be put in {factor:.1f} times more often, "
        f"max_repeat = {recipe.max_repeat} forbids it (or set reduce = true)"
        for name, factor in chosen.capped.items()
    ]
    doubts += [f"no row of the source {name} is left" for name, rows in distinct.items() if not rows]
    for source in recipe.sources:
        reasons = removals.of(source.name)
        near = sum(reasons.get(reason, 0) for reason in (NEAR, LIKE_VALIDATION, OVERLAPS_VALIDATION))
        if near > _MANY * (near + distinct[source.name]):
            doubts.append(
                f"{near:,} rows of the source {source.name} went as near duplicates: if they are made from one "
                "pattern, raise near, or set keep_similar = true and validation = false for it"
            )
    if (recipe.share or recipe.rows) and not validation:
        doubts.append(f"validation is empty: a share of {recipe.share:g} of so few rows is none; raise it")
    return doubts
