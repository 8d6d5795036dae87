"""Conversations: what is computed again after undo, edit and regenerate, counted; and what gives way when full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stellar_local.chat.conversation import Conversation, Reply
from stellar_local.config import RuntimeOptions, SamplingOptions
from stellar_local.errors import RequestError
from stellar_local.runtime import Runtime, template_of

GREEDY = SamplingOptions(temperature=0, max_tokens=8)


@pytest.fixture(params=["spm", "bpe", "spm-jinja", "bpe-jinja"], scope="module")
def runtime(request: pytest.FixtureRequest, spm_model: Path, bpe_model: Path) -> Iterator[Runtime]:
    """Both kinds of vocabulary, under our template and under the file's Jinja, as a foreign GGUF has it."""
    kind, _, jinja = request.param.partition("-")
    with Runtime(spm_model if kind == "spm" else bpe_model, RuntimeOptions(ctx=512)) as runtime:
        if jinja:
            runtime.model.header.metadata.pop("stellar.template")
            found = template_of(runtime.model)
            assert found is not None
            runtime.template = found
        yield runtime


@pytest.fixture
def talk(runtime: Runtime) -> Conversation:
    talk = Conversation(runtime, GREEDY)
    said(talk, talk.ask("warm up: nothing of this is shared"))
    talk.clear()
    return talk


def said(talk: Conversation, reply: Reply) -> int:
    """Let a reply come and keep it; returns how many tokens of its prompt were computed."""
    for _ in reply:
        pass
    assert talk.keep(reply)
    return reply.computed


def common(first: Sequence[int], second: Sequence[int]) -> int:
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


def test_the_next_turn_computes_nothing_again(talk: Conversation) -> None:
    """All that the model read and said is in memory, but for its last token, which was never decoded."""
    said(talk, talk.ask("What is a star? 什么是恒星？"))
    held = len(talk.tokens([], "What is a star? 什么是恒星？")) + len(talk.turns[0].tokens) - 1
    computed = said(talk, talk.ask("And a planet? 行星呢？"))
    assert computed == len(talk.tokens(talk.turns[:1], "And a planet? 行星呢？")) - held
    assert (
        talk.turns[0].tokens == list(talk.tokens(talk.turns[:1], None))[held + 1 - len(talk.turns[0].tokens) : held + 1]
    )


def test_regenerate_computes_one_token(talk: Conversation) -> None:
    said(talk, talk.ask("One. 一。"))
    said(talk, talk.ask("Two. 二。"))
    before = list(talk.turns)
    assert said(talk, talk.regenerate()) == 1  # the prompt's last token, for its logits
    assert [turn.answer for turn in talk.turns] == [turn.answer for turn in before]


def test_undo_and_another_question_compute_the_question(talk: Conversation) -> None:
    said(talk, talk.ask("One. 一。"))
    said(talk, talk.ask("Two. 二。"))
    old = talk.tokens(talk.turns, None)
    assert [turn.question for turn in talk.undo()] == ["Two. 二。"]
    assert len(talk.turns) == 1
    new = talk.tokens(talk.turns, "Three! 三！")
    assert said(talk, talk.ask("Three! 三！")) == len(new) - common(old, new)


def test_edit_computes_from_the_change_on(talk: Conversation) -> None:
    for question in ("One. 一。", "Two. 二。", "Three. 三。"):
        said(talk, talk.ask(question))
    old = talk.tokens(talk.turns, None)
    new = talk.tokens(talk.turns[:1], "Twenty. 二十。")
    assert said(talk, talk.ask("Twenty. 二十。", at=1)) == len(new) - common(old, new)
    assert [turn.question for turn in talk.turns] == ["One. 一。", "Twenty. 二十。"]


def test_an_edit_that_fails_leaves_the_conversation(talk: Conversation) -> None:
    for question in ("One.", "Two."):
        said(talk, talk.ask(question))
    turns = list(talk.turns)
    with pytest.raises(RequestError, match="the prompt has"):
        talk.ask("word " * 600, at=0)
    assert talk.turns == turns


def test_an_answer_that_goes_on_is_the_answer_it_would_have_been(talk: Conversation) -> None:
    said(talk, talk.ask("Tell me about the sun. 讲讲太阳。"))
    begun = talk.turns[0]
    assert begun.finish == "length"
    assert said(talk, talk.go_on()) == 1
    assert said(talk, talk.go_on()) == 1
    whole = Conversation(talk.runtime, SamplingOptions(temperature=0, max_tokens=24))
    said(whole, whole.ask("Tell me about the sun. 讲讲太阳。"))
    assert talk.turns[0].tokens == whole.turns[0].tokens
    assert talk.turns[0].answer == whole.turns[0].answer
    assert talk.turns[0].answer.startswith(begun.answer)


def test_nothing_to_take_back_or_to_go_on_from(talk: Conversation) -> None:
    for action in (talk.undo, talk.regenerate, talk.go_on):
        with pytest.raises(RequestError):
            action()
    said(talk, talk.ask("One."))
    for wrong in (0, -1, 2):
        with pytest.raises(RequestError):
            talk.undo(wrong)
    assert len(talk.turns) == 1


