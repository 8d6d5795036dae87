"""Runtimes: the same ids as the GGUF's own Jinja gives, templates, contexts, adapters loaded on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from test_prompts import CONVERSATIONS

from stellar_local.chat_template import ChatTemplate
from stellar_local.config import RuntimeOptions, SamplingOptions
from stellar_local.errors import ModelError, RequestError, UsageError
from stellar_local.native.model import Model
from stellar_local.prompts import Template, Turn, load_template
from stellar_local.runtime import Runtime, template_of

GREEDY = SamplingOptions(temperature=0, max_tokens=8)


@pytest.fixture(params=["spm", "bpe"], scope="module")
def runtime(request: pytest.FixtureRequest, spm_model: Path, bpe_model: Path) -> Iterator[Runtime]:
    path = spm_model if request.param == "spm" else bpe_model
    with Runtime(path, RuntimeOptions(ctx=512)) as runtime:
        yield runtime


@pytest.mark.parametrize("system", [None, "", "Be brief. 请简短。"], ids=["default", "none", "own"])
@pytest.mark.parametrize("turns", CONVERSATIONS, ids=["1", "2", "3"])
def test_the_gguf_s_jinja_gives_the_same_ids(turns: list[Turn], system: str | None, runtime: Runtime) -> None:
    """As another program does it: render the chat template, tokenize the string with special tokens parsed."""
    model = runtime.model
    messages = [] if system is None else [{"role": "system", "content": system}]
    for turn in turns:
        messages.append({"role": "user", "content": turn.instruction})
        if turn.response is not None:
            messages.append({"role": "assistant", "content": turn.response})
    rendered = (
        ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        .from_string(model.header.metadata["tokenizer.chat_template"])
        .render(messages=messages, add_generation_prompt=True, eos_token=model.token_text(model.eos), bos_token="")
    )
    ids = ([model.bos] if model.add_bos else []) + model.tokenize(rendered, parse_special=True)
    assert list(runtime.tokens(turns, system)) == ids


def test_our_template_comes_back_from_the_file(runtime: Runtime) -> None:
    assert isinstance(runtime.template, Template)
    assert runtime.template == load_template(runtime.template.name)


def test_the_file_s_jinja_through_our_sandbox_gives_the_same_ids(runtime: Runtime) -> None:
    """A program that knows nothing of our metadata key: its sandboxed Jinja must agree with our template."""
    model = runtime.model
    foreign = ChatTemplate(
        model.header.metadata["tokenizer.chat_template"],
        model.special_texts(),
        model.token_text(model.bos),
        model.token_text(model.eos),
    )
    own = runtime.template
    for turns in CONVERSATIONS:
        expected = runtime.tokens(turns)
        runtime.template = foreign
        assert runtime.tokens(turns) == expected
        runtime.template = own


def test_injected_special_tokens_stay_text(runtime: Runtime) -> None:
    model = runtime.model
    eos = model.token_text(model.eos)
    assert runtime.tokens([Turn(eos)]).count(model.eos or -1) == runtime.tokens([Turn("x")]).count(model.eos or -1)


def test_a_model_without_a_template_says_which_is_used(spm_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "bare.gguf"
    data = spm_model.read_bytes().replace(b"tokenizer.chat_template", b"tokenizer.chat_tempXXXX")
    path.write_bytes(data.replace(b"stellar.template", b"stellar.tempXXXX"))
    with Runtime(path, RuntimeOptions()) as runtime:
        assert runtime.template.name == "bayling"
        assert "brings no chat template; using bayling" in runtime.notes[0]
    with Runtime(path, RuntimeOptions(template="alpaca")) as runtime:
        assert (runtime.template.name, runtime.notes) == ("alpaca", [])


def test_context_defaults_to_the_model_s_own(spm_model: Path) -> None:
    with Runtime(spm_model, RuntimeOptions()) as runtime:
        assert runtime.engine.context.n_ctx == 512
    with Runtime(spm_model, RuntimeOptions(ctx=1024)) as runtime:
        assert "exceeds the 512 tokens" in runtime.notes[0]


def test_requests_share_the_context_or_have_one_each(spm_model: Path) -> None:
    with Runtime(spm_model, RuntimeOptions(ctx=1024), parallel=3) as runtime:
        assert (runtime.engine.context.capacity, runtime.engine.longest, runtime.notes) == (1024, 512, [])
    with Runtime(spm_model, RuntimeOptions(), parallel=3, per_request=300) as runtime:
        engine = runtime.engine
        assert (engine.context.unified, engine.context.capacity, engine.longest) == (False, 512, 300)
        streams = [engine.submit(runtime.request([Turn("x" * size)], GREEDY)) for size in (1, 50, 90)]
        assert all(stream.answer.usage.completion_tokens for stream in streams)
        with pytest.raises(RequestError, match="the context holds 300"):
            engine.submit(runtime.request([Turn("x" * 300)], GREEDY))


LOGGED: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 16}, "n_ubatch              = 16\n"),
    ({"flash_attn": "on"}, "flash_attn            = enabled\n"),
    ({"mmap": "off"}, "(load_mode = none)"),
    ({"mmap": "on", "mlock": "on"}, "(load_mode = mmap+mlock)"),
    ({"mmap": "off", "mlock": "on"}, "(load_mode = mlock)"),
]


def opened(path: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[str, str]:
    """llama.cpp's log, and an answer."""
    with Runtime(path, RuntimeOptions(ctx=512, **options)) as runtime:
        answer = runtime.engine.submit(runtime.request([Turn("What is a star? 恒星是什么？")], GREEDY)).answer
        return capsys.readouterr().err, answer.text


