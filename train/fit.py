"""What to choose so that training fits in memory: precision, tokens at once, what is computed again or lies elsewhere.

Knows the order in which memory is given up for speed, and how to say why; the arithmetic is memory's. Knows no device:
what is free is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from stellar_local.console import amount
from stellar_local.errors import MissingExtraError, ModelError, UsageError

from .memory import GIB, Estimate, Setup, Shape, estimate

# Tokens at once that are aimed at. On an H100, 8,192 ran 9% faster than 4,096 with 13B (49% with 7B) and took 2.5 GiB
# more (2.0); on two CPU cores 4,000 ran at half the speed of 1,000, because attention computes what its mask hides too.
GOAL = {"cuda": 4096, "mps": 1024, "cpu": 1024}
# With fewer tokens at once a GPU mostly waits: layers' inputs, then embedding and head, leave it first.
LEAST = 2048
# Everything is kept, and nothing computed again, if it takes no more than this share of the memory.
EASY = 0.8
# Tokens at once are a multiple of this where that is possible.
GRAIN = 64


@dataclass(frozen=True)
class Wish:
    """What a run asks for; None leaves it to `choose`. `dropout` and `dora` say whether the adapter has them.

    `most` are the tokens of the run's largest optimizer step, beyond which no micro-batch can grow; 0: unknown.
    """

    rank: int
    modules: tuple[str, ...]
    dropout: bool = True
    dora: bool = False
    dtype: str | None = None
    tokens: int | None = None
    most: int = 0
    checkpointing: bool | None = None
    offload: bool | None = None


@dataclass(frozen=True)
class Choice:
    """A setup that fits in `budget` bytes, what it takes, and why it was chosen, a sentence each."""

    shape: Shape
    setup: Setup
    estimate: Estimate
    budget: int
    reasons: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values, sizes in bytes."""
        figures = {**asdict(self.estimate), "reserved": self.estimate.reserved, "device_total": self.estimate.device}
        return {"budget": self.budget, "setup": asdict(self.setup), "bytes": figures, "reasons": list(self.reasons)}


def choose(
    shape: Shape,
    wish: Wish,
    limit_bytes: int,
    longest: int,
    device: str,
    has_bnb: bool,
    bf16_ok: bool,
    host_bytes: int = 0,
) -> Choice:
    """The fastest setup that fits in `limit_bytes` of the device, for samples of at most `longest` tokens.

    Bfloat16 comes before nf4 where it holds as many tokens at once as pay; then as many tokens as fit. Where all that
    layers keep fits easily, nothing is computed again. Their inputs, then embedding and head, go to the host (at most
    half of its `host_bytes`, 0: unknown) where too few tokens would fit otherwise. Raises UsageError for wishes that
    cannot be met, MissingExtraError, and ModelError with what would fit.
    """
    _check(wish, device, has_bnb)
    search = _Search(shape, wish, limit_bytes, longest, device, has_bnb, bf16_ok, host_bytes)
    setup = search.answer()
    if setup is None:
        raise search.refusal()
    return Choice(shape, setup, estimate(shape, setup), limit_bytes, tuple(search.reasons(setup)))


def _check(wish: Wish, device: str, has_bnb: bool) -> None:
    """Raise UsageError or MissingExtraError for a wish that no amount of memory would meet."""
    if wish.dtype == "nf4":
        if device != "cuda":
            raise UsageError("--dtype nf4 needs CUDA", "leave --dtype at auto")
        if not has_bnb:
            raise MissingExtraError("qlora", "bitsandbytes", "--dtype nf4")
    if wish.offload and device != "cuda":
        raise UsageError("--offload on needs CUDA: elsewhere there is one memory", "leave --offload at auto")
    if wish.offload and wish.checkpointing is False:
        raise UsageError("--offload on moves what checkpointing keeps, but it is off", "leave --checkpointing at auto")


