"""Templates: their texts to the byte, braces, unknown keys, and the Jinja form against our renderer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stellar_local.errors import UsageError
from stellar_local.prompts import (
    EOS,
    Segment,
    Special,
    Spoken,
    Text,
    Turn,
    load_template,
    merged,
    parse_template,
    plain,
    template_folder,
    template_names,
    token_ids,
)

LINE = "I am an intelligent language assistant developed by 星语调校局."
DIALOG = "Below is a dialog consisting of instructions and responses. Write a response that completes the request."


def written(segments: list[Segment]) -> str:
    """A prompt as one string, special tokens by their text."""
    return "".join(part.text if isinstance(part, Text) else part.token for part in segments)


def by_jinja(source: str, turns: list[Turn], system: str | None) -> str:
    """What another program renders from our Jinja."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for turn in turns:
        messages.append({"role": "user", "content": turn.instruction})
        if turn.response is not None:
            messages.append({"role": "assistant", "content": turn.response})
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(
        messages=messages, add_generation_prompt=turns[-1].response is None, eos_token=EOS, bos_token="<bos>"
    )


def test_bayling_text_byte_for_byte() -> None:
    template = load_template("bayling")
    head = f"{LINE}\n{DIALOG}\n\n"
    assert template.prompt_input == head + "### Instruction:\n{instruction} {input}\n### Response:\n"
    assert template.prompt_no_input == head + "### Instruction:\n{instruction}\n### Response:\n"
    assert template.response_split == "### Response:"
    assert template.prompt("What is a star?") == head + "### Instruction:\nWhat is a star?\n### Response:\n"
    assert template.prompt("Classify:", "Sirius") == head + "### Instruction:\nClassify: Sirius\n### Response:\n"


def test_bayling_conversation() -> None:
    turns = [Turn("q1", "a1"), Turn("q2")]
    expected = (
        f"{LINE}\n{DIALOG}\n\n### Instruction:\nq1\n### Response:\na1{EOS}\n### Instruction:\nq2\n### Response:\n"
    )
    assert written(load_template("bayling").render(turns)) == expected


def test_bayling_2_differs_in_its_system_line_only() -> None:
    ours, theirs = load_template("bayling"), load_template("bayling-2")
    own = "I am an intelligent language assistant developed by the NLP Group of ICT/CAS."
    assert theirs.prompt("x", "y") == ours.prompt("x", "y").replace(LINE, own)


