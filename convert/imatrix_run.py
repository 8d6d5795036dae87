"""Making an importance matrix: a model opened as the planner says, run over chunks of text, saved and taken up again.

Knows the order of the steps; what is added up, cut and written is known elsewhere.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stellar_local.batch.signals import orderly
from stellar_local.config import RuntimeOptions
from stellar_local.console import progress, say, warn
from stellar_local.engine.likelihood import log_likelihoods
from stellar_local.errors import StellarError, UsageError
from stellar_local.files import ensure_folder, exclusive, real, regular_target, require_file, sampled
from stellar_local.flags import wish_of
from stellar_local.native.context import Chunk, Context, Decoded
from stellar_local.native.library import set_verbose
from stellar_local.native.model import ALL_LAYERS, Model
from stellar_local.native.observe import Observer
from stellar_local.plan.choose import Plan
from stellar_local.plan.opening import choose, open_fitting, prove
from stellar_local.prompts import BOS, EOS, Renderer, Template, Turn, load_template, token_ids
from stellar_local.runtime import FALLBACK_TEMPLATE, template_of

from .imatrix_collect import FEWEST_ROWS, Collector, Sums
from .imatrix_loss import Loss, perplexity
from .imatrix_text import Triple, check_enough, cut, holds_rows, read_tokens
from .imatrix_write import State, is_state, load_state, save_state, state_path, write_imatrix

_SAVE_EVERY = 15.0  # seconds: what a kill costs at most, beside the chunk in hand
_FEW = 16  # chunks, below which a matrix says little of the language
_PRECISE = ("F32", "F16", "BF16", "Q8_0")


@dataclass(frozen=True)
class Order:
    """What to do: the model, the texts, the file to write, tokens a chunk, and at most how many chunks (None: all).

    `output` also measures the matrix that makes the logits; `likelihood` says whether to tell the text's perplexity.
    """

    model: Path
    data: tuple[Path, ...]
    out: Path
    size: int = 512
    most: int | None = None
    output: bool = False
    likelihood: bool = True
    verbose: bool = False


@dataclass(frozen=True)
class Made:
    """What was written: how many entries, from how many chunks of how many tokens, and the text's perplexity with the
    error of its mean, or None.
    """

    path: Path
    entries: int
    chunks: int
    size: int
    perplexity: tuple[float, float] | None


def make(order: Order, options: RuntimeOptions) -> Made:
    """Carry out an order. Raises StellarError, and SystemExit with a signal's exit code once the state is saved."""
    _check(order, options)
    out = regular_target(order.out)
    with exclusive(out.with_name(f".{out.name}.lock"), out), _opened(order, options) as (context, looking, file):
        _spare(order, file)
        chunks = _chunks(order, options, context.model)
        state = _taken_up(order, out, chunks, file)
        total = len(chunks) if order.most is None else min(order.most, len(chunks))
        if total < _FEW:
            warn(f"{total} chunks of {order.size} tokens are little to measure a model on; some 100 are usual")
        _run(order, state, out, chunks[:total], context, looking)
        _tell_gaps(context.model, state.sums)
        write_imatrix(out, state.sums, [path.name for path in order.data], total, order.size)
    with suppress(FileNotFoundError):
        state_path(out).unlink()
    return Made(out, len(state.sums), total, order.size, perplexity(state.loss) if order.likelihood else None)


def _check(order: Order, options: RuntimeOptions) -> None:
    """What can be seen to be wrong before the model loads. Raises StellarError."""
    for path in order.data:
        require_file(path, "text", "check the path given with --data")
    _spare(order, order.model)
    ensure_folder(order.out.absolute().parent)
    if options.batch_size < 2 * FEWEST_ROWS:
        raise UsageError(f"--batch-size must be at least {2 * FEWEST_ROWS} here: nothing is measured in smaller ones")
    if options.template:
        load_template(options.template)


def _spare(order: Order, model: Path) -> None:
    """Refuse to write over what is read, and to take another's file for a state of ours."""
    for target in (order.out, state_path(order.out)):
        if real(target) in {real(path) for path in (model, *order.data)}:
            raise UsageError(f"{target} is read, and would be written over", "give another name with --out")
    state = state_path(order.out)
    if state.exists() and not is_state(state):
        raise UsageError(f"{state} is in the way: it is no unfinished run of this command", "move it away")