@dataclass(frozen=True)
class _Search:
    """One question to `choose`."""

    shape: Shape
    wish: Wish
    limit: int
    longest: int
    device: str
    has_bnb: bool
    bf16_ok: bool
    host: int

    def answer(self) -> Setup | None:
        """The setup to choose; None where nothing fits."""
        for dtype in self.dtypes:
            last = dtype == self.dtypes[-1]
            setup = self.best(dtype, moving=last)
            if setup is not None and (last or setup.tokens >= self.goal):
                return setup
        return None

    @property
    def dtypes(self) -> list[str]:
        """The precisions to try, the best first."""
        if self.wish.dtype is not None:
            return [self.wish.dtype]
        if self.device != "cuda" or not self.bf16_ok:
            return ["float32"]
        return ["bfloat16", "nf4"] if self.has_bnb else ["bfloat16"]

    @property
    def goal(self) -> int:
        """Tokens at once that are aimed at; a sample is never cut, so the longest has its place."""
        aim = self.wish.tokens or GOAL[self.device]
        return max(min(aim, self.wish.most or aim), self.longest)

    def setup(self, dtype: str, tokens: int, checkpointing: bool, offload: bool, on_cpu: bool) -> Setup:
        """A Setup of this run."""
        wish = self.wish
        return Setup(
            dtype=dtype,
            rank=wish.rank,
            modules=wish.modules,
            tokens=tokens,
            checkpointing=checkpointing,
            offload=offload,
            embedding_on_cpu=on_cpu,
            device=self.device,
            dropout=wish.dropout,
            dora=wish.dora,
        )

    def fits(self, setup: Setup) -> bool:
        """Whether a setup stays within the device's limit and half of what the host has free."""
        made = estimate(self.shape, setup)
        return made.device <= self.limit and (not self.host or made.host <= self.host // 2)

    def modes(self, dtype: str) -> Iterator[Setup]:
        """The setups with checkpointing, the fastest first, that the wish allows; each for one token."""
        wish = self.wish
        movable = self.device == "cuda" and not self.shape.tied
        for offload, on_cpu in ((False, False), (True, False), (True, True)):
            offload = wish.offload if wish.offload is not None else offload and self.device == "cuda"
            offload = offload and wish.checkpointing is not False
            yield self.setup(dtype, 1, wish.checkpointing is not False, offload, on_cpu and movable)

    def best(self, dtype: str, moving: bool) -> Setup | None:
        """The setup of a precision that is fastest; without `moving` nothing goes to the host unless asked for."""
        modes = list(self.modes(dtype))
        keeping = replace(modes[0], checkpointing=False, tokens=self.goal)
        easy = replace(self, limit=int(EASY * self.limit))
        if self.wish.checkpointing is None and not keeping.offload and easy.fits(keeping):
            return keeping
        found = [replace(mode, tokens=self.most(mode)) for mode in (modes if moving else modes[:1])]
        enough = max(self.longest, min(LEAST, self.goal))
        best = max(found, key=lambda setup: min(setup.tokens, enough))  # the first of those that are equal
        return best if best.tokens >= self.longest else None

    def most(self, mode: Setup) -> int:
        """The most tokens at once that fit, at most the goal; 0 if not even one does."""
        most = _last(self.goal, lambda tokens: self.fits(replace(mode, tokens=tokens)))
        even = most - most % GRAIN
        return most if most == self.goal or even < max(self.longest, 1) else even

    def reasons(self, setup: Setup) -> Iterator[str]:
        """Why the setup is as it is."""
        wish, tokens, aim = self.wish, setup.tokens, f"{self.goal:,} tokens"
        if wish.dtype is not None:
            yield f"{setup.dtype}: as asked for"
        elif setup.dtype == "nf4":
            yield f"nf4 (4 bits, QLoRA): in bfloat16, {aim} at once would need {self.need('bfloat16')}"
        elif setup.dtype == "bfloat16":
            yield "bfloat16: the base as it is" + ("" if tokens < self.goal else f" fits, with {aim} at once")
        else:
            yield f"float32: what {'this GPU' if self.device == 'cuda' else 'training outside CUDA'} computes in"
        if tokens == self.longest and tokens > (wish.tokens or GOAL[self.device]):
            yield f"{tokens:,} tokens at once: as many as the longest sample has"
        elif tokens < self.goal:
            yield f"{tokens:,} tokens at once: what fits; {aim} would need {self.need(setup.dtype, setup)}"
        elif tokens == wish.most:
            yield f"{tokens:,} tokens at once: no step of this run has more to compute at a time"
        elif wish.tokens is not None:
            yield f"{tokens:,} tokens at once: as asked for"
        else:
            yield f"{tokens:,} tokens at once: more would hardly be faster"
        if wish.checkpointing is not None:
            yield f"checkpointing {'on' if setup.checkpointing else 'off'}: as asked for"
        elif not setup.checkpointing:
            yield "checkpointing off: all that layers keep for the backward pass fits"
        elif not wish.offload:
            kept = estimate(self.shape, replace(setup, checkpointing=False, offload=False, tokens=tokens)).device
            yield f"checkpointing on: to keep all that layers make would need {amount(kept)}"
        if setup.offload:
            yield "offload on: " + ("as asked for" if wish.offload else self.without(replace(setup, offload=False)))
        if setup.embedding_on_cpu:
            yield f"embedding and head in the host's memory: {self.without(replace(setup, embedding_on_cpu=False))}"

    def without(self, setup: Setup) -> str:
        """What a setup that moves something to the host is compared with."""
        tokens = self.most(setup)
        return f"otherwise {tokens:,} tokens at once would fit" if tokens else "nothing would fit otherwise"

    def need(self, dtype: str, setup: Setup | None = None) -> str:
        """What the goal would need, in words."""
        setup = setup or next(self.modes(dtype))
        return amount(estimate(self.shape, replace(setup, dtype=dtype, tokens=self.goal)).device)

    def refusal(self) -> ModelError:
        """The error for a run that does not fit, with what would."""
        dtype = self.dtypes[-1]
        modes = [replace(mode, tokens=self.longest) for mode in self.modes(dtype)]
        needed = min((estimate(self.shape, mode) for mode in modes), key=lambda made: made.device)
        what = f"{size_name(self.shape)} in {dtype} needs {amount(needed.device)} for {self.longest:,} tokens"
        have = f"{amount(self.limit)} may be used"
        if needed.device <= self.limit:
            what += f", and {amount(needed.host)} of the host's memory"
            have = f"half of the {amount(self.host)} that are free there are less"
        ways = []
        if most := max(map(self.most, modes)):
            ways.append(f"with {amount(self.limit)} the longest sample may have {most:,} tokens: lower --cutoff-len")
        freed = replace(self, wish=replace(self.wish, dtype=None, checkpointing=None, offload=None))
        flags = [f"--{name}" for name in ("dtype", "checkpointing", "offload") if getattr(self.wish, name) is not None]
        if flags and freed.answer() is not None:
            ways.append(f"leave {' and '.join(flags)} at auto")
        if self.device == "cuda" and self.bf16_ok and not self.has_bnb:
            ways.append("for 4 bits: pip install 'stellar-local[qlora]'")
        return ModelError(f"{what}, but {have}", "; or ".join(ways) or "use a smaller base, or more memory")


def _last(most: int, holds: Callable[[int], bool]) -> int:
    """The largest number from 1 to `most` for which `holds` is true, if it is true up to there only; 0 if for none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def size_name(shape: Shape) -> str:
    """A model's size as people call it: 13B, 135M."""
    count = shape.parameters
    return (
        f"{count / 1e9:.{0 if count >= 9.5e9 else 1}f}B".replace(".0B", "B") if count >= 1e9 else f"{count / 1e6:.0f}M"
    )


def describe(choice: Choice) -> list[str]:
    """The plan as lines: a table of what takes how much, and why it was chosen."""
    setup, made = choice.setup, choice.estimate
    rows = [
        ("weights", made.weights),
        ("adapter, its gradients, optimizer", made.adapter),
        ("kept for the backward pass", made.activations),
        ("a layer at work", made.workspace),
        ("logits and loss, at another time", made.logits),
        ("the allocator's holes", made.slack),
        ("runtime", made.runtime),
    ]
    if made.host:
        rows.append(("in the host's memory besides", made.host))
    lines = [
        f"memory plan: {size_name(choice.shape)} in {setup.dtype} on {setup.device}, {setup.tokens:,} tokens at once"
    ]
    lines += [f"  {name:<34}{size / GIB:>7.2f} GiB" for name, size in rows if size]
    lines.append(f"  {'at the peak':<34}{made.device / GIB:>7.2f} GiB of {choice.budget / GIB:.2f}")
    return lines + [f"  {reason}" for reason in choice.reasons]


def planned_peak(choice: Choice) -> int:
    """The planned bytes of what can be measured: on CUDA what the allocator reserves, elsewhere the process's all."""
    return choice.estimate.reserved if choice.setup.device == "cuda" else choice.estimate.device


def compare(choice: Choice, measured: int) -> str:
    """The measured peak against the plan, in words: torch.cuda.max_memory_reserved, or the process's peak elsewhere."""
    plan = planned_peak(choice)
    percent = round(100 * (measured - plan) / plan)
    words = "as planned" if not percent else f"{abs(percent)}% {'above' if percent > 0 else 'below'} the plan"
    return f"measured {measured / GIB:.2f} GiB at peak, {words}"
