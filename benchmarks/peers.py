"""What batch.py measures our engine against: llama.cpp through bare ctypes, `Llama`, and llama.cpp's own programs.

Knows how each is driven and timed; knows nothing of our engine. Prompts are token ids everywhere, decoding is greedy,
and no end token stops anybody: each gets told how many tokens to generate.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CELL_PADDING = 256  # llama.cpp rounds a context, or each sequence's share of it, up to this many cells
WARM_UP = 4  # tokens, before the clock starts
_LIBRARIES = "LD_LIBRARY_PATH"
SERVER_SECONDS = 600  # for one answer of llama-server, or its start

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Machine:
    """What every contestant gets alike."""

    model: Path
    threads: int
    gpu_layers: int
    batch: int  # tokens in one decode call

    @property
    def offloads(self) -> bool:
        """Whether a GPU computes; a processor answers one prompt at a time faster without flash attention."""
        from llama_cpp import llama_supports_gpu_offload

        return self.gpu_layers != 0 and bool(llama_supports_gpu_offload())


@dataclass(frozen=True)
class Run:
    """Tokens per sequence, and seconds: the whole, and the part in which every sequence generates, from the last one's
    first token to the first one's end, with the number of tokens that came in it.
    """

    tokens: list[list[int]]
    whole: float
    generation: float
    generated: int

    @property
    def count(self) -> int:
        return sum(map(len, self.tokens))

    @property
    def speed(self) -> float:
        """All tokens over all the time."""
        return self.count / self.whole

    @property
    def generation_speed(self) -> float:
        """llama-batched-bench's S_TG."""
        return self.generated / self.generation if self.generation > 0 else 0.0


class Raw:
    """A context on a loaded model, driven by bare ctypes: no checks, no text, NumPy's argmax over all rows at once.

    `model` is llama.cpp's own handle. Each `run` starts from an empty memory.
    """

    def __init__(self, api: Any, model: Any, machine: Machine, n_ctx: int, sequences: int, unified: bool = True):
        self._api = api
        params = api.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx, sequences, unified
        params.n_batch = min(machine.batch, n_ctx)
        params.n_ubatch = min(params.n_ubatch, params.n_batch)
        params.n_threads = params.n_threads_batch = machine.threads
        if sequences == 1 and not machine.offloads:
            params.flash_attn_type = 0  # as ours, which is faster
        params.no_perf = True
        self._handle = api.llama_init_from_model(model, params)
        if not self._handle:
            raise SystemExit(f"llama.cpp cannot make a context of {n_ctx} cells and {sequences} sequences")
        self._n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        self._room = room = api.llama_n_batch(self._handle)
        self._batch = batch = api.llama_batch_init(room, 0, 1)
        self._token = np.ctypeslib.as_array(batch.token, (room,))
        self._position = np.ctypeslib.as_array(batch.pos, (room,))
        self._output = np.ctypeslib.as_array(batch.logits, (room,))
        np.ctypeslib.as_array(batch.n_seq_id, (room,))[:] = 1

    def run(self, prompts: Prompts, count: int) -> Run:
        """Read the prompts, one sequence each, then generate `count` tokens of each in step."""
        api, handle, batch = self._api, self._handle, self._batch
        api.llama_memory_clear(api.llama_get_memory(handle), False)
        n = len(prompts)
        started = time.perf_counter()
        out = np.empty((count, n), np.int64)
        out[0] = self._read(prompts)
        first = time.perf_counter()
        for row in range(n):
            batch.seq_id[row][0] = row
        batch.n_tokens = n
        self._output[:n] = 1
        self._position[:n] = [len(prompt) for prompt in prompts]
        for step in range(1, count):
            self._token[:n] = out[step - 1]
            self._decode()
            out[step] = np.ctypeslib.as_array(api.llama_get_logits(handle), (n, self._n_vocab)).argmax(axis=1)
            self._position[:n] += 1
        ended = time.perf_counter()
        return Run(out.T.tolist(), ended - started, ended - first, n * (count - 1))

    def _read(self, prompts: Prompts) -> list[int]:
        """Decode the prompts in full batches, which may cut one in two; the first token of each."""
        rows = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        firsts = []
        for start in range(0, len(rows), self._room):
            part = rows[start : start + self._room]
            self._batch.n_tokens = len(part)
            for row, (token, position, sequence, last) in enumerate(part):
                self._token[row], self._position[row], self._output[row] = token, position, last
                self._batch.seq_id[row][0] = sequence
            self._decode()
            for row, (*_, last) in enumerate(part):
                if last:
                    logits = self._api.llama_get_logits_ith(self._handle, row)
                    firsts.append(int(np.ctypeslib.as_array(logits, (self._n_vocab,)).argmax()))
        self._api.llama_synchronize(self._handle)
        return firsts

    def _decode(self) -> None:
        if status := self._api.llama_decode(self._handle, self._batch):
            raise SystemExit(f"llama_decode failed with {status}")

    def close(self) -> None:
        self._api.llama_batch_free(self._batch)
        self._api.llama_free(self._handle)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LlamaLoop:
    """llama-cpp-python's `Llama`, answering one prompt after another; it keeps the last prompt's prefix.

    Threads are as ours, since its own default is slower; and flash attention on a GPU alone, where it is faster.
    """

    def __init__(self, machine: Machine, n_ctx: int) -> None:
        from llama_cpp import Llama

        self._llama = Llama(
            str(machine.model),
            n_ctx=n_ctx,
            n_threads=machine.threads,
            n_threads_batch=machine.threads,
            n_gpu_layers=machine.gpu_layers,
            flash_attn=machine.offloads,
            verbose=False,
        )

    def forget(self) -> None:
        """Start the next prompt from an empty memory."""
        self._llama.reset()

    def run(self, prompts: Prompts, counts: Sequence[int]) -> Run:
        """Answer the prompts, `counts` tokens each, turning each token into text as any use of it does."""
        started = time.perf_counter()
        answers: list[list[int]] = []
        generation = 0.0
        for prompt, count in zip(prompts, counts, strict=True):
            answer: list[int] = []
            first = 0.0
            for token in self._llama.generate(list(prompt), temp=0.0):
                first = first or time.perf_counter()
                answer.append(token)
                self._llama.detokenize([token])
                if len(answer) == count:
                    break
            generation += time.perf_counter() - first
            answers.append(answer)
        return Run(answers, time.perf_counter() - started, generation, sum(len(one) - 1 for one in answers))

    def close(self) -> None:
        self._llama.close()


