"""`stellar data check` as a user runs it: table, JSON, exit codes, samples, errors, and what it does not import."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT, SHARED, Stellar
from terminals import Pty

from stellar_local.console import cells
from train import corpus

GOOD = '{"instruction": "What is a parsec?", "input": "", "output": "A parsec is about 3.26 light years."}\n'
BAD = (
    GOOD
    + "{broken\n"
    + '{"instruction": "你是ChatGPT吗？", "output": "我是ChatGPT，由OpenAI开发。"}\n'
    + '{"instruction": "太阳是什么？", "output": ""}\n'
    + '{"instruction": "Who are you?", "output": "I am [NAME].</s>"}\n'
    + GOOD
)


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return name


def test_a_clean_file(stellar: Stellar, tmp_path: Path) -> None:
    done = stellar("data", "check", write(tmp_path, "good.jsonl", GOOD), "--strict")
    assert done.returncode == 0, done.stderr
    assert "1 row in 1 file" in done.stdout and "nothing to mend" in done.stdout
    assert "give --base" in done.stdout  # characters, and why


def test_the_report_names_places(stellar: Stellar, spm_base: Path, tmp_path: Path) -> None:
    twice = '{"instruction": "什么是光年？", "output": "光在一年里走过的距离。"}\n' * 2
    write(tmp_path, "坏数据.jsonl", BAD + twice)
    evaluation = write(tmp_path, "eval.txt", "what is a PARSEC\n")
    done = stellar("data", "check", "坏数据.jsonl", "--base", spm_base, "--against", evaluation, "--cutoff-len", "300")
    assert done.returncode == 1, done.stderr
    for part in (
        "坏数据.jsonl:2  expecting property name",
        '坏数据.jsonl:4  "output" is empty',
        "坏数据.jsonl:8  as line 7",
        "坏数据.jsonl:1  eval.txt, line 1: the same question",
        "坏数据.jsonl:6  eval.txt, line 1: the same question",  # a leak, whatever it repeats
        "坏数据.jsonl:5  [NAME]",
        "坏数据.jsonl:5  </s>",
        "坏数据.jsonl:3  ChatGPT",
        "2 broken, 3 warnings, 3 notes",
    ):
        assert part in done.stdout, part
    wide = [line for line in done.stdout.splitlines() if cells(line) > 80 and str(spm_base) not in line]
    assert not wide
    assert "check 坏数据.jsonl" in done.stderr


def test_json_has_everything(stellar: Stellar, spm_base: Path, tmp_path: Path) -> None:
    write(tmp_path, "bad.jsonl", BAD + "{x\n" * 15)
    done = stellar("data", "check", "bad.jsonl", "--base", spm_base, "--json", "--show", 2, "--histogram", "h.png")
    assert done.returncode == 1, done.stderr
    data = json.loads(done.stdout)
    assert (data["rows"], data["broken"], data["warning"], data["note"]) == (4, 17, 1, 3)
    assert data["sources"][0]["broken"] == 17
    languages = data["sources"][0]["languages"]
    assert {name: facts["rows"] for name, facts in languages.items()} == {"mixed": 1, "en": 3}
    assert languages["en"]["end_learned"] == languages["en"]["rows"] == 3
    places = data["findings"]["not JSON"]["places"]
    assert [place["line"] for place in places] == [2, *range(7, 22)]
    assert data["findings"]["not JSON"]["hint"]
    assert len(data["samples"]) == 2 and all(sample["learned"].endswith("</s>") for sample in data["samples"])
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("strict", "code"), [((), 0), (("--strict",), 1)])
def test_warnings_fail_with_strict_only(strict: tuple[str, ...], code: int, stellar: Stellar, tmp_path: Path) -> None:
    done = stellar("data", "check", write(tmp_path, "twice.jsonl", GOOD * 2), *strict)
    assert done.returncode == code
    assert "1 warning" in done.stdout


def test_notes_never_fail(stellar: Stellar, tmp_path: Path) -> None:
    text = '{"instruction": "a", "output": "b</s>"}'
    done = stellar("data", "check", write(tmp_path, "noted.jsonl", text), "--strict")
    assert done.returncode == 0 and "1 note" in done.stdout


def test_other_files_are_read_when_one_is_empty(stellar: Stellar, tmp_path: Path) -> None:
    write(tmp_path, "empty.jsonl", "")
    write(tmp_path, "good.jsonl", GOOD)
    done = stellar("data", "check", "empty.jsonl", "good.jsonl")
    assert done.returncode == 1
    assert "the file is empty" in done.stdout and "1 row in 2 files" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "training file not found: none.jsonl"),
        (["good.jsonl", "./good.jsonl"], "is given twice"),
        (["good.jsonl", "--against", "good.jsonl"], "given as a training file and with --against"),
        (["good.jsonl", "--against", "none.csv"], "evaluation set not found"),
        (["good.jsonl", "--histogram", "good.jsonl"], "is one of the files to read"),
        (["good.jsonl", "--histogram", "."], "cannot write .: is a directory"),  # before the work, not after it
        (["good.jsonl", "--template", "none"], "unknown template: none"),
        (["good.jsonl", "--base", "none"], "base model not found: none"),
        (["good.jsonl", "--cutoff-len", "1"], "cutoff-len"),
        ([], "Missing argument"),
        (["--show", "x"], "stellar data check --help shows what is possible"),
    ],
)
def test_errors(arguments: list[str], message: str, stellar: Stellar, tmp_path: Path) -> None:
    write(tmp_path, "good.jsonl", GOOD)
    done = stellar("data", "check", *arguments)
    assert done.returncode != 0 and not done.stdout
    assert message in done.stderr and "hint:" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "good.jsonl").read_text(encoding="utf-8") == GOOD


def test_samples_in_a_pipe_and_on_a_terminal(stellar: Stellar, tmp_path: Path) -> None:
    write(tmp_path, "good.jsonl", GOOD.replace("light", "li\\u001b[2Jght"))
    done = stellar("data", "check", "good.jsonl", "--show", 1)
    assert "### Response:\n⟦A parsec is about 3.26 li␛[2Jght years.<eos>⟧\n" in done.stdout
    terminal = Pty([*stellar.argv, "data", "check", "good.jsonl", "--show", "1"], stellar.env, tmp_path)
    while terminal.read(10):
        pass
    output = terminal.output.decode()
    assert "\x1b[1mA parsec is about 3.26 li␛[2Jght years.<eos>\x1b[0m" in output
    assert "\x1b[2mI am an intelligent" in output and "⟦" not in output


def test_it_is_light(stellar: Stellar, spm_base: Path, tmp_path: Path) -> None:
    """Neither torch nor Transformers is loaded, not even for tokens; matplotlib only for a picture."""
    write(tmp_path, "good.jsonl", GOOD)
    for arguments, heavy in (
        (["--help"], {"numpy", "sentencepiece"}),
        (["good.jsonl", "--base", str(spm_base)], set()),
    ):
        loaded = stellar.loading("data", "check", *arguments)
        assert "train" in loaded
        assert not loaded & {"torch", "transformers", "peft", "matplotlib", "openpyxl", *heavy}


def test_the_shipped_corpus_is_sound(stellar: Stellar) -> None:
    done = stellar("data", "check", *sorted(corpus.data_folder().glob("*.jsonl")), "--json")
    data = json.loads(done.stdout)
    assert done.returncode == 0 and data["broken"] == data["note"] == 0
    assert data["rows"] == sum(len(corpus.shipped(category)) for category in corpus.CATEGORIES)
    assert ROOT.joinpath("train", "data").samefile(Path(data["sources"][0]["file"]).parent)


@pytest.mark.skipif(not (SHARED / "data" / "astro-qa-sample").is_dir(), reason="Astro-QA's sample is not at hand")
def test_questions_of_astro_qa_are_leaks(stellar: Stellar, tmp_path: Path) -> None:
    """Every long question of a sheet, put into an instruction, is found."""
    import openpyxl

    folder = SHARED / "data" / "astro-qa-sample"
    book = openpyxl.load_workbook(folder / "EN" / "single-select multi choice(4)_EN.xlsx", read_only=True)
    rows = list(book.worksheets[0].iter_rows(values_only=True))
    column = next(n for n, title in enumerate(rows[0]) if str(title).strip().lower() == "question")
    questions = [str(row[column]) for row in rows[1:] if row[column] and len(str(row[column]).split()) > 15]
    assert len(questions) > 20
    lines = [json.dumps({"instruction": "Choose one.\n" + question, "output": "A"}) for question in questions]
    write(tmp_path, "leaky.jsonl", "\n".join(lines))
    done = stellar("data", "check", "leaky.jsonl", "--against", folder, "--json")
    found = json.loads(done.stdout)["findings"]["leak"]["places"]
    assert [place["line"] for place in found] == list(range(1, len(questions) + 1))