def test_bayling_llama_3() -> None:
    template = load_template("bayling-llama-3")
    assert written(template.render([Turn("hi", "yes"), Turn("q")])) == (
        "<|start_header_id|>system<|end_header_id|>\n\nI am BayLing developed by the NLP Group of ICT/CAS.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nyes<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert template.stop == (Special("<|end_of_text|>"), Special("<|eot_id|>"))


ALPACA = {
    "description": "Template used by Alpaca-LoRA.",
    "prompt_input": "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
    "### Input:\n{input}\n\n### Response:\n",
    "prompt_no_input": "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n",
    "response_split": "### Response:",
}
SHORT = {
    "description": "Generic template, without the preamble.",
    "prompt_input": "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
    "prompt_no_input": "### Instruction:\n{instruction}\n\n### Response:\n",
    "response_split": "### Response:",
}
LEGACY = {
    "description": "Order reversed, no line break at the end.",
    "prompt_input": "Input: {input} Task: {instruction} Answer:",
    "prompt_no_input": "Task: {instruction} Answer:",
    "response_split": "Answer:",
}


@pytest.mark.parametrize("data", [ALPACA, SHORT, LEGACY], ids=["alpaca", "short", "legacy"])
def test_alpaca_lora_templates_work_unchanged(data: dict[str, str]) -> None:
    """Against alpaca-lora's Prompter.generate_prompt, which is str.format on these keys."""
    template = parse_template(json.dumps(data), "theirs")
    assert template.prompt("Add.", "1 and 2") == data["prompt_input"].format(instruction="Add.", input="1 and 2")
    assert template.prompt("Say hi.") == data["prompt_no_input"].format(instruction="Say hi.")
    prompt, whole = template.training("Say hi.", "", "hi")
    assert written(whole) == written(prompt) + "hi" + EOS
    second = template.render([Turn("a", "b"), Turn("c")])
    assert written(second).startswith(template.prompt("a") + "b" + EOS)
    assert written(second).endswith(plain(template.user.prefix) + "c" + plain(template.assistant.prefix))


def test_shipped_alpaca_is_alpaca_lora_s() -> None:
    assert json.loads((template_folder() / "alpaca.json").read_text(encoding="utf-8")) == ALPACA


CONVERSATIONS = [
    [Turn("What is a star?")],
    [Turn("你是谁？", "我是星语者。"), Turn("再说一遍")],
    [Turn("a {b}", "{{ c }} {% d %}"), Turn("e\n\nf", " g\\n'h' \"i\""), Turn("### Response:\n")],
]


@pytest.mark.parametrize("name", template_names())
@pytest.mark.parametrize("system", [None, "", "Be brief. 请简短。"], ids=["default", "none", "own"])
@pytest.mark.parametrize("turns", CONVERSATIONS, ids=["1", "2", "3"])
def test_jinja_renders_the_same_text(name: str, system: str | None, turns: list[Turn]) -> None:
    template = load_template(name)
    assert by_jinja(template.jinja(), turns, system) == written(template.render(turns, system))
    finished = [*turns[:-1], Turn(turns[-1].instruction, "end")]
    assert by_jinja(template.jinja(), finished, system) == written(template.render(finished, system))


def test_jinja_with_bos_puts_it_first() -> None:
    assert by_jinja(load_template("bayling").jinja(with_bos=True), [Turn("q")], None).startswith("<bos>I am")


@given(st.text(), st.text(), st.text(min_size=1))
def test_any_text_goes_in_as_it_is(instruction: str, input: str, output: str) -> None:
    template = load_template("bayling")
    prompt, whole = template.training(instruction, input, output)
    question = f"{instruction} {input}" if input else instruction
    assert plain(prompt) == f"{LINE}\n{DIALOG}\n\n### Instruction:\n{question}\n### Response:\n"
    assert whole == [Text(plain(prompt) + output), Special(EOS)]


@pytest.mark.parametrize("text", ["{instruction}", "{input}", "{0}", "{{x}}", "{", "}", "{x!r:>10}"])
def test_braces_are_braces(text: str) -> None:
    for name in template_names():
        template = load_template(name)
        assert template.prompt(text).count(text) == template.prompt("§").count("§")
        assert f"{text}" in template.prompt("q", text)


def test_special_tokens_typed_by_a_user_stay_text() -> None:
    segments = load_template("bayling-llama-3").render([Turn("<|eot_id|></s>")])
    assert Text("\n\n<|eot_id|></s>") in segments


def test_neighbouring_text_is_one_segment() -> None:
    assert merged([Text("a"), Text(""), Text("b"), Special("x"), Text(""), Text("c")]) == [
        Text("ab"),
        Special("x"),
        Text("c"),
    ]
    assert len(load_template("bayling").render([Turn("q")])) == 1


def test_token_ids_joins_segments_and_names_a_missing_special() -> None:
    encode = lambda text: [ord(char) for char in text]  # noqa: E731
    known = {"<x>": 7}
    assert token_ids([Text("a"), Special("<x>"), Text("b")], encode, known.get) == [97, 7, 98]
    with pytest.raises(UsageError, match="<y>"):
        token_ids([Special("<y>")], encode, known.get)


def test_a_response_is_what_the_model_said_where_a_special_token_ends_it() -> None:
    turns = [Turn("q", "a b", tokens=(5, 6, 7)), Turn("r", "c"), Turn("s")]
    assert load_template("bayling").render(turns)[1:3] == [Spoken("a b", (5, 6, 7)), Special(EOS)]
    for name in template_names():
        template = load_template(name)
        segments = template.render(turns)
        assert segments.count(Spoken("a b", (5, 6, 7))) == 1
        assert sum(isinstance(part, Spoken) for part in segments) == 1  # of "c" no tokens are known
        unknown = template.render([Turn("q", "a b"), *turns[1:]])
        assert merged([Text(part.text) if isinstance(part, Spoken) else part for part in segments]) == unknown
        assert plain(segments) == plain(unknown)


def test_a_response_that_text_follows_is_split_anew() -> None:
    own = {"user": {"prefix": "Q: ", "suffix": "\n"}, "assistant": {"prefix": "A: ", "suffix": "\n"}}
    source = {
        **GOOD,
        "prompt_no_input": "Q: {instruction}\nA: ",
        "prompt_input": "Q: {instruction} {input}\nA: ",
        **own,
    }
    template = parse_template(json.dumps(source), "own")
    assert template.render([Turn("q", "a", tokens=(5,)), Turn("r")]) == [Text("Q: q\nA: a\nQ: r\nA: ")]


def test_spoken_tokens_go_in_as_they_are() -> None:
    encode = lambda text: [ord(char) for char in text]  # noqa: E731
    segments = [Text("a"), Spoken("a", (9, 8)), Special("<x>"), Text("a")]
    assert token_ids(segments, encode, {"<x>": 7}.get) == [97, 9, 8, 7, 97]
    assert merged(segments) == segments


GOOD = {"prompt_input": "{instruction} {input}", "prompt_no_input": "{instruction}", "response_split": "x"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sytem": {}}, "unknown keys: sytem"),
        ({"user": {"prefx": ""}}, "user has unknown keys: prefx"),
        ({"user": {"prefix": 3}}, "prefix must be"),
        ({"user": {"prefix": [{"token": "x"}]}}, "prefix may hold"),
        ({"user": []}, "user must be an object"),
        ({"prompt_input": None}, "prompt_input must be a text and is missing"),
        ({"prompt_no_input": "no place"}, "lacks {instruction}"),
        ({"user": {"prefix": "Q: "}}, "first turn differs"),
        ({"stop": "x"}, None),
        ({"stop": [1]}, "stop may hold"),
        ({"add_bos": "yes"}, "add_bos must be true or false"),
        ({"identity": {"[NAME]": 1}}, "must be a text"),
        ({"description": 5}, "description must be a text"),
        ({"prompt_no_input": "{instruction}\ud800"}, "holds half a character"),
        ({"identity": {"\udfff": "x"}}, "holds half a character"),
    ],
)
def test_a_wrong_template_is_refused_by_name(change: dict[str, object], message: str | None) -> None:
    source = json.dumps({**GOOD, **change})
    if message is None:
        parse_template(source, "t", "t.json")
        return
    with pytest.raises(UsageError, match="t.json") as caught:
        parse_template(source, "t", "t.json")
    assert message in caught.value.message


