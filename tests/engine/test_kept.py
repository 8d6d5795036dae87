"""What is done with memory between requests: held and moved tokens are counted, and answers stay right."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engine_cases import GREEDY, PROMPTS, assert_cells_add_up, endless, is_greedy
from state_cases import KV_TYPES

from stellar_local.config import SamplingOptions
from stellar_local.engine import Engine, Request
from stellar_local.engine.kept import Kept
from stellar_local.engine.request import Adapters
from stellar_local.errors import StellarError
from stellar_local.native.adapter import Adapter
from stellar_local.native.context import Chunk, Context, Decoded
from stellar_local.native.model import Model

LONG = (1, *(3 + at * 37 % 400 for at in range(120)))


def greedy_by_hand(context: Context, tokens: list[int], count: int) -> list[int]:
    """Greedy tokens after these, decoded one by one; the end token ends them."""
    out: list[int] = []
    while len(out) < count:
        assert context.decode([Chunk(0, context.length(0), tokens, 1)]) is Decoded.DONE
        token = int(np.argmax(context.logits[0]))
        if context.model.is_eog(token):
            break
        out.append(token)
        tokens = [token]
    return out


def test_what_is_held_is_counted(engine: Engine) -> None:
    assert engine.held(LONG) == 0
    answer = engine.submit(Request(LONG, GREEDY)).answer
    held = len(LONG) + len(answer.tokens) - (answer.finish_reason == "length")
    assert engine.held((*LONG, *answer.tokens, 9)) == held
    assert engine.held(LONG[:50]) == 50
    assert engine.held((*LONG[:50], 479)) == 50
    assert engine.held(()) == 0
    later = engine.submit(Request((*LONG, *answer.tokens, 9), GREEDY)).answer
    assert later.usage.cached_tokens == held


@pytest.mark.parametrize("kv", KV_TYPES)
def test_a_shifted_memory_answers_as_one_shifted_by_hand(kv: str, wide_model: Path) -> None:
    with Model(wide_model) as model:
        with Engine(Context(model, 256, kv_type=kv)) as engine:
            assert engine.submit(Request(LONG, SamplingOptions(temperature=0, max_tokens=1))).answer
            assert engine.shift(LONG, 20, 60)
            assert engine.context.settled  # so that no abort can come between
            left = (*LONG[:20], *LONG[80:])
            assert engine.held(left) == len(left)
            assert engine.held(LONG) == 20
            before, _ = engine.work
            answer = engine.submit(Request((*left, 9, 8), GREEDY)).answer
            assert engine.work[0] - before == 2
            assert answer.usage.cached_tokens == len(left)
            assert_cells_add_up(engine)
        with Context(model, 256, kv_type=kv) as context:
            context.decode([Chunk(0, 0, LONG)])
            context.shift(0, 20, 60)
            assert list(answer.tokens) == greedy_by_hand(context, [9, 8], 12)


def test_a_full_memory_is_shifted_and_filled_again(wide_model: Path) -> None:
    with Model(wide_model) as model, Engine(Context(model, 256)) as engine:
        tokens = (1, *(3 + at * 37 % 400 for at in range(254)))
        for _ in range(5):
            assert engine.submit(Request(tokens, SamplingOptions(temperature=0, max_tokens=1))).answer
            assert engine.held(tokens) == 255
            assert engine.shift(tokens, 10, 100)
            tokens = (*tokens[:10], *tokens[110:])
            assert engine.held(tokens) == len(tokens)
            tokens += tuple(7 + at * 31 % 300 for at in range(100))
            assert_cells_add_up(engine)


def test_separate_memories_are_shifted_and_saved_apart(wide_model: Path, tmp_path: Path) -> None:
    other = (1, *(5 + at * 29 % 400 for at in range(90)))
    with Model(wide_model) as model:
        with Engine(Context(model, 512, sequences=2, unified=False)) as engine:
            streams = [engine.submit(Request(prompt, GREEDY)) for prompt in (LONG, other)]
            first = [stream.answer.tokens for stream in streams]
            assert engine.save(tmp_path / "state", other) >= len(other)
            assert engine.shift(LONG, 20, 60)
            left = (*LONG[:20], *LONG[80:])
            assert engine.held(left) == len(left)
            assert engine.held(other) == len(other)
            assert engine.submit(Request(other, GREEDY)).answer.tokens == first[1]
        with Engine(Context(model, 512, sequences=2, unified=False)) as engine:
            assert engine.submit(Request(LONG, GREEDY)).answer.tokens == first[0]
            assert engine.restore(tmp_path / "state", other) == len(other)
            assert engine.held(LONG) == len(LONG)  # the other sequence was free
            answer = engine.submit(Request(other, GREEDY)).answer
            assert (answer.tokens, answer.usage.cached_tokens) == (first[1], len(other) - 1)


def test_what_is_not_there_is_not_shifted(engine: Engine) -> None:
    assert not engine.shift(LONG, 1, 5)
    assert engine.submit(Request(LONG, GREEDY)).answer
    wrong = (*LONG[:50], 479, *LONG[51:])
    for tokens, start, count in ((wrong, 40, 20), (LONG, -1, 5), (LONG, 5, -1), (LONG, 5, 0), (LONG, 100, 500)):
        assert not engine.shift(tokens, start, count)
    assert engine.held(LONG) == len(LONG)
    assert engine.shift(wrong, 30, 20)  # the later part need not be the same: it is moved
    assert engine.held((*LONG[:30], *LONG[50:])) == len(LONG) - 20


def test_others_that_share_its_cells_keep_what_is_not_moved(model: Model) -> None:
    one, two = (*LONG, 9, 8), (*LONG, 7, 6)
    with Engine(Context(model, 512, sequences=3)) as engine:
        streams = [engine.submit(Request(prompt, GREEDY)) for prompt in (one, two)]
        first, second = (stream.answer for stream in streams)
        assert second.usage.cached_tokens == len(LONG)
        assert engine.shift(one, 30, 50)
        assert_cells_add_up(engine)
        assert engine.held(two) == 30
        assert engine.held((*one[:30], *one[80:])) == len(one) - 50
        again = engine.submit(Request(two, GREEDY)).answer
        assert again.usage.cached_tokens == 30
        assert is_greedy(model, two, again.tokens)
        assert is_greedy(model, one, first.tokens)


def test_memory_that_cannot_be_moved_is_forgotten(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.submit(Request(LONG, GREEDY)).answer.tokens
    with monkeypatch.context() as patch:
        patch.setattr(engine.context._api, "llama_decode", lambda handle, batch: -3)
        with pytest.raises(StellarError, match="status -3"):
            engine.shift(LONG, 20, 60)
    assert engine.held(LONG) == 0
    assert engine.shift(LONG, 20, 60) is False
    assert engine.submit(Request(LONG, GREEDY)).answer.tokens == expected
    assert_cells_add_up(engine)


@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.parametrize("kv", KV_TYPES)
def test_a_restored_memory_answers_as_before(
    kv: str, scale: float, wide_model: Path, wide_lora: Path, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    with Model(wide_model) as model:
        adapters: Adapters = ((Adapter(model, wide_lora), scale),) if scale else ()
        with Engine(Context(model, 256, kv_type=kv)) as engine:
            first = engine.submit(Request(LONG, GREEDY, adapters=adapters)).answer
            tokens = (*LONG, *first.tokens)
            held = engine.save(path, tokens, adapters)
            assert held == len(tokens) - (first.finish_reason == "length") == engine.held(tokens, adapters)
            second = engine.submit(Request((*tokens, 9, 8), GREEDY, adapters=adapters)).answer
            assert engine.submit(Request((*tokens, 9, 8), GREEDY)).answer.tokens == second.tokens or scale
        with Engine(Context(model, 256, kv_type=kv)) as engine:
            assert engine.held(tokens, adapters) == 0
            assert engine.restore(path, (*tokens, 9, 8), adapters) == held
            assert engine.held(tokens, adapters) == held
            assert engine.held(tokens, ((Adapter(model, wide_lora), 0.25),)) == 0
            again = engine.submit(Request((*tokens, 9, 8), GREEDY, adapters=adapters)).answer
            assert again.tokens == second.tokens
            assert again.usage.cached_tokens == held
            assert engine.work[0] == len(tokens) + 2 - held
            assert_cells_add_up(engine)


@pytest.mark.parametrize("kind", ["spm_model", "bpe_model"])
def test_only_what_is_asked_for_is_restored(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "state"
    with Model(request.getfixturevalue(kind)) as model:
        with Engine(Context(model, 256)) as engine:
            assert engine.save(path, LONG) == 0
            assert not path.exists()
            assert engine.submit(Request(LONG, GREEDY)).answer
            later = (*LONG[:70], 9, 8)
            expected = engine.submit(Request(later, GREEDY)).answer.tokens
            assert engine.submit(Request(LONG, SamplingOptions(temperature=0, max_tokens=1))).answer
            assert engine.save(path, (*LONG, 5)) == len(LONG)
        with Engine(Context(model, 256)) as engine:
            assert engine.restore(path, (479, 478)) == 0
            assert engine.restore(path, later) == 70
            assert engine.held(LONG) == 70
            assert_cells_add_up(engine)
            assert engine.submit(Request(later, GREEDY)).answer.tokens == expected
            before = engine.held(later)
            assert engine.restore(path, later) == before == 72  # nothing to gain


def test_saving_asks_whether_it_is_worth_it(engine: Engine, tmp_path: Path) -> None:
    path, asked = tmp_path / "state", list[tuple[int, int]]()

    def worth(tokens: int, size: int) -> bool:
        asked.append((tokens, size))
        return len(asked) > 1

    assert engine.submit(Request(LONG, SamplingOptions(temperature=0, max_tokens=1))).answer
    assert engine.save(path, LONG[:40], (), worth) == 0
    assert not path.exists()
    assert engine.save(path, LONG[:40], (), worth) == 40  # and what follows there is in no file
    assert engine.held(LONG) == 40
    assert asked == [(40, path.stat().st_size)] * 2


def test_what_others_left_makes_room_for_what_is_restored(model: Model, tmp_path: Path) -> None:
    path, size = tmp_path / "state", 200
    tokens = (1, *(3 + at * 37 % 400 for at in range(size - 1)))
    with Engine(Context(model, 256, sequences=3)) as engine:
        assert engine.submit(Request(tokens, SamplingOptions(temperature=0, max_tokens=1))).answer
        assert engine.save(path, tokens) == size
    with Engine(Context(model, 256, sequences=3)) as engine:
        for number in range(3):
            assert engine.submit(Request((1, 400 + number, *range(3, 63)), GREEDY)).answer
        assert engine.restore(path, tokens) == size
        assert engine.held(tokens) == size
        assert_cells_add_up(engine)
        prompt = (*tokens, 9)
        answer = engine.submit(Request(prompt, GREEDY)).answer
        assert answer.usage.cached_tokens == size
        assert is_greedy(model, prompt, answer.tokens)


def test_what_cannot_be_restored_or_saved_harms_nothing(model: Model, wide_model: Path, tmp_path: Path) -> None:
    with Engine(Context(model, 256)) as engine:
        prompt = (*LONG, 9)
        expected = engine.submit(Request(prompt, GREEDY)).answer.tokens
        assert engine.save(tmp_path / "state", prompt) == engine.held((*prompt, *expected))
        whole = (tmp_path / "state").read_bytes()
        for data in (b"", whole[:-1], whole[:500], b"x" * 5000):
            (tmp_path / "bad").write_bytes(data)
            with pytest.raises(StellarError, match="not a state"):
                engine.restore(tmp_path / "bad", prompt)
        with pytest.raises(StellarError, match="not a file"):
            engine.restore(tmp_path, prompt)
        with pytest.raises(StellarError, match="it is no file"):
            engine.save(tmp_path, prompt)
        assert engine.held((*prompt, *expected)) >= len(prompt)
        assert engine.submit(Request(prompt, GREEDY)).answer.tokens == expected
        # One of another model's shape gets past our check, and llama.cpp refuses it: what was there is gone.
        with Model(wide_model) as other, Engine(Context(other, 256)) as wide:
            assert wide.submit(Request(prompt, GREEDY)).answer
            assert wide.save(tmp_path / "bad", prompt)
        assert engine.submit(Request((1, 5, 6), GREEDY)).answer
        with pytest.raises(StellarError, match="mismatched key row size"):
            engine.restore(tmp_path / "bad", prompt)
        assert_cells_add_up(engine)
        assert engine.submit(Request(prompt, GREEDY)).answer.tokens == expected


def test_only_while_nothing_runs(model: Model) -> None:
    with Engine(Context(model, 1 << 14)) as engine:
        stream = engine.submit(Request(LONG, endless(model)))
        next(iter(stream))
        with pytest.raises(StellarError, match="the engine is answering"):
            engine.held(LONG)
        stream.cancel()
        assert stream.answer
        assert engine.held(LONG) == len(LONG)


def test_the_engine_s_own_thread_may_not_wait_for_itself(engine: Engine) -> None:
    heard: list[str] = []

    def ask(stream: object) -> None:
        try:
            engine.held(LONG)
        except StellarError as error:
            heard.append(error.message)

    assert engine.submit(Request(PROMPTS[0], GREEDY), ask).answer
    assert engine.held(LONG) == 1
    assert heard == ["the engine's own thread cannot wait for itself"]


def test_a_closed_engine_says_so(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Context(model, 256))
    going = threading.Event()
    messages: list[str] = []

    def slow(kept: Kept, tokens: object, adapters: object) -> int:
        going.set()
        time.sleep(0.2)
        return 5

    def ask() -> None:
        try:
            messages.append(str(engine.held(LONG)))
        except StellarError as error:
            messages.append(error.message)

    monkeypatch.setattr(Kept, "held", slow)
    threads = [threading.Thread(target=ask) for _ in range(2)]
    threads[0].start()
    assert going.wait(10)
    threads[1].start()
    time.sleep(0.05)
    engine.close()
    for thread in threads:
        thread.join(10)
    assert sorted(messages) == ["5", "the engine was closed"]
    with pytest.raises(StellarError, match="the engine is closed"):
        engine.held(LONG)


def test_what_goes_wrong_is_told_to_who_asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> int:
        raise ValueError("odd")

    with monkeypatch.context() as patch:
        patch.setattr(Kept, "held", broken)
        with pytest.raises(StellarError, match="internal error: ValueError: odd"):
            engine.held(LONG)
    assert engine.held(LONG) == 0


@pytest.mark.parametrize("busy", [True, False], ids=["waiting", "under-way"])
def test_ctrl_c_leaves_nothing_half_done(busy: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has begun is waited for; what has not, never begins."""
    began, ended = threading.Event(), threading.Event()
    shifted: list[bool] = []
    held = Kept.held

    def slow(kept: Kept, *arguments: object) -> int:
        began.set()
        time.sleep(0.4)
        ended.set()
        return 0

    def interrupt(when: Callable[[], object]) -> None:
        when()
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Kept, "held", slow)
    if busy:
        other = threading.Thread(target=lambda: engine.held(LONG))
        other.start()
        assert began.wait(10)
        monkeypatch.setattr(Kept, "shift", lambda *arguments: shifted.append(True))
        interrupter = threading.Thread(target=lambda: interrupt(lambda: None))
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            engine.shift(LONG, 1, 1)
        assert not ended.is_set()
        other.join()
    else:
        interrupter = threading.Thread(target=lambda: interrupt(began.wait))
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            engine.held(LONG)
        assert ended.is_set()
    interrupter.join()
    monkeypatch.setattr(Kept, "held", held)
    assert engine.held(LONG) == 0
    assert not shifted
