"""The engine on the real model: llama.cpp's own answers token for token, each request its own, whatever runs beside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stellar_local.config import RuntimeOptions, SamplingOptions
from stellar_local.engine import Engine, Request
from stellar_local.native.context import Context
from stellar_local.native.cores import physical_cores
from stellar_local.prompts import Turn
from stellar_local.runtime import Runtime

pytestmark = pytest.mark.real

QUESTIONS = [
    "What is a black hole?",
    "Who are you?",
    "Write one sentence about Saturn's rings.",
    "List three constellations.",
    "How far away is the Moon?",
    "Translate 'star' into French.",
    "Why is the sky blue?",
    "What does a telescope do?",
    "Explain gravity to a child.",
    "Name a galaxy.",
    "什么是黑洞？",
    "你是谁？",
    "写一句关于土星环的话。",
    "列出三个星座。",
    "月球离地球多远？",
    "把“星星”翻译成英语。",
    "天空为什么是蓝色的？",
    "望远镜有什么用？",
    "向小孩解释引力。",
    "说出一个星系的名字。",
]
CAPITALS = {
    "Japan": "Tokyo",
    "Germany": "Berlin",
    "China": "Beijing",
    "Russia": "Moscow",
    "England": "London",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Austria": "Vienna",
    "Poland": "Warsaw",
    "Sweden": "Stockholm",
    "Norway": "Oslo",
    "Hungary": "Budapest",
    "Cuba": "Havana",
    "Peru": "Lima",
    "Kenya": "Nairobi",
    "Thailand": "Bangkok",
}


@pytest.fixture(scope="module")
def runtime(real_model: Path) -> Iterator[Runtime]:
    with Runtime(real_model, RuntimeOptions(ctx=1024)) as runtime:
        yield runtime


def greedy(runtime: Runtime, question: str, count: int) -> Request:
    return runtime.request([Turn(question)], SamplingOptions(temperature=0, max_tokens=count))


def test_greedy_tokens_are_those_of_llama_cpp_s_own_class(runtime: Runtime, real_model: Path) -> None:
    from llama_cpp import Llama

    cores, flash = physical_cores(), runtime.engine.context.flash  # the same attention, or it rounds otherwise
    peer = Llama(str(real_model), n_ctx=1024, n_threads=cores, n_threads_batch=cores, flash_attn=flash, verbose=False)
    for question in QUESTIONS:
        request = greedy(runtime, question, 20)
        expected: list[int] = []
        peer.reset()
        for token in peer.generate(list(request.tokens), temp=0.0):
            if runtime.model.is_eog(token) or len(expected) == 20:
                break
            expected.append(token)
        runtime.engine.submit(Request((1, 2), SamplingOptions(max_tokens=1))).answer  # noqa: B018 - forget the last one
        assert list(runtime.engine.submit(request).answer.tokens) == expected, question


@pytest.mark.parametrize(("parallel", "unified"), [(1, True), (4, True), (16, True), (16, False)])
def test_each_request_gets_its_own_answer(parallel: int, unified: bool, runtime: Runtime) -> None:
    context = Context(runtime.model, 4096, parallel, unified=unified)
    with Engine(context) as engine:
        streams = {
            city: engine.submit(greedy(runtime, f"What is the capital of {country}?", 12))
            for country, city in CAPITALS.items()
        }
        texts = {city: stream.answer.text for city, stream in streams.items()}
        assert {city: [one for one in texts if one in text] for city, text in texts.items()} == {
            city: [city] for city in texts
        }


def test_a_shared_prefix_changes_no_token_in_deterministic_mode(runtime: Runtime) -> None:
    """Each question alone in a fresh engine, and all in one that keeps the prefix, whatever their order."""
    prefix = "You are an astronomer. " + "Stars are born in clouds of gas. 恒星诞生于气体云。" * 12
    requests = [
        runtime.request([Turn(question)], SamplingOptions(temperature=0, max_tokens=16), system=prefix)
        for question in QUESTIONS[::4]
    ]

    def engine() -> Engine:
        return Engine(Context(runtime.model, 1024), deterministic=True)

    alone = []
    for request in requests:
        with engine() as fresh:
            alone.append(fresh.submit(request).answer)
    with engine() as shared:
        streams = [shared.submit(request) for request in [*requests, *reversed(requests)]]
        answers = [stream.answer for stream in streams]
    expected = [answer.tokens for answer in alone]
    assert [answer.tokens for answer in answers] == [*expected, *reversed(expected)]
    assert [answer.usage.cached_tokens for answer in alone] == [0] * len(requests)
    assert all(answer.usage.cached_tokens >= 128 for answer in answers[1:])


def test_chinese_comes_in_whole_characters_from_many_at_once(runtime: Runtime) -> None:
    with Engine(Context(runtime.model, 2048, 4)) as engine:
        options = SamplingOptions(temperature=1.5, min_p=0, top_p=1, top_k=0, seed=3, max_tokens=40)
        asked = [runtime.request([Turn(question)], options) for question in QUESTIONS[10:14]]
        for stream in [engine.submit(request) for request in asked]:
            pieces = list(stream)
            assert "".join(pieces) == stream.answer.text
            data = b"".join(runtime.model.piece(token) for token in stream.answer.tokens)
            assert stream.answer.text == data.decode("utf-8", "replace")  # no character was cut at a piece's end
