"""Exports: readable by the programs they are for, judged by those programs' own rules, and read back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from stellar_local.chat.export import KINDS, export, kind_of, read_export
from stellar_local.chat.saved import SavedTurn, Session
from stellar_local.errors import StellarError, UsageError
from stellar_local.texts import Texts

EN, ZH = Texts("en"), Texts("zh")
CODE = "Look:\n\n```python\nprint('星')\n```\n\n~~~\n```\n~~~\nDone."


def talk(*answers: str, **more: Any) -> Session:
    turns = [
        SavedTurn(f"第 {n} 问？", answer, [n], time=f"2026-11-24T08:0{n}:00+00:00") for n, answer in enumerate(answers)
    ]
    return Session("黑洞", vocabulary="5f", turns=turns, **more)


FULL = talk(
    "它是……",
    CODE,
    model="/models/stellarspeak-13b-Q4_K_M.gguf",
    template="bayling",
    system="你是星语者。",
    settings={"temperature": 0.2, "stop": ["\n"]},
    lora=["/a/astro.gguf:0.8"],
    grammar='root ::= "a"',
)
FULL.turns[1].finish = "cancelled"


def without_tokens(session: Session) -> Session:
    record = {**vars(session), "vocabulary": ""}
    record["turns"] = [SavedTurn(**{**vars(turn), "tokens": []}) for turn in session.turns]
    return Session(**record)


def headings(text: str) -> list[tuple[str, str]]:
    """The headings of a Markdown text as CommonMark's reference rules find them, outside of everything else."""
    tokens = MarkdownIt("commonmark").parse(text)
    return [
        (token.tag, inside.content)
        for token, inside in zip(tokens, tokens[1:], strict=False)
        if token.type == "heading_open" and token.level == 0
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.md", "md"), ("a.MD", "md"), ("a.markdown", "md"), ("a.json", "json"), ("a.sharegpt.json", "sharegpt")],
)
def test_the_ending_names_the_kind(name: str, kind: str) -> None:
    assert kind_of(Path(name)) == kind


def test_other_endings_need_the_kind(tmp_path: Path) -> None:
    for name in ("a", "a.txt", "md"):
        with pytest.raises(UsageError, match="does not say which format") as caught:
            export(FULL, tmp_path / name, EN)
        assert ".sharegpt.json" in caught.value.hint
    export(FULL, tmp_path / "a.txt", EN, "sharegpt")
    assert isinstance(json.loads((tmp_path / "a.txt").read_text(encoding="utf-8")), list)


def test_json_comes_back_whole_but_for_the_tokens(tmp_path: Path) -> None:
    export(FULL, tmp_path / "a.json", EN)
    assert read_export(tmp_path / "a.json", EN) == without_tokens(FULL)


def test_json_is_openai_s_format(tmp_path: Path) -> None:
    export(FULL, tmp_path / "a.json", EN)
    data = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert data["messages"] == [
        {"role": "system", "content": "你是星语者。"},
        {"role": "user", "content": "第 0 问？"},
        {"role": "assistant", "content": "它是……"},
        {"role": "user", "content": "第 1 问？"},
        {"role": "assistant", "content": CODE},
    ]
    assert "tokens" not in json.dumps(data)


@pytest.mark.parametrize("system", [None, "", "x"])
def test_no_system_line_and_an_empty_one_differ(tmp_path: Path, system: str | None) -> None:
    for name in ("a.json", "a.sharegpt.json"):
        export(talk("a", system=system), tmp_path / name, EN)
        assert read_export(tmp_path / name, EN).system == system


