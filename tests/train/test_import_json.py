"""Alpaca, ShareGPT and OpenAI rows become triples; what a triple cannot hold is left out and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stellar_local.errors import StellarError, UsageError
from train.corpus import Triple, read
from train.importing.choices import Choices, Names
from train.importing.conversation import stands_alone
from train.importing.job import run
from train.importing.report import NothingImported, Part

QUESTION, ANSWER = "What is a pulsar?", "A rotating neutron star."
LATER = ("How far away is the Crab pulsar?", "About 6,500 light years.")
DEPENDENT = ("And how fast does it spin?", "30 times a second.")


def imported(path: Path, rows: list[Any] | str, **choices: Any) -> tuple[list[Triple], Part]:
    text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    out = path.parent / "out" / "rows.jsonl"
    (part,) = run([path], out, Choices(**choices)).parts
    return read(out), part


def talk(*turns: tuple[str, object], system: str = "") -> dict[str, Any]:
    said = [{"from": who, "value": what} for who, what in turns]
    return {"id": "x", "conversations": [{"from": "system", "value": system}, *said] if system else said}


def chat(*exchanges: tuple[str, str], names: tuple[str, str] = ("human", "gpt"), system: str = "") -> dict[str, Any]:
    return talk(*[(name, text) for pair in exchanges for name, text in zip(names, pair, strict=True)], system=system)


@pytest.mark.parametrize("style", ["list", "lines", "indented", "bom"])
def test_alpaca_as_it_is(style: str, tmp_path: Path) -> None:
    rows = [
        {"instruction": "翻译", "input": "star", "output": "恒星", "history": []},
        {"instruction": QUESTION, "output": f" {ANSWER}\n", "id": 7},
        {"instruction": QUESTION, "input": None, "output": "{braces} and \u2028"},
    ]
    text = {
        "list": json.dumps(rows),
        "lines": "\r\n".join(map(json.dumps, rows)),
        "indented": json.dumps(rows, indent=2, ensure_ascii=False),
        "bom": "\ufeff" + "\n\n".join(map(json.dumps, rows)),
    }[style]
    got, part = imported(tmp_path / "a.json", text)
    assert got == [
        Triple("翻译", "star", "恒星"),
        Triple(QUESTION, "", f" {ANSWER}\n"),
        Triple(QUESTION, "", "{braces} and \u2028"),
    ]
    assert part.kinds == {"Alpaca": 3}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"instruction": "a", "output": ""}', "no output"),
        ('{"instruction": " \\n", "output": "b"}', "no instruction"),
        ('{"instruction": "a", "output": null}', "no output"),
        ('{"instruction": "a", "output": ["b"]}', "the output is no text"),
        ('{"instruction": "a", "input": 3, "output": "b"}', "the input is no text"),
        ('{"instruction": "a", "output": "\\ud83d"}', "half a character (a lone surrogate) in the output"),
        ('{"instruction": "a"}', "no column for the output in: instruction"),
        ("[1]", "no JSON object"),
        ("{broken", "not JSON"),
        ('{"instruction": "a", "output": "b", "history": "c"}', '"history" is no list of questions and answers'),
        ('{"conversations": "c"}', "the conversation is no list"),
        ('{"conversations": [1]}', "a turn is no JSON object"),
        ('{"conversations": []}', "no question with an answer"),
        ('{"conversations": [{"from": "human", "value": "a"}]}', "no question with an answer"),
        ('{"conversations": [{"from": "human", "value": "a"}, {"from": "tool", "value": "b"}]}', "a turn of neither"),
        ('{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": ""}]}', "no output"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "a turn holds something other"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}', "the turns do not"),
    ],
)
def test_a_broken_row_is_named_and_the_others_go_on(row: str, reason: str, tmp_path: Path) -> None:
    good = json.dumps({"instruction": QUESTION, "output": ANSWER})
    got, part = imported(tmp_path / "a.jsonl", f"{good}\n\n{row}\n{good}")
    assert got == [Triple(QUESTION, "", ANSWER)] * 2
    ((line, why, _),) = part.left_out
    assert line == 3
    assert why.startswith(reason)


def test_a_line_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps({"instruction": QUESTION, "output": ANSWER}).encode()
    path.write_bytes(good + b"\n" + '{"instruction": "星", "output": "x"}'.encode("gbk") + b"\n")
    (part,) = run([path], tmp_path / "out.jsonl", Choices()).parts
    assert part.left_out == [(2, "not UTF-8", 1)]


@pytest.mark.parametrize("text", ['[{"a": 1}\n{"b": 2}]', '[{"a": 1},\n', '[{"a": 1}]\n[]', "hello"])
def test_a_broken_list_is_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(StellarError, match="JSON"):
        imported(tmp_path / "a.json", text)
    assert not (tmp_path / "out" / "rows.jsonl").exists()


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    with pytest.raises(StellarError, match="the file is empty: .*a.json"):
        imported(tmp_path / "a.json", "")


def test_the_first_exchange_of_a_conversation(tmp_path: Path) -> None:
    rows = [
        chat((QUESTION, ANSWER), LATER, DEPENDENT),
        chat((QUESTION, ANSWER), names=("user", "assistant"), system="Be brief."),
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
                {"role": "assistant", "content": ANSWER},
            ]
        },
        {"instruction": LATER[0], "output": LATER[1], "history": [[QUESTION, ANSWER]]},
    ]
    got, part = imported(tmp_path / "a.jsonl", rows)
    assert got == [Triple(QUESTION, "", ANSWER)] * 4
    assert part.kinds == {"ShareGPT": 2, "messages": 1, "Alpaca": 1}
    assert part.notes == {"later exchange left out": 3, "system message left out": 1}


def test_all_turns_whose_question_stands_alone(tmp_path: Path) -> None:
    cut = talk(
        ("gpt", "…the end."), ("human", "More of that, please"), ("gpt", "Yes."), ("human", LATER[0]), ("gpt", LATER[1])
    )
    rows = [chat((QUESTION, ANSWER), LATER, DEPENDENT), cut]
    got, part = imported(tmp_path / "a.jsonl", rows, all_turns=True)
    assert got == [Triple(QUESTION, "", ANSWER), Triple(LATER[0], "", LATER[1]), Triple(LATER[0], "", LATER[1])]
    assert part.notes == {"later exchange left out: its question does not stand alone": 2}
    with pytest.raises(NothingImported, match="line 1: no exchange stands alone"):
        imported(tmp_path / "b.jsonl", [cut])  # it begins in the middle


@pytest.mark.parametrize(
    ("question", "alone"),
    [
        ("How far away is the Crab pulsar?", True),
        ("请介绍一下超新星遗迹的分类。", True),
        ("And the Crab pulsar, how far away is that?", False),
        ("Why?", False),
        ("How far away is it from us?", False),
        ("Can you explain the previous answer?", False),
        ("为什么呢？", False),
        ("它离地球有多远？", False),
        ("请继续讲超新星的故事。", False),
        ("上面提到的恒星叫什么名字？", False),
        ("Thanks, tell me about the Milky Way", False),
    ],
)
def test_what_stands_alone(question: str, alone: bool) -> None:
    assert stands_alone(question) is alone


def test_a_system_message_before_the_instruction(tmp_path: Path) -> None:
    rows = [chat((QUESTION, ANSWER), system="Be brief."), {**chat((QUESTION, ANSWER)), "system": "请简短。"}]
    got, part = imported(tmp_path / "a.jsonl", rows, keep_system=True)
    assert [row.instruction for row in got] == [f"Be brief.\n\n{QUESTION}", f"请简短。\n\n{QUESTION}"]
    assert not part.notes


def test_other_keys(tmp_path: Path) -> None:
    rows = [{"query": QUESTION, "response": ANSWER}, {"问题": "什么是黄道？", "回答": "太阳的视路径。"}]
    got, _ = imported(tmp_path / "a.jsonl", rows)
    assert got == [Triple(QUESTION, "", ANSWER), Triple("什么是黄道？", "", "太阳的视路径。")]
    got, _ = imported(tmp_path / "b.jsonl", [{"q": QUESTION, "r": ANSWER}], names=Names("q", output="r"))
    assert got == [Triple(QUESTION, "", ANSWER)]
    with pytest.raises(UsageError, match="--output-column s is none of: q, r"):
        imported(tmp_path / "c.jsonl", [{"q": QUESTION, "r": ANSWER}], names=Names("q", output="s"))


def test_a_named_key_that_a_row_lacks(tmp_path: Path) -> None:
    """It is one row's matter, as a column that is found is; the input may be missing."""
    rows: list[object] = [
        {"q": QUESTION, "r": ANSWER},
        {"q": QUESTION},
        {"q": QUESTION, "r": ANSWER, "c": "context"},
        {"question": QUESTION, "r": ANSWER},
        chat((QUESTION, ANSWER)),
    ]
    got, part = imported(tmp_path / "a.jsonl", rows, names=Names("q", "c", "r"))
    assert got == [Triple(QUESTION, "", ANSWER), Triple(QUESTION, "context", ANSWER), Triple(QUESTION, "", ANSWER)]
    assert part.left_out == [(2, "no output: no key r", 1), (4, "no instruction: no key q", 1)]
    for names, option in ((Names("q", "d", "r"), "--input-column d"), (Names("p", "c", "r"), "--instruction-column p")):
        with pytest.raises(UsageError, match=rf"b\.jsonl: {option} is none of: "):
            imported(tmp_path / "b.jsonl", rows, names=names)


def test_a_format_that_is_given_holds_for_each_row(tmp_path: Path) -> None:
    rows = [{"instruction": QUESTION, "output": ANSWER}, chat((QUESTION, ANSWER))]
    for format, left in (("alpaca", 2), ("sharegpt", 1)):
        got, part = imported(tmp_path / "a.jsonl", rows, format=format)
        assert got == [Triple(QUESTION, "", ANSWER)]
        assert [line for line, _, _ in part.left_out] == [left]
