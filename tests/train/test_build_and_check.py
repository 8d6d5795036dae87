"""`stellar data check` and `stellar data build` agree: one names what the other takes out, and then finds nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from alike_texts import SIGNS, WORDS, edited, texts
from building_rows import write_rows
from click.testing import CliRunner
from conftest import SHARED

from train import cli, corpus
from train.corpus import Triple

RECIPE = """
[[source]]
path = "one.jsonl"
[[source]]
path = "two.jsonl"
[validation]
share = {share}
[decontaminate]
files = ["quiz.csv", "more.json"]
"""


def run(*arguments: object) -> str:
    done = CliRunner().invoke(cli.data, [*map(str, arguments)], standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.stdout


def findings(*files: object) -> dict[str, list[tuple[str, int]]]:
    """The places of each kind, by file name and line, as `check` names them."""
    data: dict[str, Any] = json.loads(run("check", *files, "--against", "quiz.csv", "--against", "more.json", "--json"))
    return {
        kind: [(Path(place["file"]).name, place["line"]) for place in found["places"]]
        for kind, found in data["findings"].items()
    }


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, str, str]]]:
    """Two files of rows in both languages: leaks, all kinds of duplicates, a task of many rows that are alike in form,
    and rows that meet in several of these.
    """
    monkeypatch.chdir(tmp_path)
    rng = random.Random(11)
    pool = texts(260, 12)
    rows = [(pool[at], "", pool[at + 1]) for at in range(0, 120, 2)]
    rows += [(pool[at], "", pool[at + 1]) for at in range(121, 240, 2)]
    slip = [(edited(q, rng).upper() + " ！", "", edited(a, rng)) for q, _, a in rows[:40]]
    rows += slip + rows[40:60] + [(q, "", "another answer, 另一个") for q, _, _ in rows[60:70]]
    rows += [(q.lower() + "?", " ", a + "。") for q, _, a in rows[70:90]]
    rows += [(f"{q} {n}", "", a) for n, (q, _, a) in enumerate(rows[:12])]  # other numbers: other problems
    task = "请判断下面这句话的对错，不要猜测，也不要解释，只用一个字来回答，并且注意句子里的每一个词：Right or wrong? "
    rows += [(task, "".join(rng.choices(SIGNS, k=6)), "对") for _ in range(60)]
    names = [" ".join(rng.choices(WORDS, k=2)) + "".join(rng.choices(SIGNS, k=3)) for _ in range(150)]
    rows += [(task + name, "", "错") for name in names] + [(task + name + "。", "", "错") for name in names[:15]]
    rows += [(task + edited(name, rng), "", "错") for name in names[:15]]
    questions = [
        "什么是黑洞的事件视界？",
        "Why is the sky dark at night, and who asked that first?",
        pool[250],
        pool[251],
    ]
    (tmp_path / "quiz.csv").write_text("".join(f'"{text}",A\n' for text in questions), encoding="utf-8")
    (tmp_path / "more.json").write_text(json.dumps([{"id": "a-b-c", "q": pool[255], "a": pool[254]}]), encoding="utf-8")
    for text in questions:
        rows += [
            (text, "", "I know. 我知道。"),
            (f"请回答。{text} Thank you.", "", "yes 是"),
            (text.upper(), "", "I know. 我知道。"),
        ]
    rows += [("Tell me more.", "", "It is said: " + pool[255]), ("说说看。", "", f"据说{pool[254]}。")]
    rows += [("Tell me more.", "", "It is said: " + pool[255])]  # leaks twice over
    rng.shuffle(rows)
    half = len(rows) // 2
    parts = [rows[:half], rows[half:]]
    for name, part in zip(("one", "two"), parts, strict=True):
        write_rows(tmp_path / f"{name}.jsonl", part)
    return parts


def test_build_removes_what_check_names_and_nothing_else(sources: list[list[tuple[str, str, str]]]) -> None:
    found = findings("one.jsonl", "two.jsonl")
    assert set(found) == {"duplicate", "near duplicate", "same question, other answer", "leak"}
    assert min(map(len, found.values())) >= 5 and len(found["leak"]) >= 12
    Path("recipe.toml").write_text(RECIPE.format(share=0), encoding="utf-8")
    run("build", "--recipe", "recipe.toml", "--out", "out")
    record = json.loads(Path("out/build.json").read_text(encoding="utf-8"))
    removed = {reason: one["rows"] for reason, one in record["removed"].items()}
    assert removed == {
        "duplicate": len(found["duplicate"]),
        "near duplicate": len(found["near duplicate"]),
        "another answer to the same question": len(found["same question, other answer"]),
        "in an evaluation set": len(found["leak"]),
    }
    named = {place for places in found.values() for place in places}
    kept = [
        Triple(*row)
        for name, part in zip(("one.jsonl", "two.jsonl"), sources, strict=True)
        for line, row in enumerate(part, 1)
        if (name, line) not in named
    ]
    built = corpus.read(Path("out/train.json"))
    assert sorted(map(repr, built)) == sorted(map(repr, kept))
    assert sum(row.instruction.isascii() for row in built) > 50 < sum(not row.instruction.isascii() for row in built)


@pytest.mark.parametrize("share", [0, 0.2])
@pytest.mark.parametrize("seed", [1, 2])
def test_check_finds_nothing_in_what_build_wrote(
    share: float, seed: int, sources: list[list[tuple[str, str, str]]]
) -> None:
    Path("recipe.toml").write_text(f"seed = {seed}\n" + RECIPE.format(share=share), encoding="utf-8")
    run("build", "--recipe", "recipe.toml", "--out", "out")
    assert len(corpus.read(Path("out/train.json"))) > 140
    assert findings("out/train.json") == {}
    if share:
        assert "leak" not in findings("out/val.json")
        assert "same question, other answer" not in findings("out/train.json", "out/val.json")


def test_several_answers_that_a_recipe_keeps_are_named_as_such(sources: list[list[tuple[str, str, str]]]) -> None:
    recipe = RECIPE.format(share=0) + '[duplicates]\nsame_question = "all"\n'
    Path("recipe.toml").write_text(recipe, encoding="utf-8")
    run("build", "--recipe", "recipe.toml", "--out", "out")
    assert set(findings("out/train.json")) == {"same question, other answer"}


def test_rows_about_who_a_model_is_do_not_overlap_with_its_questions(tmp_path: Path) -> None:
    """The held-out questions bring right answers along, which the rows teach."""
    names = ("--name", "StellarSpeak", "--name-zh", "星语者", "--developer", "星语调校局", "--base", "BayLing")
    rows, questions = tmp_path / "me.jsonl", tmp_path / "asked.jsonl"
    run("identity", *names, "--out", rows, "--held-out", questions)
    assert not json.loads(run("check", rows, "--against", questions, "--json"))["findings"].get("leak")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[[source]]\npath = "me.jsonl"\ncategory = "identity"\nvalidation = false\n[validation]\nshare = 0\n'
        '[decontaminate]\nfiles = ["asked.jsonl"]\n',
        encoding="utf-8",
    )
    run("build", "--recipe", recipe, "--out", tmp_path / "out")
    assert len(corpus.read(tmp_path / "out" / "train.json")) == len(corpus.read(rows))


PHRASED = """
[[source]]
path = "asked.jsonl"
[validation]
share = 0.15
"""


def phrased(count: int, wordings: list[str], rng: random.Random) -> list[tuple[str, str]]:
    """Each of `count` questions in three wordings, and which question each row asks."""
    questions = [text if text.isascii() else text[:20] for text in texts(count, 3)]
    return [(wording.format(question), question) for question in questions for wording in rng.sample(wordings, 3)]


WORDINGS = [
    "请判断下面这句天文学方面的陈述是否正确，并且说明理由，不要只回答对或错。陈述：{}",
    "{}\n上面这句话是一位中学生写在作业里的，老师说它不一定对，你觉得呢？",
    "Judge with care whether the following statement of a student on astronomy is right or wrong, and say why: {}",
    "A friend of mine told me the following last night, and I would like to know whether to believe it. {}",
]


@pytest.mark.parametrize("named", [True, False])
def test_a_question_is_on_one_side_in_all_its_phrasings(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the file names it (`asks`); where it does not, what overlaps with validation is left out of training. Wordings
    are no overlap, although fewer validation rows share each than make form of it in an evaluation set.
    """
    monkeypatch.chdir(tmp_path)
    rows = phrased(80, WORDINGS, random.Random(1))
    lines = [
        {"instruction": instruction, "input": "", "output": f"{number} 对"} | ({"asks": asks} if named else {})
        for number, (instruction, asks) in enumerate(rows)
    ]
    Path("asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    Path("recipe.toml").write_text(PHRASED, encoding="utf-8")
    run("build", "--recipe", "recipe.toml", "--out", "out")
    asked = dict(rows)
    train, validation = (
        {asked[row.instruction] for row in corpus.read(Path(f"out/{name}.json"))} for name in ("train", "val")
    )
    assert len(validation) >= 8 and not train & validation
    assert len(train | validation) == 80
    assert json.loads(run("check", "out/train.json", "--against", "out/val.json", "--json"))["findings"] == {}
    if named:  # validation asks each once, and nothing else goes
        assert len(corpus.read(Path("out/val.json"))) == len(validation)
        assert len(corpus.read(Path("out/train.json"))) == 3 * len(train)
        assert set(json.loads(Path("out/train.json").read_text(encoding="utf-8"))[0]) == {
            "instruction",
            "input",
            "output",
        }


def test_the_published_sample_in_three_phrasings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SHARED / "data" / "astro-qa-sample"
    if not folder.is_dir():
        pytest.skip("the sample of Astro-QA is not here")
    pytest.importorskip("openpyxl")
    monkeypatch.chdir(tmp_path)
    run("import", folder, "--out", "asked.jsonl", "--phrasings", 3)
    Path("recipe.toml").write_text(PHRASED, encoding="utf-8")
    run("build", "--recipe", "recipe.toml", "--out", "out")
    asks = {row: row.asks for row in corpus.read(Path("asked.jsonl"))}
    train, validation = ([asks[row] for row in corpus.read(Path(f"out/{name}.json"))] for name in ("train", "val"))
    assert len(validation) > 90 and not set(train) & set(validation)
    assert len(train) > 0.9 * 3 * (len(set(asks.values())) - len(validation))
    found = json.loads(run("check", "out/train.json", "--against", "out/val.json", "--json"))["findings"]
    assert "leak" not in found
