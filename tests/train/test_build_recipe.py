"""Recipes: every key, every mistake with its sentence, and the shipped one."""

from __future__ import annotations

from pathlib import Path

import pytest

from stellar_local.errors import StellarError, UsageError
from train.building.pipeline import build
from train.building.recipe import Recipe, find_recipe, load_recipe, shipped_recipes

SOURCE = '[[source]]\npath = "rows.jsonl"\ncategory = "general"\n'


def loaded(text: str, folder: Path) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def test_every_key(tmp_path: Path) -> None:
    recipe = loaded(
        """
seed = 7
split = "盐"
max_repeat = 3
reduce = true
[shares]
"天文" = 0.75
identity = 0.25
[[source]]
path = "sub/rows.jsonl"
name = "mine"
category = "天文"
weight = 1.5
limit = 9
language = "zh"
min_chars = 2
max_chars = 80
contains = '恒星|star'
excludes = ['OpenAI', '(?i)chatgpt']
validation = false
[[source]]
shipped = "identity"
repeat = 2
[validation]
rows = 5
[duplicates]
near = "off"
same_question = "all"
[decontaminate]
files = "evals"
ngram = 8
""",
        tmp_path,
    )
    mine, identity = recipe.sources
    assert (recipe.seed, recipe.split, recipe.max_repeat, recipe.reduce) == (7, "盐", 3, True)
    assert recipe.shares == (("天文", 0.75), ("identity", 0.25))
    assert (recipe.share, recipe.rows, recipe.near, recipe.same_question) == (0, 5, None, "all")
    assert (recipe.evaluations, recipe.ngram) == ((("evals", tmp_path / "evals"),), 8)
    assert mine.files == (tmp_path / "sub" / "rows.jsonl",)
    assert (mine.name, mine.category, mine.weight, mine.limit) == ("mine", "天文", 1.5, 9)
    assert (mine.languages, mine.min_chars, mine.max_chars) == (("zh",), 2, 80)
    assert [one.pattern for one in (*mine.contains, *mine.excludes)] == ["恒星|star", "OpenAI", "(?i)chatgpt"]
    assert (mine.keep_similar, mine.validation) == (False, False)
    assert (identity.name, identity.category, identity.weight) == ("identity", "identity", 2)
    assert identity.keep_similar and identity.validation