class _Looking:
    """A context's observer and the collector behind it, which is made anew once it is known what to go on with."""

    def __init__(self) -> None:
        self.collector = Collector()
        self.observer = Observer(lambda node: self.collector.wants(node), lambda node: self.collector.take(node))


@contextmanager
def _opened(order: Order, options: RuntimeOptions) -> Iterator[tuple[Context, _Looking, Path]]:
    """The model in memory, as much of it on a GPU as fits, with a context of one chunk."""
    set_verbose(order.verbose)
    batch = min(options.batch_size, order.size)
    # Logits of all tokens are wanted: without, llama.cpp computes the last block for few tokens only.
    wish = replace(wish_of(replace(options, ctx=order.size, kv="f16", batch_size=batch)), outputs=batch)
    choice = choose(order.model, wish, options.level)

    def open_as(plan: Plan) -> tuple[Context, _Looking]:
        setup, looking = plan.setup, _Looking()
        model = Model(
            plan.model.path,
            gpu_layers=ALL_LAYERS if plan.whole else setup.gpu_layers,
            mmap=options.mmap,
            mlock=options.mlock == "on",
            tensor_split=setup.split,
        )
        try:
            context = Context(
                model,
                order.size,
                n_batch=batch,
                threads=options.threads or 0,
                outputs=batch,
                flash_attn=setup.flash_attn if options.flash_attn == "auto" else options.flash_attn,
                observer=looking.observer,
            )
            try:
                prove(context)
            except BaseException:
                context.close()
                raise
        except BaseException:
            model.close()
            raise
        return context, looking

    (context, looking), plan = open_fitting(choice, wish, open_as)
    try:
        for note in context.model.notes:
            warn(note)
        if order.model.is_dir():
            say(f"measuring {plan.model.path.name}")
        if plan.model.level not in _PRECISE:
            warn(f"measured at {plan.model.level}; F16 or Q8_0 measures what the model itself does")
        if order.size > context.model.n_ctx_train:
            warn(f"chunks of {order.size} exceed the {context.model.n_ctx_train} tokens this model was trained on")
        yield context, looking, plan.model.path
    finally:
        context.close()
        context.model.close()


def _chunks(order: Order, options: RuntimeOptions, model: Model) -> NDArray[np.int32]:
    """The texts as tokens, cut. Raises StellarError, also for too little."""
    template: Renderer | None = None
    if any(map(holds_rows, order.data)):
        template = load_template(options.template) if options.template else template_of(model)
        if template is None:
            warn(f"this model brings no chat template; using {FALLBACK_TEMPLATE} (choose with --template)")
            template = load_template(FALLBACK_TEMPLATE)

    def special(token: str) -> int | None:
        return (model.eos if token == EOS else model.bos) if token in (EOS, BOS) else model.special(token)

    def render(row: Triple) -> list[int]:
        instruction, input, answer = row
        if isinstance(template, Template):
            segments = template.training(instruction, input, answer)[1]
        elif template is not None:
            segments = template.render([Turn(instruction, answer, input)])
        ids = token_ids(segments, model.tokenize, special)
        return ids[1:] if ids[0] == model.bos else ids

    texts = [read_tokens(path, model.tokenize, render) for path in order.data]
    chunks = cut(texts, order.size, model.bos if model.add_bos else None)
    check_enough(chunks, texts, order.size)
    for path, text in zip(order.data, texts, strict=True):
        say(f"{path.name}: {len(text):,} tokens")
    return chunks


