"""Plans in words: each reason and each sentence, in both languages, with the numbers that belong to it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from plan_cases import GIB, MIB, NOTHING, PLENTY, cards, ideal_of, made

from stellar_local.plan.choose import Plan, Ranking, Wish, planned, rank
from stellar_local.plan.estimate import Setup
from stellar_local.plan.explain import describe, given_up, in_short, joined, noted, refusal, weighing
from stellar_local.plan.hardware import Machine
from stellar_local.plan.models import Candidate, candidates, named
from stellar_local.plan.opening import Choice, Reason, choose
from stellar_local.texts import LANGUAGES, Texts

EN, ZH = Texts("en"), Texts("zh")
(Q4,) = named("13b", "Q4_K_M")
SPARE = 128 * MIB


def amount_for(model: Candidate, machine: Machine) -> int:
    """What must be free for the model as it should be."""
    (ideal,) = ideal_of([model], machine).refused
    return weighing(ideal, machine) + SPARE


def on(size: int, gpu: bool) -> Machine:
    return cards(size, ram=0 if gpu else None) if gpu else Machine(size)


def test_the_lines_for_main_memory(spm_folder: Path) -> None:
    def line(free: int, level: str | None = None, folder: Path = spm_folder, texts: Texts = EN) -> str:
        return describe(choose(folder, Wish(), level, Machine(free)), texts)

    both = candidates(spm_folder)
    assert line(3 * GIB) == "tiny-Q8_0.gguf: the best of 2 levels; it needs 76 MiB of the 3.0 GiB of free memory"
    assert line(3 * GIB, texts=ZH) == "tiny-Q8_0.gguf：2 个级别中最好的；需要 76 MiB，可用内存 3.0 GiB"
    assert amount_for(both[0], PLENTY) > amount_for(both[1], PLENTY)
    assert line(10 * MIB).startswith("tiny-Q8_0.gguf: the smallest level, and still too large: it needs 70 MiB")
    assert "10 MiB of memory are free; it will be slow" in line(10 * MIB)
    assert line(1 << 40, "f32") == "tiny-F32.gguf: level F32, as asked for"
    assert line(1 << 40, folder=spm_folder / "tiny-F32.gguf") == ""


def test_the_lines_for_a_card(spm_folder: Path) -> None:
    line = describe(choose(spm_folder, Wish(), machine=cards(3 * GIB)), EN)
    assert re.fullmatch(
        r"tiny-Q8_0.gguf: the best of 2 levels; it needs 61\d MiB of the 3.0 GiB of free GPU memory", line
    )
    line = describe(choose(spm_folder, Wish(gpu_layers=2), machine=cards(100 * MIB, ram=0)), EN)
    assert "100 MiB of GPU memory are free; with 2 of 3 layers there it will be slow" in line


def choices(gpu: bool) -> dict[Reason, Choice]:
    """A choice for each reason that depends on memory, of two levels or one."""
    models = (made("F16", layers=32), made("Q4_K_M", layers=16))
    models[1].__dict__["weights"] = made("x", layers=16).weights
    enough = [amount_for(one, on(0, gpu)) for one in models]
    found = {}
    for reason, size, some in [
        (Reason.ONLY, enough[0], models[:1]),
        (Reason.BEST, enough[0], models),
        (Reason.FITTING, enough[1], models),
        (Reason.NONE, 0, models),
    ]:
        ranking = rank(some, Wish(), on(size, gpu))
        plan = (ranking.plans or ranking.refused[-1:])[0]
        found[reason] = Choice(plan, reason, ranking, tuple(some))
    unknown = rank(models, Wish(), Machine(None))
    found[Reason.UNKNOWN] = Choice(unknown.plans[0], Reason.UNKNOWN, unknown, models)
    found[Reason.NAMED] = replace(found[Reason.ONLY], reason=Reason.NAMED)
    return found


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("language", LANGUAGES)
def test_each_reason_has_its_line(language: str, gpu: bool) -> None:
    found = choices(gpu)
    assert {*found, Reason.FILE} == set(Reason)
    lines = {reason: describe(choice, Texts(language)) for reason, choice in found.items()}
    assert len(set(lines.values())) == len(lines)
    for reason, line in lines.items():
        assert "{" not in line
        assert found[reason].path.name in line
    assert lines[Reason.FITTING].count("made-Q4_K_M.gguf") == 1
    assert "F16" in lines[Reason.FITTING]
    words = {("en", False): "of memory", ("en", True): "GPU memory", ("zh", False): "内存", ("zh", True): "显存"}
    assert words[language, gpu] in lines[Reason.NONE]


def test_the_next_better_level_is_named_and_not_a_lower_one() -> None:
    """Most of F16 fits the card; what does not fit as it should be is Q2_K as well, but that is no better."""
    models = (made("F16", layers=32), made("Q2_K", layers=32))
    models[1].__dict__["weights"] = made("x", layers=28).weights
    machine = cards(amount_for(models[0], cards(0)) * 8 // 10)
    ranking = rank(models, Wish(), machine)
    assert (ranking.plans[0].model.level, ranking.plans[0].whole) == ("F16", False)
    assert [one.model.level for one in ranking.refused] == ["F16", "Q2_K"]
    line = describe(Choice(ranking.plans[0], Reason.FITTING, ranking, models), EN)
    assert line.startswith("made-F16.gguf: the best of 2 levels; it needs")
    assert re.search(r"; given up for it: .*\d+ of 33 layers on the GPU$", line)
    assert "Q2_K" not in line


def test_what_a_chosen_level_gave_up_is_said(spm_folder: Path) -> None:
    (only,) = [one for one in choices(False).values() if one.reason is Reason.ONLY]
    model = only.plan.model
    for flash, less, less_zh in (
        ("auto", "flash attention (slower here)", "改用 flash attention（在这里较慢）"),
        ("on", "q8_0 KV instead of f16", "KV 缓存用 q8_0，不用 f16"),
    ):
        wish = Wish(flash_attn=flash)
        (ideal,) = rank([model], wish, NOTHING).refused
        ranking = rank([model], wish, Machine(weighing(ideal, PLENTY) + SPARE - 1))
        choice = Choice(ranking.plans[0], Reason.ONLY, ranking, (model,))
        assert describe(choice, EN).endswith(f"; given up for it: {less}")
        assert describe(choice, ZH).endswith(f"；为此让步：{less_zh}")


def plan_of(model: Candidate, parallel: int = 1, **setup: object) -> Plan:
    return planned(model, Setup(**{"n_ctx": 8192, "gpu_layers": 41, **setup}), parallel, cards(GIB))  # type: ignore[arg-type]


def test_all_that_can_be_given_up() -> None:
    (lower,) = named("13b", "Q3_K_M")
    before = plan_of(Q4, 16)
    assert given_up(before, before, EN) == ""
    after = plan_of(Q4, 4, n_ctx=2048, kv="q8_0", gpu_layers=30)
    assert given_up(before, after, EN) == (
        "4 at once instead of 16, q8_0 KV instead of f16, 30 of 41 layers on the GPU, "
        "2,048 tokens of context instead of 8,192"
    )
    assert given_up(before, after, ZH) == (
        "同时处理 4 个，不是 16 个，KV 缓存用 q8_0，不用 f16，41 层中只有 30 层放进显存，"
        "上下文 2,048 个 token，不是 8,192 个"
    )
    assert given_up(before, plan_of(lower, 16, gpu_layers=3), EN) == "level Q3_K_M instead of Q4_K_M"
    assert given_up(after, before, EN) == "f16 KV instead of q8_0"  # the only one of them that has no less and more
    assert joined(["a", "b"], EN) == "a, b"
    assert joined(["a", "b"], ZH) == "a，b"


def test_a_refusal_says_what_would_fit() -> None:
    def sentence(machine: Machine, texts: Texts = EN, **wish: object) -> str:
        ranking = rank([Q4], Wish(**wish), machine)  # type: ignore[arg-type]
        return refusal(ranking.refused[0], ranking, "13B Q4_K_M", texts)

    size = r"\d+\.\d GiB"
    assert re.fullmatch(
        rf"13B Q4_K_M needs {size} at 4,096; with q8_0 KV instead of f16, \d\d of 41 layers on the GPU "
        r"it fits 8.0 GiB, slower",
        sentence(cards(8 * GIB)),
    )
    assert sentence(cards(GIB // 2, ram=16 * GIB)).endswith("GiB of main memory it fits 16.0 GiB, slower")
    assert re.fullmatch(
        rf"13B Q4_K_M needs {size} at 4,096; with q8_0 KV instead of f16 it fits 10.0 GiB", sentence(cards(10 * GIB))
    )
    assert re.fullmatch(
        rf"13B Q4_K_M 在 4,096 个 token 时需要 {size}；.*，就能放进 8.0 GiB，但较慢", sentence(cards(8 * GIB), ZH)
    )
    assert re.fullmatch(
        rf"13B Q4_K_M 在 4,096 个 token 时需要 {size}；.*，就能放进 10.0 GiB", sentence(cards(10 * GIB), ZH)
    )
    assert re.fullmatch(
        rf"13B Q4_K_M needs {size} at 16,384; 8.0 GiB is not enough for any of it",
        sentence(Machine(8 * GIB), ctx=16384),
    )
    assert sentence(NOTHING, ZH).endswith("；0 MiB 怎么都放不下")


def test_what_is_noted_where_nobody_reads_the_reasons(spm_folder: Path) -> None:
    file = spm_folder / "tiny-F32.gguf"

    def notes(model: Path, machine: Machine, texts: Texts = EN, level: str | None = None, **wish: int) -> list[str]:
        return noted(choose(model, Wish(**wish), level, machine), texts)

    assert notes(file, PLENTY) == notes(file, Machine(None)) == []
    lines = ["tiny-F32.gguf needs 70 MiB as asked for, and 5 MiB are free: it may fail or be very slow"]
    assert notes(file, Machine(5 * MIB)) == notes(spm_folder, Machine(5 * MIB), level="F32") == lines
    assert notes(file, Machine(5 * MIB), ZH)[0].startswith("tiny-F32.gguf 按要求需要 70 MiB")
    (full,) = notes(file, cards(8 * GIB, ram=MIB), gpu_layers=3)
    assert re.search(r"needs 49\d MiB as asked for, and 1 MiB are free", full)  # with CUDA's libraries
    (crowded,) = notes(file, cards(MIB, ram=8 * GIB), gpu_layers=3)
    assert re.search(r"needs 70\d MiB as asked for, and 1 MiB are free", crowded)


@pytest.mark.parametrize("texts", [EN, ZH], ids=LANGUAGES)
def test_what_is_less_than_usual_is_noted(texts: Texts) -> None:
    ranking = rank([Q4], Wish(), Machine(amount_for(Q4, PLENTY) - 1))
    (line,) = noted(Choice(ranking.plans[0], Reason.FILE, ranking, (Q4,)), texts)
    assert texts("plan.less_flash") in line
    assert line.startswith("13b Q4_K_M")
    assert "{" not in line


def test_a_plan_in_one_cell() -> None:
    assert in_short(plan_of(Q4), EN) == "Q4_K_M, 8,192"
    part = plan_of(Q4, 16, kv="q8_0", gpu_layers=36)
    assert in_short(part, EN) == "Q4_K_M, 8,192, 16 at once, q8_0 KV, 36 of 41 layers"
    assert in_short(part, ZH) == "Q4_K_M，8,192，并行 16，q8_0 KV，41 层中的 36 层"


def test_what_weighs() -> None:
    setup = Setup(4096, gpu_layers=41)
    for machine in (cards(GIB), cards(GIB, GIB), Machine(GIB)):
        plan = planned(Q4, setup, 1, machine)
        assert weighing(plan, machine) == (plan.need.on_gpus if machine.gpus else plan.need.host).total
    assert Ranking(NOTHING).refused == ()