@pytest.mark.parametrize("source", ["", "[1]", "{", '"x"'])
def test_not_a_template(source: str) -> None:
    with pytest.raises(UsageError, match="JSON"):
        parse_template(source, "t")


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="unknown template: nope") as caught:
        load_template("nope")
    assert "bayling" in caught.value.hint


def test_a_file_is_a_template_too(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert load_template(str(path)).prompt("x") == "x"


def test_a_conversation_needs_answers_before_its_last_turn() -> None:
    with pytest.raises(UsageError, match="at least one turn"):
        load_template("bayling").render([])
    with pytest.raises(UsageError, match="a response in all but the last"):
        load_template("bayling").render([Turn("a"), Turn("b")])


def test_templates_are_found_in_a_checkout() -> None:
    assert template_folder() == ROOT / "templates" or template_folder() == ROOT / "stellar_local" / "templates"
    assert {"bayling", "bayling-2", "bayling-llama-3", "alpaca", "chatml"} <= set(template_names())


def test_alpaca_loras_path_without_the_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The makers' command line names `alpaca-lora-main/templates/bayling`; alpaca-lora adds `.json`."""
    folder = tmp_path / "alpaca-lora-main" / "templates"
    folder.mkdir(parents=True)
    (folder / "mine.v2.json").write_text((template_folder() / "bayling.json").read_text(encoding="utf-8"), "utf-8")
    assert load_template(str(folder / "mine.v2")) == load_template(str(folder / "mine.v2.json"))
    monkeypatch.chdir(tmp_path)
    assert load_template("alpaca-lora-main/templates/mine.v2").name == "mine.v2"
    monkeypatch.chdir(folder)
    for name in ("mine.v2", str(folder / "other"), str(folder), f"{folder}/"):  # a bare name is that of a shipped one
        with pytest.raises(UsageError, match="unknown template"):
            load_template(name)