def fastchat(data: Any) -> list[tuple[str, list[str]]]:
    """How FastChat's trainers take a data file (fastchat/train/train_with_template.py): senders human and gpt by turns,
    a key error for any other; the system line under its own key.
    """
    found = []
    for row in data:
        roles = {"human": 0, "gpt": 1}
        assert [roles[message["from"]] for message in row["conversations"]] == [0, 1] * (len(row["conversations"]) // 2)
        found.append((row.get("system", ""), [message["value"] for message in row["conversations"]]))
    return found


def llama_factory(data: Any) -> list[tuple[str, list[str]]]:
    """How LLaMA-Factory does (data/README.md, SharegptDatasetConverter) with the columns conversations and system: a
    sender out of place or an odd number of messages drops the row.
    """
    found = []
    for row in data:
        messages = row["conversations"]
        good = all(message["from"] == ("human", "gpt")[place % 2] for place, message in enumerate(messages))
        if good and len(messages) % 2 == 0:
            found.append((row["system"], [message["value"] for message in messages]))
    return found


@pytest.mark.parametrize("reader", [fastchat, llama_factory])
def test_sharegpt_is_what_trainers_read(tmp_path: Path, reader: Any) -> None:
    export(FULL, tmp_path / "a.sharegpt.json", EN)
    data = json.loads((tmp_path / "a.sharegpt.json").read_text(encoding="utf-8"))
    assert reader(data) == [("你是星语者。", ["第 0 问？", "它是……", "第 1 问？", CODE])]
    assert data[0]["id"] == "黑洞"


def test_sharegpt_comes_back(tmp_path: Path) -> None:
    export(FULL, tmp_path / "a.sharegpt.json", EN)
    back = read_export(tmp_path / "a.sharegpt.json", EN)
    assert (back.name, back.system) == ("黑洞", "你是星语者。")
    assert [(turn.question, turn.answer, turn.tokens) for turn in back.turns] == [
        (turn.question, turn.answer, []) for turn in FULL.turns
    ]


def test_other_programs_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "从别处来.json"
    said = [("system", "S"), ("human", "Q"), ("gpt", "A\ud800"), ("user", "Q2"), ("assistant", "A2")]
    path.write_text(json.dumps([{"conversations": [{"from": role, "value": text} for role, text in said]}]))
    back = read_export(path, EN)
    assert (back.name, back.system) == ("从别处来", "S")
    assert [(turn.question, turn.answer) for turn in back.turns] == [("Q", "A\ufffd"), ("Q2", "A2")]
    path.write_text(json.dumps({"id": "../up", "conversations": [{"from": "human", "value": "Q"}] * 0}))
    assert read_export(path, EN).name == "从别处来"
    odd = tmp_path / "con.json"
    odd.write_text(json.dumps({"messages": []}))
    assert read_export(odd, EN).name == ""


def test_a_foreign_file_cannot_bring_tokens(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    export(talk("a"), path, EN)
    data = json.loads(path.read_text(encoding="utf-8"))
    data["stellar"]["vocabulary"] = "5f"
    data["stellar"]["turns"][0]["tokens"] = [6, 6, 6]
    path.write_text(json.dumps(data))
    back = read_export(path, EN)
    assert (back.vocabulary, back.turns[0].tokens) == ("", [])


USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "is not JSON"),
        ('{"messages": [', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("3", "holds no conversation"),
        ("[]", "holds no conversation"),
        ('{"turns": []}', "holds no conversation"),
        (json.dumps([{"messages": []}, {"messages": []}]), "holds 2 conversations"),
        (json.dumps({"messages": {}}), 'message 1 should be from "user"'),
        (json.dumps({"messages": [USER, USER]}), 'message 2 should be from "assistant"'),
        (json.dumps({"messages": [ANSWER]}), 'message 1 should be from "user"'),
        (json.dumps({"messages": [USER, ANSWER, {"role": "system", "content": "S"}]}), "message 3 should"),
        (json.dumps({"messages": [{"role": "user", "content": [{"type": "text"}]}]}), 'its text under "content"'),
        (json.dumps({"conversations": [{"from": ["human"], "value": "Q"}]}), 'its text under "value"'),
        (json.dumps({"messages": [USER]}), "the last question has no answer"),
        (json.dumps({"messages": [], "stellar": []}), "stellar is missing or wrong"),
        (json.dumps({"messages": [], "stellar": {"lora": 3}}), "lora is missing or wrong"),
        (json.dumps({"messages": [USER, ANSWER], "stellar": {"turns": [{"finish": 3}]}}), "finish is missing or wrong"),
        (json.dumps({"messages": [], "system": 3}), "system is missing or wrong"),
        (json.dumps({"messages": [], "stellar": {"version": 2}}), "newer version"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, data: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(data)
    with pytest.raises(StellarError, match=message) as caught:
        read_export(path, EN)
    assert str(path) in caught.value.message
    assert caught.value.hint
    with pytest.raises(StellarError, match=r"[\u4e00-\u9fff]"):
        read_export(path, ZH)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StellarError, match="not found"):
        read_export(tmp_path / "no.json", EN)
    (tmp_path / "gbk.json").write_bytes("星".encode("gb18030"))
    with pytest.raises(StellarError, match="not UTF-8"):
        read_export(tmp_path / "gbk.json", EN)
    with pytest.raises(StellarError, match="is a directory"):
        read_export(tmp_path, EN)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_overwritten_unasked(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}.json"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        export(FULL, path, EN, kind)
    assert path.read_text() == "mine"
    export(FULL, path, EN, kind, force=True)
    assert path.read_text(encoding="utf-8") != "mine"
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(StellarError, match="cannot write .*: no such file"):
        export(FULL, tmp_path / "no" / "a.md", EN)
    (tmp_path / "a.md").mkdir()
    with pytest.raises(StellarError, match="is a directory"):
        export(FULL, tmp_path / "a.md", EN, force=True)


def test_markdown_is_a_page_with_roles_as_headings(tmp_path: Path) -> None:
    export(FULL, tmp_path / "a.md", EN)
    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert headings(text) == [
        ("h1", "黑洞"),
        ("h2", "System line"),
        ("h2", "You"),
        ("h2", "Assistant"),
        ("h2", "You"),
        ("h2", "Assistant"),
    ]
    for part in (
        "`stellarspeak-13b-Q4_K_M.gguf`",
        "`astro.gguf:0.8`",
        "temperature 0.2",
        "你是星语者。",
        CODE,
        "*(interrupted)*",
    ):
        assert part in text
    assert "/models" not in text
    fences = [token.content for token in MarkdownIt("commonmark").parse(text) if token.type == "fence"]
    assert fences == ["print('星')\n", "```\n"]
    export(FULL, tmp_path / "b.md", ZH)
    assert "## 助手" in (tmp_path / "b.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "answer",
    [
        "```python\nprint(1)",
        "````\n```\ncut",
        "~~~\ncut",
        "- list\n  ```\n  cut",
        "<!-- cut",
        "<script>\ncut",
        "<![CDATA[ cut",
        "<?php cut",
        "<!DOCTYPE cut",
        "    ```\nindented is no fence",
        "no line\r~~~",
        "| a |\n|---|",
        "[link]: <cut",
    ],
)
def test_an_answer_that_was_cut_takes_nothing_in(tmp_path: Path, answer: str) -> None:
    export(talk(answer, "fine", answer), tmp_path / "a.md", EN)
    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert answer.replace("\r", "") in text
    assert [content for _, content in headings(text)] == ["黑洞", *["You", "Assistant"] * 3]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.sampled_from("`~<>!-?[]:|#* \n\tA/prescit=星\x1b\r"), max_size=40), min_size=1, max_size=3))
