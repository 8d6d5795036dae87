"""The KV cache of a session: what is restored answers as what was computed; all else is a miss and harms nothing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from state_cases import KV_TYPES

from stellar_local.chat import kv_cache
from stellar_local.chat.kv_cache import KVCache
from stellar_local.config import RuntimeOptions, SamplingOptions
from stellar_local.engine import Answer, Request
from stellar_local.errors import StellarError
from stellar_local.native import state
from stellar_local.prompts import Turn
from stellar_local.runtime import Runtime

GREEDY = SamplingOptions(temperature=0, max_tokens=12)
OPTIONS = RuntimeOptions(ctx=512)
ASKED = [Turn("What is a star? 恒星是什么？"), Turn("再说一遍。")]
LIMIT = 1 << 30


def ask(runtime: Runtime, turns: list[Turn], question: Turn) -> tuple[Request, Answer]:
    request = runtime.request([*turns, question], GREEDY)
    return request, runtime.engine.submit(request).answer


def first_turn(runtime: Runtime) -> tuple[tuple[int, ...], list[Turn]]:
    """One turn asked: its tokens with the answer's, and the conversation then."""
    request, answer = ask(runtime, [], ASKED[0])
    return request.tokens + answer.tokens, [replace(ASKED[0], response=answer.text, tokens=answer.tokens)]


@pytest.fixture(scope="module")
def kept(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, tuple[int, ...], tuple[int, ...]]:
    """A cache of one turn as bytes, the tokens it is of, and the tokens of the next answer."""
    path = tmp_path_factory.mktemp("kept") / "kv"
    with Runtime(wide_model, OPTIONS) as runtime:
        tokens, turns = first_turn(runtime)
        assert KVCache(path, runtime, LIMIT).save(tokens)
        _, answer = ask(runtime, turns, ASKED[1])
    return path.read_bytes(), tokens, answer.tokens


@pytest.fixture(scope="module")
def runtime(wide_model: Path) -> Iterator[Runtime]:
    with Runtime(wide_model, OPTIONS) as runtime:
        yield runtime