def _taken_up(order: Order, out: Path, chunks: NDArray[np.int32], file: Path) -> State:
    """What an earlier run of the same left, else a new state."""
    size, changed, digest = sampled(file)
    made_of = {
        "model": [size, changed, digest],
        "text": hashlib.sha256(chunks.tobytes()).hexdigest(),
        "ctx": order.size,
        "output": order.output,
        "likelihood": order.likelihood,
    }
    path = state_path(out)
    found = load_state(path)
    total = len(chunks) if order.most is None else min(order.most, len(chunks))
    if found is None:
        if path.exists():
            warn(f"{path.name} cannot be read, so all is measured anew")
        return State(made_of)
    differ = [name for name in made_of if found.made_of.get(name) != made_of[name]]
    if differ or found.chunks > total:
        names = {"model": "another model", "text": "another text", "ctx": "another --ctx", "output": "other matrices"}
        what = names.get(differ[0], "other settings") if differ else "more chunks"
        warn(f"{path.name} was made with {what}, so all is measured anew")
        return State(made_of)
    say(f"{found.chunks} of {total} chunks were done before")
    return found


def _run(
    order: Order,
    state: State,
    out: Path,
    chunks: NDArray[np.int32],
    context: Context,
    looking: _Looking,
) -> None:
    """Run the chunks that are missing. Ctrl-C and SIGTERM finish the one in hand, and save; the next stops at once."""
    stop = False

    def ask() -> None:
        nonlocal stop
        stop = True
        say("stopping after this chunk")

    collector = looking.collector = Collector(order.output, state.sums)
    state.sums = collector.sums
    saved = time.monotonic()
    done = state.chunks
    with (
        orderly(ask) as signals,
        progress("measuring", len(chunks) * order.size, "tokens") as shown,
    ):
        shown.advance(done * order.size)
        for chunk in chunks[done:]:
            state.loss = _measure(chunk, context, looking, state.loss, order.likelihood)
            state.chunks += 1
            shown.advance(order.size)
            if order.likelihood and (found := perplexity(state.loss)):
                shown.describe(f"measuring, perplexity {found[0]:.4g}")
            if stop or (time.monotonic() - saved > _SAVE_EVERY and state.chunks < len(chunks)):
                save_state(state_path(out), state)
                saved = time.monotonic()
            if stop:
                break
    if signals.code is not None and state.chunks < len(chunks):
        say(f"stopped after {state.chunks} of {len(chunks)} chunks; the same command goes on")
        raise SystemExit(int(signals.code))


def _measure(
    chunk: NDArray[np.int32],
    context: Context,
    looking: _Looking,
    loss: Loss,
    likelihood: bool,
) -> Loss:
    """Run one chunk from an empty memory, in equal parts of at most a batch; the loss with what its second half adds.

    llama-imatrix judges the second half only, as the first tokens have little to go by.
    """
    context.truncate(0, 0)
    total, squares, count = loss
    start, half = 0, len(chunk) // 2
    for part in np.array_split(chunk, -(-len(chunk) // context.n_batch)):
        looking.collector.begin()
        looking.observer.active = True
        try:
            decoded = context.decode([Chunk(0, start, part.tolist(), len(part))])
        finally:
            looking.observer.active = False
        if decoded is not Decoded.DONE:
            raise StellarError(f"llama.cpp did not run {context.model.path.name} to the end", "run with -v to see why")
        first, last = max(start, half), min(start + len(part), len(chunk) - 1)
        if likelihood and first < last:
            logits, wanted = context.logits[first - start : last - start], chunk[first + 1 : last + 1]
            losses = -log_likelihoods(logits, wanted.tolist())
            total, squares, count = total + float(losses.sum()), squares + float(losses @ losses), count + len(losses)
        start += len(part)
    return total, squares, count


def _tell_gaps(model: Model, sums: dict[str, Sums]) -> None:
    """Warn of matrices, and of experts in them, that no token reached: low levels cannot be made of them, or ill."""
    names = [
        info.name
        for info in model.header.tensors
        if info.name.startswith("blk.") and info.name.endswith(".weight") and len(info.shape) > 1
    ]
    if missing := [name for name in names if name not in sums]:
        warn(f"{len(missing)} of {len(names)} matrices were never used, {missing[0]} first; there is no entry for them")
    for name, one in sorted(sums.items()):
        if unseen := int((one.counts == 0).sum()):
            warn(f"{name}: {unseen} of {len(one.counts)} experts were never chosen; give more text, of more kinds")