def server_seconds(machine: Machine, slots: int, prompts: Prompts, counts: Sequence[int]) -> tuple[float, int] | None:
    """Seconds from starting llama-server with that many slots to the last answer, and the tokens it generated; None
    where it is not on the PATH. All requests are sent at once.
    """
    program = shutil.which("llama-server")
    if program is None:
        return None
    cells = max(len(prompt) + count for prompt, count in zip(prompts, counts, strict=True)) + 1
    started = time.perf_counter()
    shape = ["-tb", str(machine.threads), "-np", str(slots), "-c", str(slots * _padded(cells))]
    with _server([program, *_settings(machine), *shape]) as address:

        def ask(prompt: Sequence[int], count: int) -> int:
            fields = {"prompt": list(prompt), "n_predict": count, "temperature": 0, "cache_prompt": True}
            body = json.dumps({**fields, "ignore_eos": True}).encode()
            request = urllib.request.Request(f"{address}/completion", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=SERVER_SECONDS) as reply:
                return int(json.load(reply)["tokens_predicted"])

        with ThreadPoolExecutor(len(prompts)) as pool:
            tokens = sum(pool.map(ask, prompts, counts))
        return time.perf_counter() - started, tokens


@contextmanager
def _server(command: list[str]) -> Iterator[str]:
    """A running llama-server's address, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    quiet = subprocess.DEVNULL
    listen = ["--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, *listen], stdout=quiet, stderr=quiet, env=_environment(command[0]))
    try:
        deadline = time.monotonic() + SERVER_SECONDS
        while True:
            if process.poll() is not None:
                raise SystemExit(f"llama-server ended with {process.returncode}: {' '.join(command)}")
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):  # not listening yet, or 503 while it loads
                if time.monotonic() > deadline:
                    raise SystemExit("llama-server does not answer") from None
                time.sleep(0.02)
        yield address
    finally:
        process.terminate()
        process.wait()


def batched_bench(machine: Machine, sequences: int, prompt: int, generated: int, unified: bool) -> float | None:
    """llama-batched-bench's generation tokens/s (S_TG) for one shape; None where it is not on the PATH."""
    program = shutil.which("llama-batched-bench")
    if program is None:
        return None
    shape = ["-npp", str(prompt), "-ntg", str(generated), "-npl", str(sequences)]
    shape += ["-c", str(sequences * _padded(prompt + generated)), "--output-format", "jsonl"]
    shape += ["--kv-unified"] if unified else ["--no-kv-unified"]
    return float(_last_json([program, *_settings(machine), "-tb", str(machine.threads), *shape])["speed_tg"])


def single_bench(machine: Machine, generated: int) -> float | None:
    """llama-bench's tokens/s for one sequence that starts from nothing; None where it is not on the PATH."""
    program = shutil.which("llama-bench")
    if program is None:
        return None
    test = ["-p", "0", "-n", str(generated), "-r", "1", "-o", "jsonl"]
    return float(_last_json([program, *_settings(machine), *test])["avg_ts"])


def _last_json(command: list[str]) -> dict[str, Any]:
    """The last line of JSON that a program prints."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=_environment(command[0]))
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{command[0]} failed ({done.returncode}): {done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _environment(program: str) -> dict[str, str]:
    """For one of llama.cpp's programs: the libraries beside it first."""
    folder = str(Path(program).resolve().parent)
    return {**os.environ, _LIBRARIES: os.pathsep.join(filter(None, [folder, os.environ.get(_LIBRARIES)]))}


def _settings(machine: Machine) -> list[str]:
    layers = str(min(machine.gpu_layers, 999))
    return ["-m", str(machine.model), "-t", str(machine.threads), "-ngl", layers, "-fa", "on"]


def _padded(cells: int) -> int:
    return -(-cells // CELL_PADDING) * CELL_PADDING


def context_cells(sequences: int, tokens: int) -> int:
    """A context in which each of some sequences has room for `tokens`, also if each has its own share."""
    return sequences * _padded(tokens)


def program_version(name: str) -> str:
    """What a program on the PATH says of its build, or that it is absent."""
    program = shutil.which(name)
    if program is None:
        return f"{name} absent"
    command = [program, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=_environment(program))
    found = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("version")]
    return f"{name} {found[0].removeprefix('version: ') if found else 'of unknown version'}"


def foreign_libraries(api: Any) -> list[str]:
    """Libraries of llama.cpp in this process that are not its Python package's: LD_LIBRARY_PATH goes before the
    package's own folder, and then two builds would run mixed. Linux; [] elsewhere.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    own = Path(api.__file__).resolve().parent
    mapped = {Path(line.split(maxsplit=5)[5]) for line in maps.read_text().splitlines() if ".so" in line}
    ours = [path for path in mapped if path.name.startswith(("libggml", "libllama"))]
    return sorted(str(path) for path in ours if own not in path.resolve().parents)