LONG = "Question {}: what is a parsec, and what is a galaxy? 什么是秒差距？"


def test_drop_leaves_out_whole_oldest_turns_and_then_computes_the_suffix_only(talk: Conversation) -> None:
    drops: list[int] = []
    held: list[int] = []  # what is in memory: all that was read and said, but for the last token
    for number in range(30):
        reply = talk.ask(LONG.format(number))
        assert reply.read == list(talk.tokens(talk.turns[talk.dropped :], LONG.format(number)))
        drops.append(sum(one.turns for one in reply.overflows))
        kept = common(held, reply.read)
        assert kept == len(held) or drops[-1]
        computed = said(talk, reply)
        assert computed == len(reply.read) - kept or not number  # the first finds what the fixture left
        held = [*reply.read, *talk.turns[-1].tokens][:-1]
    assert len(talk.turns) == 30
    assert sum(drops) == talk.dropped > 0
    assert sum(map(bool, drops)) * 2 < sum(drops)  # not at each turn: a quarter is made free at a time


def test_what_was_left_out_comes_back_when_there_is_room(talk: Conversation) -> None:
    for number in range(20):
        said(talk, talk.ask(LONG.format(number)))
    assert talk.dropped
    talk.undo(18)
    assert talk.dropped == 0
    reply = talk.ask("And?")
    assert reply.read == list(talk.tokens(talk.turns, "And?"))
    said(talk, reply)


def test_shift_computes_nothing_again(talk: Conversation) -> None:
    talk.overflow = "shift"
    shifts = read = 0
    for number in range(30):
        reply = talk.ask(LONG.format(number))
        shifts += sum(one.tokens for one in reply.overflows)
        assert len(reply.read) + 8 <= talk.runtime.engine.longest
        assert said(talk, reply) == len(reply.meant) - read or not number
        read = len(reply.meant) + len(talk.turns[-1].tokens) - 1  # all of the conversation but its last token
    assert shifts > 0
    assert talk.dropped == 0


def test_regenerate_after_a_shift_computes_one_token(talk: Conversation) -> None:
    talk.overflow = "shift"
    for number in range(12):
        said(talk, talk.ask(LONG.format(number)))
    assert len(talk._meant) > len(talk._read)
    reply = talk.regenerate()
    assert reply.overflows == []
    assert said(talk, reply) == 1


def test_an_edit_of_an_old_turn_takes_back_what_was_left_out(talk: Conversation) -> None:
    for number in range(14):
        said(talk, talk.ask(LONG.format(number)))
    assert talk.dropped > 3
    reply = talk.ask("What is four?", at=3)
    assert reply.read == list(talk.tokens(talk.turns[:3], "What is four?"))
    said(talk, reply)
    assert (talk.dropped, len(talk.turns)) == (0, 4)


def test_error_refuses_and_changes_nothing(talk: Conversation) -> None:
    talk.overflow = "error"
    with pytest.raises(RequestError) as caught:
        for number in range(60):
            said(talk, talk.ask(LONG.format(number)))
    assert caught.value.kind == "context_length_exceeded"
    count = len(talk.turns)
    assert count > 3
    talk.undo(2)
    said(talk, talk.ask("Short."))
    assert len(talk.turns) == count - 1


@pytest.mark.parametrize("overflow", ["drop", "shift", "error"])
def test_an_answer_that_fills_the_context(overflow: str, talk: Conversation) -> None:
    for number in range(4):
        said(talk, talk.ask(LONG.format(number)))
    talk.overflow, talk.sampling = (
        overflow,
        SamplingOptions(temperature=1.2, seed=3, max_tokens=700, logit_bias=_endless(talk)),
    )
    reply = talk.ask("Go on for ever.")
    pieces = "".join(reply)
    answer = reply.answer
    assert answer.text == pieces
    room = talk.runtime.engine.longest
    if overflow == "error":
        assert answer.finish_reason == "length"
        assert answer.usage.prompt_tokens + answer.usage.completion_tokens == room
        assert reply.overflows == []
    elif overflow == "drop":  # until the question and the answer are all there is
        assert sum(one.turns for one in reply.overflows) == 4
        assert answer.finish_reason == "length"
        assert answer.usage.completion_tokens > room - 2 * len(talk.tokens([], "Go on for ever."))
    else:
        assert answer.usage.completion_tokens == 700
        assert sum(one.tokens for one in reply.overflows) > 200
    assert talk.keep(reply)


def _endless(talk: Conversation) -> tuple[tuple[int, float], ...]:
    model = talk.runtime.model
    return tuple((token, -100.0) for token in range(model.n_vocab) if model.is_eog(token))


def test_settings_that_change_what_is_read(talk: Conversation) -> None:
    said(talk, talk.ask("One."))
    first = talk.tokens(talk.turns, "x")
    talk.system = "Be brief. 请简短。"
    talk.reconsider()
    assert talk.tokens(talk.turns, "x") != first
    said(talk, talk.ask("Two."))
    assert len(talk.turns) == 2