def assert_sound(runtime: Runtime, tokens: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """The next answer is as if nothing had happened, and computed from the beginning."""
    forget(runtime)
    held = runtime.engine.held(tokens)
    turns = [replace(ASKED[0], response="", tokens=tokens[len(runtime.tokens([ASKED[0]])) :])]
    request, answer = ask(runtime, turns, ASKED[1])
    assert request.tokens[: len(tokens)] == tokens
    assert (answer.tokens, answer.usage.cached_tokens) == (expected, held)


def forget(runtime: Runtime) -> None:
    """Let another text take the memory."""
    assert runtime.engine.submit(Request((479, 478), GREEDY)).answer


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("kv", KV_TYPES)
def test_a_resumed_chat_answers_as_one_that_went_on(
    kv: str, lora: bool, wide_model: Path, wide_lora: Path, tmp_path: Path
) -> None:
    options = replace(OPTIONS, kv=kv, lora=(f"{wide_lora}:0.5",) if lora else ())
    path = tmp_path / "会话.kv"
    with Runtime(wide_model, options) as runtime:
        tokens, turns = first_turn(runtime)
        adapters = runtime.request(turns, GREEDY).adapters
        size = KVCache(path, runtime, LIMIT).save(tokens, adapters)
        assert size == path.stat().st_size
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        _, expected = ask(runtime, turns, ASKED[1])
    with Runtime(wide_model, options) as runtime:
        held = KVCache(path, runtime, LIMIT).restore(tokens, adapters=runtime.request(turns, GREEDY).adapters)
        assert held >= len(tokens) - 1
        request, answer = ask(runtime, turns, ASKED[1])
        assert (answer.tokens, answer.text) == (expected.tokens, expected.text)
        assert answer.usage.cached_tokens == held
        assert runtime.engine.work[0] == len(request.tokens) - held
    assert list(tmp_path.iterdir()) == [path]


def test_memory_of_another_flash_attention_is_a_miss(wide_model: Path, tmp_path: Path) -> None:
    """Its values lie otherwise: the file is not llama.cpp's to refuse, and goes."""
    path = tmp_path / "kv"
    for made, used in (("on", "off"), ("auto", "on")):
        with Runtime(wide_model, replace(OPTIONS, flash_attn=made)) as runtime:
            tokens, _ = first_turn(runtime)
            assert KVCache(path, runtime, LIMIT).save(tokens)
        trailer = path.read_bytes()[-200:]
        with Runtime(wide_model, replace(OPTIONS, flash_attn=made)) as runtime:
            assert KVCache(path, runtime, LIMIT).restore(tokens) >= len(tokens) - 1
        with Runtime(wide_model, replace(OPTIONS, flash_attn=used)) as runtime:
            cache = KVCache(path, runtime, LIMIT)
            assert cache._trailer(()) not in trailer
            assert cache.restore(tokens) == 0
            assert not path.exists()


@pytest.mark.parametrize("kind", ["spm_model", "bpe_model"])
def test_both_kinds_of_vocabulary(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with Runtime(request.getfixturevalue(kind), OPTIONS) as runtime:
        tokens, turns = first_turn(runtime)
        assert KVCache(tmp_path / "kv", runtime, LIMIT).save(tokens)
        _, expected = ask(runtime, turns, ASKED[1])
    with Runtime(request.getfixturevalue(kind), OPTIONS) as runtime:
        assert KVCache(tmp_path / "kv", runtime, LIMIT).restore(tokens) >= len(tokens) - 1
        assert ask(runtime, turns, ASKED[1])[1].tokens == expected.tokens


@pytest.mark.real
def test_the_real_model_answers_as_one_that_went_on(real_model: Path, tmp_path: Path) -> None:
    with Runtime(real_model, RuntimeOptions(ctx=1024)) as runtime:
        tokens, turns = first_turn(runtime)
        assert KVCache(tmp_path / "kv", runtime, LIMIT).save(tokens)
        _, expected = ask(runtime, turns, ASKED[1])
    with Runtime(real_model, RuntimeOptions(ctx=1024)) as runtime:
        assert KVCache(tmp_path / "kv", runtime, LIMIT).restore(tokens) >= len(tokens) - 1
        assert ask(runtime, turns, ASKED[1])[1].text == expected.text


def damaged(data: bytes) -> list[bytes]:
    """The file cut at many places, and with one bit changed in each of its regions and at many places more."""
    draw = random.Random(7)
    cuts = {0, 1, 11, 12, 500, len(data) - 1, len(data) - 16, len(data) - 17, len(data) - 60}
    found = [data[:cut] for cut in sorted(cuts | {draw.randrange(len(data)) for _ in range(20)})]
    regions = [(0, 12), (12, 1500), (1500, len(data) - 110), (len(data) - 110, len(data) - 16)]
    places = [draw.randrange(*region) for region in regions for _ in range(15)]
    for place in [*places, *range(len(data) - 16, len(data))]:
        changed = bytearray(data)
        changed[place] ^= 1 << draw.randrange(8)
        found.append(bytes(changed))
    return [*found, b"x" * 100, data + b"\n", data[1:], bytes(len(data))]


def test_a_damaged_file_is_a_miss_and_removed(
    kept: tuple[bytes, tuple[int, ...], tuple[int, ...]], runtime: Runtime, tmp_path: Path
) -> None:
    data, tokens, expected = kept
    path = tmp_path / "kv"
    cache = KVCache(path, runtime, LIMIT)
    path.write_bytes(data)
    forget(runtime)
    assert cache.restore(tokens) >= len(tokens) - 1
    for number, other in enumerate(damaged(data)):
        path.write_bytes(other)
        forget(runtime)
        assert cache.restore(tokens) == 0
        assert not path.exists()
        if number % 10 == 0:
            assert_sound(runtime, tokens, expected)


Change = Callable[[pytest.MonkeyPatch], None]
BUILDS: list[Change] = [
    lambda patch: patch.setattr(kv_cache, "version", lambda package: "0.3.99"),
    lambda patch: patch.setenv("LLAMA_ATTN_ROT_DISABLE", "1"),
    lambda patch: patch.setattr(kv_cache.platform, "machine", lambda: "riscv64"),
]


@pytest.mark.parametrize("change", BUILDS, ids=["version", "rotation", "machine"])
def test_another_build_is_a_miss(
    change: Change, wide_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, kv="q8_0")
    with Runtime(wide_model, options) as runtime:
        tokens, _ = first_turn(runtime)
        assert KVCache(tmp_path / "kv", runtime, LIMIT).save(tokens)
    change(monkeypatch)
    with Runtime(wide_model, options) as runtime:
        assert KVCache(tmp_path / "kv", runtime, LIMIT).restore(tokens) == 0
        assert not (tmp_path / "kv").exists()


@pytest.mark.parametrize("change", ["kv", "adapter", "scale", "gpu", "model", "context"])
def test_what_another_runtime_computed_is_a_miss(
    change: str, wide_model: Path, wide_lora: Path, spm_model: Path, tmp_path: Path
) -> None:
    options = replace(OPTIONS, lora=(f"{wide_lora}:0.5",))
    path = tmp_path / "kv"
    with Runtime(wide_model, options) as runtime:
        request, answer = ask(runtime, [], ASKED[0])
        tokens = request.tokens + answer.tokens
        assert KVCache(path, runtime, LIMIT).save(tokens, request.adapters)
    other = {
        "kv": replace(options, kv="q8_0"),
        "adapter": OPTIONS,
        "scale": replace(options, lora=(f"{wide_lora}:0.25",)),
        "context": replace(options, ctx=256 if len(tokens) > 256 else len(tokens) - 10),
    }.get(change, options)
    model = wide_model
    if change == "model":  # the same name in another place
        model = tmp_path / wide_model.name
        shutil.copy(wide_model, model)
    with Runtime(model, other) as runtime:
        if change == "gpu":
            runtime.engine.context.offloaded = True
        if change == "context":  # llama.cpp makes contexts of multiples of 256
            runtime.engine.context.capacity = len(tokens) - 10
        adapters = runtime.request([ASKED[0]], GREEDY).adapters
        assert KVCache(path, runtime, LIMIT).restore(tokens, adapters) == 0
        assert not path.exists()
        assert runtime.engine.held(tokens, adapters) == 0


def test_a_model_that_was_moved_is_the_same_and_one_that_was_rewritten_is_not(
    kept: tuple[bytes, tuple[int, ...], tuple[int, ...]], wide_model: Path, tmp_path: Path
) -> None:
    data, tokens, _ = kept
    path, moved = tmp_path / "kv", tmp_path / "别处.gguf"
    shutil.copy2(wide_model, moved)  # as moving does, it keeps the time
    status = moved.stat()

    def restored() -> int:
        path.write_bytes(data)
        with Runtime(moved, OPTIONS) as runtime:
            return KVCache(path, runtime, LIMIT).restore(tokens)

    assert restored() >= len(tokens) - 1
    content = bytearray(moved.read_bytes())
    content[-1000] ^= 1  # of a tensor
    moved.write_bytes(content)
    os.utime(moved, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert restored() == 0
    shutil.copy(wide_model, moved)
    assert restored() == 0  # the same bytes at another time: too like a file that samples cannot tell from it


def test_a_model_that_changes_while_it_runs_is_not_taken_for_the_one_that_was_loaded(
    wide_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.gguf"
    shutil.copy(wide_model, model)
    with Runtime(model, OPTIONS) as runtime:
        tokens, turns = first_turn(runtime)
        (tmp_path / "new").write_bytes(model.read_bytes())
        (tmp_path / "new").replace(model)
        assert KVCache(tmp_path / "kv", runtime, LIMIT).save(tokens) == 0
        assert not (tmp_path / "kv").exists()
        (tmp_path / "kv").write_bytes(b"x" * 1000)
        assert KVCache(tmp_path / "kv", runtime, LIMIT).restore(tokens) == 0
        assert ask(runtime, turns, ASKED[1])[1].tokens


def test_what_is_no_file_is_left_alone(runtime: Runtime, tmp_path: Path) -> None:
    tokens, _ = first_turn(runtime)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "none" / "none")
    for name in ("pipe", "folder"):
        cache = KVCache(tmp_path / name, runtime, LIMIT)
        assert cache.restore(tokens) == 0
        with pytest.raises(StellarError, match="cannot write"):
            cache.save(tokens)
        assert (tmp_path / name).exists()
    for path in (tmp_path / "dangling", tmp_path / "none" / "kv"):
        cache = KVCache(path, runtime, LIMIT)
        assert cache.restore(tokens) == 0
        with pytest.raises(StellarError, match="cannot write"):
            cache.save(tokens)
    (tmp_path / "kv.partial").mkdir()
    with pytest.raises(StellarError, match="cannot write"):
        KVCache(tmp_path / "kv", runtime, LIMIT).save(tokens)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read and write everything")
def test_what_may_not_be_read_is_left_alone(runtime: Runtime, tmp_path: Path) -> None:
    tokens, _ = first_turn(runtime)
    cache = KVCache(tmp_path / "kv", runtime, LIMIT)
    assert cache.save(tokens)
    (tmp_path / "kv").chmod(0)
    assert cache.restore(tokens) == 0
    assert (tmp_path / "kv").exists()
    tmp_path.chmod(0o500)
    with pytest.raises(StellarError, match="permission denied"):
        cache.save(tokens)
    tmp_path.chmod(0o700)


def test_what_is_worth_a_file(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rule in the docstring: a 13B's 3,000 tokens are 2.4 GB in f16, a 7B's 1.5 GB."""
    tokens, _ = first_turn(runtime)
    mib = 1 << 20
    for count, size, speed, limit, expected in [
        (31, 1, None, LIMIT, False),
        (32, 1, None, LIMIT, True),
        (3000, 64 * mib, None, LIMIT, True),
        (3000, 64 * mib, 1e9, LIMIT, True),
        (3000, 64 * mib, None, 64 * mib, False),  # with the trailer it is larger
        (3000, 65 * mib, None, LIMIT, False),
        (3000, 65 * mib, 1000.0, LIMIT, True),  # 3 s against 0.14 s
        (3000, 2_457_600_000, 5000.0, 1 << 40, False),  # 0.6 s against 4.9 s
        (3000, 2_457_600_000, 200.0, 1 << 40, True),  # 15 s against 4.9 s
        (3000, 2_457_600_000, 200.0, LIMIT, False),
        (3000, 1_572_864_000, 476.0, 1 << 40, True),  # 6.30 s against 6.29 s
        (3000, 1_572_864_000, 478.0, 1 << 40, False),
    ]:
        answers: list[bool] = []
        with monkeypatch.context() as patch:
            patch.setattr(state, "size", lambda context, sequence, size=size: size)
            patch.setattr(runtime.engine._kept, "_longest", lambda tokens, adapters, count=count: (0, count))
            save = runtime.engine.save
            patch.setattr(
                runtime.engine,
                "save",
                lambda path, tokens, adapters, worth, save=save, answers=answers: save(
                    path, tokens, adapters, lambda *asked: bool(answers.append(worth(*asked)))
                ),
            )
            assert KVCache(tmp_path / "kv", runtime, limit).save(tokens, (), speed) == 0
        assert answers == [expected], (count, size, speed, limit)
        assert not list(tmp_path.iterdir())


def test_a_text_that_is_not_in_memory_gives_no_file_and_leaves_the_old_one(runtime: Runtime, tmp_path: Path) -> None:
    tokens, _ = first_turn(runtime)
    cache = KVCache(tmp_path / "kv", runtime, LIMIT)
    size = cache.save(tokens)
    assert size
    assert cache.save((479, *tokens)) == 0
    assert KVCache(tmp_path / "kv", runtime, size - 1).save(tokens) == 0
    assert KVCache(tmp_path / "kv", runtime, size).save(tokens) == size
    assert [path.name for path in tmp_path.iterdir()] == ["kv"]
    forget(runtime)
    assert cache.restore((*tokens[:50], 479)) == 50


def test_while_it_answers_nothing_is_saved_or_restored(wide_model: Path, tmp_path: Path) -> None:
    with Runtime(wide_model, OPTIONS) as runtime:
        tokens, _ = first_turn(runtime)
        cache = KVCache(tmp_path / "kv", runtime, LIMIT)
        assert cache.save(tokens)
        endless = SamplingOptions(temperature=2, min_p=0, logit_bias=((runtime.model.eos or 0, -100.0),))
        streams = [runtime.engine.submit(Request((1, 5), endless)) for _ in range(20)]  # so that it stays busy
        next(iter(streams[0]))
        for call in (cache.save, cache.restore):
            with pytest.raises(StellarError, match="the engine is answering"):
                call(tokens)
        for stream in streams:
            stream.cancel()
        assert all(stream.answer for stream in streams)
        assert cache.restore(tokens) >= len(tokens) - 1


def test_ctrl_c_while_saving_leaves_the_old_file(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, _ = first_turn(runtime)
    cache = KVCache(tmp_path / "kv", runtime, LIMIT)
    assert cache.save(tokens)
    whole = (tmp_path / "kv").read_bytes()
    save = state.save

    def slow(*arguments: object) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(state, "save", slow)
    with pytest.raises(KeyboardInterrupt):
        cache.save(tokens)
    assert [path.name for path in tmp_path.iterdir()] == ["kv"]
    assert (tmp_path / "kv").read_bytes() == whole


BEGINNING = """
import os, resource, sys, time
from pathlib import Path
from stellar_local.chat.kv_cache import KVCache
from stellar_local.config import RuntimeOptions, SamplingOptions
from stellar_local.engine import Request
from stellar_local.errors import StellarError
from stellar_local.native import state
from stellar_local.runtime import Runtime
TOKENS = (1, *(3 + at * 37 % 400 for at in range(100)))
runtime = Runtime(Path(sys.argv[1]), RuntimeOptions(ctx=512))
cache = KVCache(Path(sys.argv[2]), runtime, 1 << 30)
GREEDY = SamplingOptions(temperature=0, max_tokens=5)
request = Request(TOKENS, GREEDY)
expected = runtime.engine.submit(request).answer.tokens
held = runtime.engine.held((*TOKENS, *expected))
"""


def process(program: str, *arguments: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BEGINNING + program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_full_disk_leaves_the_old_file(wide_model: Path, tmp_path: Path) -> None:
    """At every size: within the state, within the trailer."""
    running = process(
        """
size, path = cache.save((*TOKENS, *expected)), Path(sys.argv[2])
whole = path.read_bytes()
for limit in (0, 100, size // 2, size - 200, size - 20, size - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        raise SystemExit(f"{limit}: {cache.save((*TOKENS, *expected))}")
    except StellarError as error:
        assert "cannot write" in error.message, error
    assert path.read_bytes() == whole and os.listdir(path.parent) == [path.name]
    assert runtime.engine.submit(request).answer.tokens == expected
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
assert cache.save((*TOKENS, *expected)) == size
assert runtime.engine.submit(Request((5, 6), GREEDY)).answer
assert cache.restore((*TOKENS, *expected)) == held
print("done")
""",
        wide_model,
        tmp_path / "kv",
    )
    out, _ = running.communicate(timeout=60)
    assert (running.returncode, out) == (0, "done\n")


def test_killed_while_saving_it_leaves_the_old_file(wide_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "kv"
    running = process(
        """
cache.save((*TOKENS, *expected))
save = state.save
def slow(*arguments):
    save(*arguments)
    print("written", flush=True)
    time.sleep(60)
state.save = slow
cache.save((*TOKENS, *expected))
""",
        wide_model,
        path,
    )
    assert running.stdout and running.stdout.readline() == "written\n"
    whole = path.read_bytes()
    running.kill()
    running.wait()
    running.stdout.close()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["kv", "kv.partial"]
    again = process(
        """
assert runtime.engine.submit(Request((5, 6), GREEDY)).answer
assert cache.restore((*TOKENS, *expected)) == held
assert runtime.engine.submit(request).answer.tokens == expected
print(cache.save((*TOKENS, *expected)))
""",
        wide_model,
        path,
    )
    out, _ = again.communicate(timeout=60)
    assert (again.returncode, out) == (0, f"{len(whole)}\n")
    assert [found.name for found in tmp_path.iterdir()] == ["kv"]
