"""`stellar data build`: the options of old, recipes, what is written, and every refusal."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from building_rows import write_rows
from click.testing import CliRunner
from conftest import Stellar

from stellar_local.errors import StellarError, UsageError
from stellar_local.files import exclusive
from train import cli, corpus
from train.corpus import Triple


def run(*arguments: object) -> str:
    """Runs the command in this process; returns what it said on stderr."""
    done = CliRunner().invoke(cli.data, ["build", *map(str, arguments)], standalone_mode=False)
    if done.exception:
        raise done.exception
    assert done.stdout == ""
    return done.stderr


def rows(path: Path) -> list[Triple]:
    return [Triple(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_whole_corpus(here: Path) -> None:
    assert "296 rows (astronomy 144, identity 112, general 40); 0 duplicates removed" in run("--out", "train.json")
    shipped = [row for name in corpus.CATEGORIES for row in corpus.shipped(name)]
    built = rows(Path("train.json"))
    assert Counter(built) == Counter(shipped)
    assert built != shipped
    identity = set(corpus.shipped("identity"))
    assert 0 < sum(row in identity for row in built[:20]) < 20
    assert [path.name for path in here.iterdir()] == ["train.json"]


def test_a_missing_source_speaks_of_a_recipe_only_where_there_is_one(here: Path) -> None:
    with pytest.raises(StellarError, match="the source mine not found") as caught:
        run("--out", "train.json", "--source", "mine.jsonl")
    assert caught.value.hint == "check the path"
    Path("recipe.toml").write_text('[[source]]\npath = "mine.jsonl"\n', encoding="utf-8")
    with pytest.raises(StellarError, match="the source mine not found") as caught:
        run("--out", "data", "--recipe", "recipe.toml")
    assert "relative to the recipe" in caught.value.hint


def test_repeat_limit_and_seed(here: Path) -> None:
    options = ("--repeat", "identity=2", "--limit", "astronomy=60")
    said = run("--out", "a.json", *options)
    assert "astronomy 60, identity 224, general 40" in said
    run("--out", "b.json", *options)
    run("--out", "c.json", *options, "--seed", 1)
    a, b, c = (Path(name).read_bytes() for name in ("a.json", "b.json", "c.json"))
    assert a == b != c
    run("--out", "d.json", *options, "--limit", "general=3")  # leaves other sources alone
    astronomy = set(corpus.shipped("astronomy"))
    assert {row for row in rows(Path("a.json")) if row in astronomy} == {
        row for row in rows(Path("d.json")) if row in astronomy
    }


def test_only_what_is_the_same_to_the_letter_goes(here: Path) -> None:
    x = write_rows(here / "x.jsonl", [("q", "1"), ("q", "2"), ("q", "1"), ("Q?", "1")])
    y = write_rows(here / "y.jsonl", [("q", "1"), ("q", " ", "1")])
    said = run("--out", "train.json", "--source", x, "--source", y, "--repeat", "y=2")
    assert "6 rows" not in said and "5 rows (x 3, y 2); 2 duplicates removed" in said
    expected = [Triple("q", "", "1"), Triple("q", "", "2"), Triple("Q?", "", "1"), *[Triple("q", " ", "1")] * 2]
    assert Counter(rows(Path("train.json"))) == Counter(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeat", "poetry=2"], "--repeat names poetry, which is no part of this corpus"),
        (["--limit", "identity=0"], "--limit identity=0: the number must be at least 1"),
        (["--repeat", "identity"], "--repeat identity is not NAME=NUMBER"),
        (["--repeat", "identity=②"], "--repeat identity=② is not NAME=NUMBER"),
        (["--limit", "identity=" + 5000 * "9"], "is not NAME=NUMBER"),
        (["--repeat", "identity=1001"], "--repeat identity=1001: the number must be at most 1000"),
        (["--out", "folder"], "--out folder is a folder"),
        (["--source", "train.json"], "--out train.json is one of the sources"),
        (["--source", "a/x.jsonl", "--source", "b/x.jsonl"], "two sources are named x"),
        (["--recipe", "stellarspeak", "--repeat", "identity=2"], "--recipe names the sources itself"),
        (["--recipe", "stellar"], "recipe not found: stellar"),
    ],
)
def test_wrong_options(arguments: list[str], message: str, here: Path) -> None:
    write_rows(here / "train.json", [("q", "1")])
    (here / "folder").mkdir()
    with pytest.raises(UsageError) as caught:
        run("--out", "train.json", *arguments)
    assert message in caught.value.message


RECIPE = """
[shares]
general = 0.75
identity = 0.25
[[source]]
path = "data/general.jsonl"
category = "general"
excludes = "OpenAI"
[[source]]
path = "data/me.jsonl"
category = "identity"
validation = false
[validation]
share = 0.1
[decontaminate]
files = ["quiz.csv"]
"""


@pytest.fixture
def recipe(here: Path) -> Path:
    """300 rows and what is wrong with some of them: line 301 on."""
    (here / "data").mkdir()
    long = "Why do the planets of the Solar System all go around the Sun in the same direction, as seen from the north"
    general = [(f"第{at}题：what is {at} times {at}?", f"{at} 的平方是 {at * at}") for at in range(300)]
    general += [general[0], (general[1][0].upper(), general[1][1]), (general[2][0], "I do not know.")]
    general += [("Who made you?", "OpenAI did."), ("In which year did the comet Shoemaker–Levy 9 hit Jupiter?", "1994")]
    general += [(long, "They formed from one disc that turned, and they kept its motion ever since that time.")]
    general += [(long + "?!", "They formed from one disk that turned, and they kept its motion ever since that time.")]
    write_rows(here / "data" / "general.jsonl", general)
    write_rows(here / "data" / "me.jsonl", [("Who are you?", "StellarSpeak."), ("who are you", "StellarSpeak.")])
    (here / "quiz.csv").write_text("In which year did the comet Shoemaker-Levy 9 hit Jupiter?,1994\n", encoding="utf-8")
    path = here / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_a_recipe(recipe: Path, here: Path) -> None:
    said = run("--recipe", recipe, "--out", "out")
    assert "quiz.csv, line 1: the same question" in said
    assert "identity stays below its share" in said  # two rows: twenty times each is not enough
    train, validation = rows(here / "out" / "train.json"), rows(here / "out" / "val.json")
    record: dict[str, Any] = json.loads((here / "out" / "build.json").read_text(encoding="utf-8"))
    assert 15 <= len(validation) <= 45
    assert not {row.instruction for row in validation} & {row.instruction for row in train}
    counts = Counter(row.instruction for row in train)
    assert counts["Who are you?"] == counts["who are you"] == 20
    assert not any("OpenAI" in row.output or "Shoemaker" in row.instruction for row in train + validation)
    assert sum(row.instruction.startswith("Why do the planets") for row in train + validation) == 1
    assert [row for row in train + validation if row.instruction == "第2题：what is 2 times 2?"] == [
        Triple("第2题：what is 2 times 2?", "", "2 的平方是 4")
    ]

    general, me = record["sources"]
    assert general["read"] == 307 and me["read"] == 2
    removed = general["removed"]
    assert (removed["excludes"], removed["in an evaluation set"]) == (1, 1)
    assert sum(removed.values()) + general["distinct"] + general["validation"] == general["read"]
    assert (me["distinct"], me["train"]) == (2, 40)
    assert record["categories"]["identity"]["wanted"] == 0.25
    assert record["removed"]["in an evaluation set"]["examples"] == [
        {
            "source": "general",
            "file": "general.jsonl",
            "line": 305,
            "question": "In which year did the comet Shoemaker–Levy 9 hit Jupiter?",
            "because": "quiz.csv, line 1: the same question",
        }
    ]
    for key in ("train", "validation"):
        written = (here / "out" / record[key]["file"]).read_bytes()
        assert record[key]["sha256"] == hashlib.sha256(written).hexdigest()
        assert record[key]["rows"] == len(json.loads(written)) == sum(record[key]["languages"].values())
    source = (here / "data" / "general.jsonl").read_bytes()
    assert general["files"] == [{"file": "general.jsonl", "sha256": hashlib.sha256(source).hexdigest()}]
    assert record["decontaminate"]["files"][0]["file"] == "quiz.csv"
    assert str(here) not in json.dumps(record)


def test_reducing_holds_the_shares(recipe: Path, here: Path) -> None:
    recipe.write_text("reduce = true\n" + RECIPE, encoding="utf-8")
    run("--recipe", recipe, "--out", "out")
    record = json.loads((here / "out" / "build.json").read_text(encoding="utf-8"))
    assert {name: one["share"] for name, one in record["categories"].items()} == {"general": 0.75, "identity": 0.25}
    assert record["categories"]["identity"]["train"] == 40
    assert record["removed"]["given up for the shares"]["rows"] > 100
    assert record["warnings"] == []


def test_the_same_bytes_in_every_process(recipe: Path, stellar: Stellar) -> None:
    made = []
    for seed in ("0", "1", "977"):
        stellar.env["PYTHONHASHSEED"] = seed
        done = stellar("data", "build", "--recipe", recipe, "--out", f"out{seed}")
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        made.append([path.read_bytes() for path in sorted((stellar.cwd / f"out{seed}").iterdir())])
    assert len(made[0]) == 3
    assert made[0] == made[1] == made[2]
    run("--recipe", recipe, "--out", "other", "--seed", 7)
    assert (stellar.cwd / "other" / "train.json").read_bytes() != made[0][1]
    assert (stellar.cwd / "other" / "val.json").read_bytes() == made[0][2]  # frozen whatever the seed


def test_a_training_file_may_be_named(recipe: Path, here: Path) -> None:
    run("--recipe", recipe, "--out", "mix/train.json")
    assert sorted(path.name for path in (here / "mix").iterdir()) == ["build.json", "train.json", "val.json"]
    run("--recipe", recipe, "--out", "mix/b.json")
    assert {"b.json", "b-val.json", "b-build.json"} < {path.name for path in (here / "mix").iterdir()}


def test_refusals_leave_everything_as_it_was(recipe: Path, here: Path) -> None:
    with pytest.raises(UsageError, match=r"train.jsonl is neither a folder nor a .json file"):
        run("--recipe", recipe, "--out", "train.jsonl")
    write_rows(here / "data" / "val.json", [("q", "1")])
    recipe.write_text(RECIPE.replace("general.jsonl", "val.json"), encoding="utf-8")
    with pytest.raises(UsageError, match="val.json would be written over"):
        run("--recipe", recipe, "--out", "data")
    recipe.write_text(RECIPE.replace("0.1", "0"), encoding="utf-8")
    (here / "out").mkdir()
    (here / "out" / "val.json").write_text("of an earlier build")
    with pytest.raises(UsageError, match="val.json is of an earlier build"):
        run("--recipe", recipe, "--out", "out")
    assert [path.name for path in (here / "out").iterdir()] == ["val.json"]
    (here / "file").write_text("x")
    with pytest.raises(StellarError, match="cannot write to file"):
        run("--recipe", recipe, "--out", "file")


def test_a_category_without_rows_says_where_they_went(recipe: Path, here: Path) -> None:
    recipe.write_text(
        RECIPE.replace("validation = false", "validation = false\nkeep_similar = false"), encoding="utf-8"
    )
    write_rows(
        here / "data" / "me.jsonl",
        [("第3题：what is 3 times 3?", "9"), ("In which year did the comet Shoemaker-Levy 9 hit Jupiter?", "1994")],
    )
    with pytest.raises(StellarError) as caught:
        run("--recipe", recipe, "--out", "out")
    assert caught.value.message == "no row is left in the category identity, which has a share"
    assert caught.value.hint == ("of its rows went: 1 in an evaluation set, 1 another answer to the same question")


def test_two_builds_at_once_are_kept_apart(recipe: Path, here: Path) -> None:
    pytest.importorskip("fcntl")
    (here / "out").mkdir()
    with exclusive(here / "out" / ".train.json.lock", here), pytest.raises(StellarError, match="another process"):
        run("--recipe", recipe, "--out", "out")
    assert list((here / "out").iterdir()) == []
    run("--recipe", recipe, "--out", "out")
    assert sorted(path.name for path in (here / "out").iterdir()) == ["build.json", "train.json", "val.json"]


def test_a_file_name_that_is_no_utf8_is_recorded(recipe: Path, here: Path) -> None:
    odd = here / os.fsdecode(b"mix\xff.toml")
    try:
        odd.write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError:
        pytest.skip("this file system takes no such name")
    run("--recipe", odd, "--out", "out")
    record = json.loads((here / "out" / "build.json").read_text(encoding="utf-8"))
    assert record["recipe"]["file"] == "mix?.toml"