def test_no_answer_swallows_the_next_turn(tmp_path_factory: pytest.TempPathFactory, answers: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.md"
    export(talk(*answers), path, EN, force=True)
    text = path.read_text(encoding="utf-8")
    found = [content for tag, content in headings(text) if tag == "h2" and content in ("You", "Assistant")]
    assert found == ["You", "Assistant"] * len(answers)
    assert "\x1b" not in text


def test_exports_drive_no_terminal(tmp_path: Path) -> None:
    session = talk("a\x1b[31m\x9b2J\u202e\ud800", system="\x1b]0;x\a")
    for name in ("a.md", "a.json", "a.sharegpt.json"):
        export(session, tmp_path / name, EN)
        text = (tmp_path / name).read_bytes().decode("utf-8")
        assert not any(char in text for char in "\x1b\x9b\a\u202e")
    assert read_export(tmp_path / "a.json", EN).turns[0].answer == "a\x1b[31m\x9b2J\u202e\ufffd"


def test_backticks_in_settings(tmp_path: Path) -> None:
    export(talk("a", settings={"stop": ["``", "\n"]}), tmp_path / "a.md", EN)
    tokens = MarkdownIt("commonmark").parse((tmp_path / "a.md").read_text(encoding="utf-8"))
    spans = [child.content for token in tokens for child in token.children or [] if child.type == "code_inline"]
    assert spans == ['stop ["``", "\\n"]']
