"""What is chosen for which card, that it fits, and that the reasons and refusals say why."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stellar_local.errors import MissingExtraError, ModelError, StellarError, UsageError
from train.fit import EASY, GOAL, LEAST, Choice, Wish, choose, compare, describe, size_name
from train.memory import CUDA_CONTEXT, GIB, PROGRAM, Shape, estimate

WISH = Wish(8, ("q_proj", "k_proj", "v_proj", "o_proj"))
SHAPES = {
    "7b": Shape(4096, 11008, 32, 32, 32, 128, 32000),
    "13b": Shape(5120, 13824, 40, 40, 40, 128, 32000),
    "8b": Shape(4096, 14336, 32, 32, 8, 128, 128256),
    "smol": Shape(576, 1536, 30, 9, 3, 64, 49152, tied=True),
}


def chosen(name: str, gib: float, wish: Wish = WISH, longest: int = 512, device: str = "cuda", **more: Any) -> Choice:
    given = {"has_bnb": True, "bf16_ok": True, **more}
    return choose(SHAPES[name], wish, int(gib * GIB), longest, device, **given)


def brief(choice: Choice) -> str:
    setup = choice.setup
    words = {"keeps": not setup.checkpointing, "offload": setup.offload, "ends": setup.embedding_on_cpu}
    return " ".join([setup.dtype, str(setup.tokens), *(word for word, true in words.items() if true)])


@pytest.mark.parametrize(
    ("name", "cards"),
    [
        ("13b", {12: "nf4 4096", 16: "nf4 4096", 24: "nf4 4096", 40: "bfloat16 4096", 80: "bfloat16 4096 keeps"}),
        ("7b", {8: "nf4 4096", 12: "nf4 4096", 16: "bfloat16 4096", 24: "bfloat16 4096", 80: "bfloat16 4096 keeps"}),
        ("8b", {12: "nf4 4096", 16: "nf4 4096", 24: "bfloat16 4096", 80: "bfloat16 4096 keeps"}),
        ("smol", {4: "bfloat16 4096", 8: "bfloat16 4096 keeps", 80: "bfloat16 4096 keeps"}),
    ],
)
def test_cards(name: str, cards: dict[int, str]) -> None:
    assert {gib: brief(chosen(name, gib)) for gib in cards} == cards


def test_small_cards_give_up_what_costs_least() -> None:
    """13B on 8 GiB: too little for 2,048 tokens, so inputs of layers leave it, then the ends; for 7B it is enough."""
    small = chosen("13b", 8)
    assert (small.setup.dtype, small.setup.offload, small.setup.embedding_on_cpu) == ("nf4", True, True)
    assert small.setup.tokens >= LEAST
    middle = chosen("13b", 8.8)
    assert (middle.setup.offload, middle.setup.embedding_on_cpu) == (True, False)
    assert middle.setup.tokens >= LEAST
    roomy = chosen("13b", 10)
    assert not roomy.setup.offload
    assert LEAST <= roomy.setup.tokens < GOAL["cuda"]
    assert brief(chosen("7b", 5.5)).startswith("nf4 2")


def test_the_claimed_settings_fit_their_cards() -> None:
    for name, gib, tokens in (("13b", 12, 4096), ("7b", 8, 4096), ("13b", 10, 2048), ("7b", 6, 2048)):
        choice = chosen(name, gib)
        assert choice.setup.tokens >= tokens
        assert not choice.setup.offload


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_elsewhere_float32_with_fewer_tokens(device: str) -> None:
    choice = chosen("smol", 8, device=device)
    assert (choice.setup.dtype, choice.setup.tokens) == ("float32", GOAL[device])
    assert not choice.setup.offload
    assert brief(chosen("smol", 8, device="cpu")) == "float32 1024 keeps"
    assert brief(chosen("smol", 2.0, device="cpu")) == "float32 1024"
    assert brief(chosen("smol", 8, bf16_ok=False)).startswith("float32 ")


def test_bfloat16_only_where_it_loses_no_speed() -> None:
    needed = estimate(SHAPES["7b"], replace(chosen("7b", 24).setup, tokens=GOAL["cuda"])).device / GIB
    assert chosen("7b", needed + 0.01).setup.dtype == "bfloat16"
    less = chosen("7b", needed - 0.01)
    assert less.setup.dtype == "nf4"
    assert f"would need {needed:.1f} GiB" in less.reasons[0]
    alone = chosen("7b", needed - 0.01, has_bnb=False)
    assert (alone.setup.dtype, alone.setup.tokens < GOAL["cuda"]) == ("bfloat16", True)


def test_all_is_kept_only_where_it_fits_easily() -> None:
    keeps = chosen("smol", 8)
    edge = keeps.estimate.device / GIB / EASY
    assert brief(chosen("smol", edge + 0.01)) == brief(keeps)
    assert brief(chosen("smol", edge - 0.01)) == "bfloat16 4096"


def test_the_longest_sample_has_its_place() -> None:
    long = chosen("7b", 12, longest=6000)
    assert long.setup.tokens == 6000
    assert "as many as the longest sample has" in " ".join(long.reasons)
    assert chosen("7b", 12, replace(WISH, tokens=256), longest=300).setup.tokens == 300
    assert chosen("13b", 8.1, longest=2400).setup.tokens >= 2400


def test_no_more_tokens_than_the_largest_step_has() -> None:
    """A small step needs no room for more: then all that layers keep may fit."""
    assert brief(chosen("7b", 24, replace(WISH, most=1500))) == "bfloat16 1500"
    small = chosen("7b", 24, replace(WISH, most=300), longest=200)
    assert brief(small) == "bfloat16 300 keeps"
    assert "300 tokens at once: no step of this run has more to compute at a time" in small.reasons
    assert brief(chosen("7b", 12, replace(WISH, most=9000))) == "nf4 4096"
    assert brief(chosen("7b", 12, replace(WISH, most=300), longest=400)) == "nf4 400 keeps"


def test_wishes_are_kept() -> None:
    assert brief(chosen("7b", 80, replace(WISH, dtype="nf4", checkpointing=True))) == "nf4 4096"
    assert brief(chosen("7b", 80, replace(WISH, tokens=1000, checkpointing=False))) == "bfloat16 1000 keeps"
    assert brief(chosen("7b", 80, replace(WISH, offload=True))) == "bfloat16 4096 offload"
    assert not chosen("13b", 8, replace(WISH, offload=False)).setup.offload


@pytest.mark.parametrize(
    ("wish", "device", "error", "message"),
    [
        ({"dtype": "nf4"}, "cpu", UsageError, "nf4 needs CUDA"),
        ({"offload": True}, "cpu", UsageError, "--offload on needs CUDA"),
        ({"offload": True, "checkpointing": False}, "cuda", UsageError, "but it is off"),
        ({"dtype": "nf4"}, "cuda", MissingExtraError, "bitsandbytes"),
    ],
)
def test_wishes_that_cannot_be_met(wish: Any, device: str, error: type[StellarError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        chosen("7b", 80, replace(WISH, **wish), device=device, has_bnb=False)
    assert caught.value.hint


def test_a_sample_that_is_too_long_is_told_how_long_it_may_be() -> None:
    with pytest.raises(ModelError) as caught:
        chosen("13b", 8, longest=4000)
    assert re.fullmatch(r"13B in nf4 needs 8\.\d GiB for 4,000 tokens, but 8\.0 GiB may be used", caught.value.message)
    most = re.search(
        r"with 8\.0 GiB the longest sample may have ([\d,]+) tokens: lower --cutoff-len", caught.value.hint
    )
    assert most is not None
    longest = int(most[1].replace(",", ""))
    assert chosen("13b", 8, longest=longest).setup.tokens == longest
    with pytest.raises(ModelError):
        chosen("13b", 8, longest=longest + 64)


def test_refusals_name_what_would_help() -> None:
    def hint(name: str, gib: float, wish: Wish = WISH, **more: Any) -> str:
        with pytest.raises(ModelError) as caught:
            chosen(name, gib, wish, **more)
        return caught.value.hint

    assert hint("13b", 4) == "use a smaller base, or more memory"
    assert hint("13b", 16, has_bnb=False) == "for 4 bits: pip install 'stellar-local[qlora]'"
    assert hint("13b", 16, replace(WISH, dtype="bfloat16")) == "leave --dtype at auto"
    keep = replace(WISH, dtype="nf4", checkpointing=False)
    assert "leave --dtype and --checkpointing at auto" in hint("13b", 8, keep, longest=1500)
    assert "--dtype" not in hint("13b", 4, replace(WISH, dtype="nf4"))


def test_the_hosts_memory_counts_too() -> None:
    choice = chosen("13b", 8, host_bytes=16 * GIB)
    assert choice.setup.offload
    little = chosen("13b", 8, host_bytes=2 * GIB)
    assert 512 <= little.setup.tokens < choice.setup.tokens
    assert little.estimate.host <= GIB
    with pytest.raises(ModelError, match=r"of the host's memory, but half of the 256 MiB that are free there are less"):
        chosen("13b", 7.45, host_bytes=GIB // 4)


WISHES = st.builds(
    Wish,
    rank=st.sampled_from([1, 8, 64]),
    modules=st.sampled_from([WISH.modules, ("all-linear",)]),
    dropout=st.booleans(),
    most=st.sampled_from([0, 0, 300, 2000]),
    dtype=st.sampled_from([None, None, "nf4", "bfloat16", "float32"]),
    tokens=st.sampled_from([None, None, 100, 5000]),
    checkpointing=st.sampled_from([None, None, True, False]),
    offload=st.sampled_from([None, None, True, False]),
)


@given(
    st.sampled_from(list(SHAPES)),
    WISHES,
    st.floats(0.3, 100),
    st.integers(2, 5000),
    st.sampled_from(["cuda", "cuda", "mps", "cpu"]),
    st.booleans(),
    st.sampled_from([0, GIB, 64 * GIB]),
)
@settings(deadline=None, max_examples=200)
def test_what_is_chosen_fits_and_is_what_was_wished(
    name: str, wish: Wish, gib: float, longest: int, device: str, has_bnb: bool, host: int
) -> None:
    more: dict[str, Any] = {"longest": longest, "device": device, "has_bnb": has_bnb, "host_bytes": host}
    try:
        choice = chosen(name, gib, wish, **more)
    except StellarError as error:
        assert error.hint
        assert "\n" not in error.message + error.hint
        return
    setup, limit = choice.setup, int(gib * GIB)
    assert choice.estimate == estimate(SHAPES[name], setup)
    assert choice.estimate.device <= limit
    assert not host or choice.estimate.host <= host // 2
    goal = wish.tokens or GOAL[device]
    assert longest <= setup.tokens <= max(longest, min(goal, wish.most or goal))
    for field in ("dtype", "checkpointing", "offload"):
        assert getattr(wish, field) in (None, getattr(setup, field))
    assert (setup.rank, setup.modules, setup.dropout) == (wish.rank, wish.modules, wish.dropout)
    assert setup.checkpointing or not setup.offload
    larger = chosen(name, 2 * gib, wish, **more)
    assert larger.setup.dtype != setup.dtype or larger.setup.tokens >= setup.tokens


def test_the_words_of_a_plan() -> None:
    choice = chosen("13b", 8)
    lines = describe(choice)
    assert lines[0] == f"memory plan: 13B in nf4 on cuda, {choice.setup.tokens:,} tokens at once"
    sizes = {line[2:36].strip(): float(line[36:43]) for line in lines if " GiB" in line[43:48]}
    assert sizes["weights"] == 6.1
    both = {"logits and loss, at another time", "a layer at work"}
    host, peak = sizes.pop("in the host's memory besides"), sizes.pop("at the peak")
    rest = sum(size for row, size in sizes.items() if row not in both) + max(sizes[row] for row in both)
    assert peak == pytest.approx(rest, abs=0.04)
    assert peak == pytest.approx(choice.estimate.device / GIB, abs=0.005)
    assert host == pytest.approx(choice.estimate.host / GIB, abs=0.005)
    assert any(line.endswith("GiB of 8.00") for line in lines)
    reasons = "\n".join(choice.reasons)
    assert re.search(r"offload on: otherwise [\d,]+ tokens at once would fit", reasons)
    assert re.search(r"embedding and head in the host's memory: otherwise [\d,]+ tokens", reasons)
    assert lines[-len(choice.reasons) :] == [f"  {reason}" for reason in choice.reasons]
    assert "as asked for" not in reasons
    asked = chosen("7b", 80, replace(WISH, dtype="nf4", tokens=900, checkpointing=True, offload=True))
    assert all(reason.endswith("as asked for") for reason in asked.reasons)
    assert len(asked.reasons) == 4


def test_the_words_after_a_run() -> None:
    gpu, cpu = chosen("13b", 12), chosen("smol", 8, device="cpu")
    reserved = gpu.estimate.device - CUDA_CONTEXT
    assert compare(gpu, reserved) == f"measured {reserved / GIB:.2f} GiB at peak, as planned"
    assert compare(gpu, int(reserved * 0.97)).endswith("GiB at peak, 3% below the plan")
    assert compare(cpu, int(cpu.estimate.device * 1.08)).endswith("GiB at peak, 8% above the plan")
    assert cpu.estimate.device > PROGRAM


def test_a_plan_is_json() -> None:
    choice = chosen("13b", 8)
    plan = json.loads(json.dumps(choice.as_json()))
    assert plan["budget"] == 8 * GIB
    assert plan["setup"]["dtype"] == "nf4"
    assert plan["bytes"]["reserved"] + plan["bytes"]["runtime"] == plan["bytes"]["device_total"]


def test_names_of_sizes() -> None:
    assert {name: size_name(shape) for name, shape in SHAPES.items()} == {
        "7b": "6.7B",
        "13b": "13B",
        "8b": "8B",
        "smol": "135M",
    }


def test_planning_needs_no_torch() -> None:
    probe = "import sys, train.fit, train.budget; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