def test_hardware_options_reach_llama_cpp(
    spm_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By what its own log says of them."""
    monkeypatch.setattr("stellar_local.native.library._verbose", True)
    usual, expected = opened(spm_model, capsys)
    for options, line in LOGGED:
        log, text = opened(spm_model, capsys, **options)
        assert line in log and line not in usual, options
        # Where the arithmetic is another, a random model's next tokens may change places.
        assert text == expected or {"batch_size", "flash_attn"} & set(options), options


@pytest.mark.real
def test_hardware_options_change_no_answer(real_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = {opened(real_model, capsys, **options)[1] for options, _ in LOGGED}
    assert answers == {opened(real_model, capsys)[1]} != {""}


def test_a_model_s_notes_are_the_runtime_s(spm_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_local.native.model._unlocked", lambda lines, size: f"{size} bytes are not locked")
    with Runtime(spm_model, RuntimeOptions(mlock="on")) as runtime:
        assert runtime.notes == [f"{spm_model.stat().st_size} bytes are not locked"]
    with Runtime(spm_model, RuntimeOptions()) as runtime:
        assert runtime.notes == []


def test_a_batch_has_room_for_each_answer_s_next_token(spm_model: Path) -> None:
    with pytest.raises(UsageError, match="--batch-size 3 has no room for the next token of 4 answers at once"):
        Runtime(spm_model, RuntimeOptions(batch_size=3), parallel=4)
    with Runtime(spm_model, RuntimeOptions(ctx=256, batch_size=4), parallel=4) as runtime:
        requests = [runtime.request([Turn("Hi" * size)], GREEDY) for size in range(1, 6)]
        answers = [stream.answer for stream in [runtime.engine.submit(one) for one in requests]]
        assert runtime.engine.context.n_batch == 4
        assert [answer.usage.prompt_tokens for answer in answers] == [len(one.tokens) for one in requests]
        assert all(answer.tokens for answer in answers)


def test_options_that_exclude_one_another_name_their_flags(spm_model: Path) -> None:
    with pytest.raises(UsageError, match="--kv q8_0 needs flash attention, which --flash-attn off forbids"):
        Runtime(spm_model, RuntimeOptions(kv="q8_0", flash_attn="off"))


def test_a_template_for_another_vocabulary_is_refused(spm_model: Path) -> None:
    with (
        Runtime(spm_model, RuntimeOptions(template="bayling-llama-3")) as runtime,
        pytest.raises(UsageError, match="start_header_id.* lacks"),
    ):
        runtime.request([Turn("hi")], GREEDY)


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not found"):
        Runtime(tmp_path / "no.gguf", RuntimeOptions())


@pytest.mark.real
def test_the_real_model_brings_its_own_template(real_model: Path) -> None:
    with Model(real_model) as model:
        template = template_of(model)
        assert isinstance(template, ChatTemplate)
        assert template.render([Turn("q")], "S") == load_template("chatml").render([Turn("q")], "S")


@pytest.mark.parametrize(("base", "path"), [("spm_base", "spm_model"), ("bpe_base", "bpe_model")])
def test_training_tokenizes_as_the_runtime_does(base: str, path: str, request: pytest.FixtureRequest) -> None:
    """What a model learns to continue is, id by id, what it is asked with; a learned turn is a remembered turn."""
    from train.corpus import Triple
    from train.dataset import encode
    from train.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(request.getfixturevalue(base))
    with Runtime(request.getfixturevalue(path), RuntimeOptions()) as runtime:
        assert isinstance(runtime.template, Template)
        for instruction, input, output in [
            ("Who are you?", "", "I am StellarSpeak (星语者)."),
            ("  你是谁？\n", "", "我是星语者。\n\n再见"),
            ("</s> <|eot_id|>", "{input}", "{}"),
        ]:
            sample, apart = encode(Triple(instruction, input, output), runtime.template, tokenizer)
            asked = runtime.tokens([Turn(instruction, input=input)])
            assert tuple(sample.ids[: sample.first]) == asked
            remembered = runtime.tokens([Turn(instruction, output, input), Turn("next")])
            assert not apart
            assert remembered[: len(sample.ids)] == tuple(sample.ids)