def test_defaults(tmp_path: Path) -> None:
    recipe = loaded('[[source]]\npath = "rows.jsonl"', tmp_path)
    assert (recipe.seed, recipe.share, recipe.rows, recipe.near, recipe.ngram) == (42, 0.02, 0, 0.85, 13)
    assert (recipe.sources[0].name, recipe.sources[0].category) == ("rows", "rows")
    assert loaded(SOURCE + "[validation]\nshare = 0", tmp_path).share == 0
    assert loaded(SOURCE + "[duplicates]\nnear = false", tmp_path).near is None


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "names no source", "[[source]]"),
        ("seed = [", "is not TOML", "quotes"),
        (SOURCE + "sed = 1", "[[source]] 1: unknown key sed", "known are"),
        ("sede = 1\n" + SOURCE, "unknown key sede", "did you mean seed?"),
        (SOURCE + "[validation]\nshar = 0.1", "[validation]: unknown key shar", "did you mean share?"),
        (SOURCE + "[duplicates]\nnaer = 0.9", "[duplicates]: unknown key naer", "did you mean near?"),
        (SOURCE + "[decontaminate]\nfile = []", "[decontaminate]: unknown key file", "did you mean files?"),
        (SOURCE + "[share]\ngeneral = 1", "unknown key share", "did you mean shares?"),
        ("seed = true\n" + SOURCE, "seed must be a whole number, not true", ""),
        ("seed = 1.5\n" + SOURCE, "seed must be a whole number, not 1.5", ""),
        ("shares = 3\n" + SOURCE, "shares must be a table", ""),
        ("source = 3", "source must be tables", ""),
        ("max_repeat = 0\n" + SOURCE, "max_repeat must be at least 1", ""),
        ("[[source]]\ncategory = 'x'", "one of path and shipped must be given", "path ="),
        (SOURCE + "shipped = 'identity'", "one of path and shipped must be given", ""),
        ("[[source]]\nshipped = 'identty'", "names no shipped category: identty", "did you mean identity?"),
        (SOURCE + SOURCE, "two sources are named rows", "another name"),
        (SOURCE + "repeat = 2\nweight = 2", "repeat and weight are both given", ""),
        (SOURCE + "repeat = 0", "repeat must be from 1", ""),
        (SOURCE + "weight = inf", "weight must be above 0", ""),
        (SOURCE + "weight = nan", "weight must be above 0", ""),
        (SOURCE + "limit = 0", "limit must be at least 1", ""),
        (SOURCE + "language = 'de'", "language is unknown: de", "zh, en"),
        (SOURCE + "language = [1]", "language must be a text or a list of texts", ""),
        (SOURCE + "min_chars = 9\nmax_chars = 3", "leave no answer: 9 to 3", ""),
        (SOURCE + "contains = '(star'", "contains is no regular expression: (star", "backslash"),
        (SOURCE + "excludes = 'a{99999999999}'", "excludes is no regular expression", ""),
        (SOURCE + "keep_similar = 1", "keep_similar must be true or false", ""),
        (SOURCE + "[shares]\ngeneral = 0.9", "the shares add up to 0.9, not to 1", ""),
        (SOURCE + "[shares]\ngeneral = 0.5\ndomain = 0.5", "no source is of the category domain", ""),
        ("[[source]]\npath = 'a'\n[shares]\nx = 1", "the source a has no category", ""),
        (SOURCE + "[shares]\ngenral = 1", "no source is of the category genral", "did you mean general?"),
        (
            SOURCE + "[[source]]\npath='b'\ncategory='other'\n[shares]\ngeneral = 1",
            "no share for other, the category of b",
            "",
        ),
        (SOURCE + "[shares]\ngeneral = 0", "general must be a share above 0", ""),
        (SOURCE + "[validation]\nshare = 1", "share must be at least 0 and below 1", ""),
        (SOURCE + "[validation]\nshare = 0.1\nrows = 3", "share and rows are both given", ""),
        (SOURCE + "[validation]\nrows = -1", "rows must be at least 0", ""),
        (SOURCE + "[duplicates]\nnear = 0", 'near must be "off", or at least 0.5', ""),
        (SOURCE + "[duplicates]\nnear = 1", 'near must be "off", or at least 0.5', ""),
        (SOURCE + "[duplicates]\nnear = 'of'", "near must be a number, not 'of'", ""),
        (SOURCE + "[duplicates]\nsame_question = 'last'", 'same_question must be "first" or "all"', ""),
        (SOURCE + "[decontaminate]\nngram = 1", "ngram must be from 4 to 100", ""),
    ],
)
def test_mistakes(text: str, message: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        loaded(text, tmp_path)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert str(tmp_path / "recipe.toml") in caught.value.message


def test_finding_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_recipes() == ["stellarspeak"]
    assert find_recipe("stellarspeak").name == "stellarspeak.toml"
    with pytest.raises(UsageError, match="recipe not found: stelarspeak") as caught:
        find_recipe("stelarspeak")
    assert caught.value.hint == "did you mean stellarspeak?"
    with pytest.raises(UsageError, match="recipe not found: no/such.toml"):
        find_recipe("no/such.toml")
    Path("stellarspeak").write_text(SOURCE, encoding="utf-8")
    assert find_recipe("stellarspeak") == Path("stellarspeak")  # a file of one's own comes first


def test_the_shipped_recipe_holds_its_shares() -> None:
    built = build(load_recipe(find_recipe("stellarspeak")))
    counts = {name: sum(row.source.category == name for row in built.train) for name in ("general", "domain")}
    assert abs(counts["general"] / len(built.train) - 0.2) < 0.01
    assert abs(counts["domain"] / len(built.train) - 0.45) < 0.01
    assert built.warnings == []
    assert {"你是谁", "who are you"} <= {row.question for row in built.train}
    assert {row.triple.instruction for row in built.train} >= {"Who are you?", "who are you", "Who are you"}


def test_what_is_absent_or_broken(tmp_path: Path) -> None:
    with pytest.raises(StellarError, match="the source rows not found"):
        build(loaded(SOURCE, tmp_path))
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a"}\n')
    with pytest.raises(StellarError, match='rows.jsonl, line 2: the row lacks "output"'):
        build(loaded(SOURCE, tmp_path))
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    with pytest.raises(UsageError, match="no row of the source rows passes its filters: min_chars"):
        build(loaded(SOURCE + "min_chars = 2", tmp_path))
    with pytest.raises(UsageError, match="evaluation set not found"):
        build(loaded(SOURCE + "[decontaminate]\nfiles = ['none.json']", tmp_path))


def test_a_folder_of_a_shipped_recipe_s_name_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`stellar convert --out stellarspeak` makes one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stellarspeak").mkdir()
    assert load_recipe(find_recipe("stellarspeak")).sources
    (tmp_path / "stellarspeak").rmdir()
    (tmp_path / "stellarspeak").write_text(SOURCE)
    assert find_recipe("stellarspeak") == Path("stellarspeak")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('path = "a\\u0000b"', r"path names no file: 'a\\x00b'"),
        ('path = "."', "path names no file: '.'"),
        ('path = "a"\nname = "a\\nb"', "name must be a text on one line"),
        ('path = "a"\ncategory = "\\u001b[31m"', "category must be a text on one line"),
        ('path = "a"\ncategory = " "', "category must be a text on one line"),
    ],
)
def test_names_that_cannot_be(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        loaded(f"[[source]]\n{source}\n", tmp_path)
    assert message.replace("\\\\", "\\") in caught.value.message
