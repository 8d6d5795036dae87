"""`stellar plan`: what fits, as a table or as JSON. Knows the command line and how plans are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import console
from .config import ChatOptions, RuntimeOptions
from .errors import ExitCode, UsageError
from .flags import Setup, options_of, parallel_option, per_request_option, wish_of
from .texts import Texts, language_of

if TYPE_CHECKING:
    from .native.devices import Device
    from .plan.choose import Plan, Ranking, Wish
    from .plan.hardware import Machine
    from .plan.models import Candidate

USES = ("chat", "batch")


@click.command()
@click.argument("model", required=False)
@click.option("--vram", metavar="SIZE", help="Plan for a card of this free memory, as 8GiB; several: 12GiB,8GiB.")
@click.option("--ram", metavar="SIZE", help="Plan for this much free main memory.")
@click.option("--for", "use", type=click.Choice(USES), help="For one use only [default: both].")
@parallel_option
@per_request_option
@click.option("--cards", is_flag=True, help="What to run on common cards.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@options_of(RuntimeOptions, without=("template", "threads"))
@options_of(ChatOptions, without=("overflow", "style", "keys", "kv_cache"))
def plan(model: str | None, use: str | None, cards: bool, as_json: bool, **flags: Any) -> None:
    """What fits this machine, or a card that you may buy: which level of MODEL, and how to run it.

    MODEL is a .gguf file, of which the header is enough, a folder made by stellar convert, or a size: 7b, 8b, 13b.
    The first row of each table is what stellar chat and stellar batch do without options; what you fix is kept, and
    checked. The exit code is 1 if nothing fits.

    \b
    Example: stellar plan demo/model
             stellar plan 13b --vram 12GiB
             stellar plan --cards
    """
    setup = Setup(flags, verbose=False)
    texts = Texts(setup.options(ChatOptions).ui_lang or language_of())
    if cards:
        if model is not None:
            raise UsageError("--cards plans for BayLing's sizes", "leave MODEL out, or give --vram in its place")
        if given := [name for name, value in flags.items() if value not in (None, ()) and name != "ui_lang"]:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UsageError(f"--cards takes no other options, as {names}", "stellar plan 7b --vram SIZE takes them")
        _show_cards(texts, as_json)
        return
    if not model:
        raise UsageError("plan what? No MODEL is given", "give a .gguf, a folder, or 7b, 8b or 13b; or --cards")
    if use == "chat" and (flags["parallel"] or flags["per_request"]):
        raise UsageError("--parallel and --per-request are batch's", "leave --for chat out")
    machine = _machine(flags, setup.runtime.gpu_layers != 0)
    models = _models(model, setup.runtime.level)
    found = {one: _ranked(models, wish, machine) for one, wish in _wishes(setup.runtime, flags) if use in (None, one)}
    if as_json:
        click.echo(json.dumps(_values(found, machine, texts), ensure_ascii=False))
    else:
        _show(found, model, machine, texts)
    if not all(ranking.plans for ranking in found.values()):
        raise SystemExit(ExitCode.FAILED)


def _machine(flags: dict[str, Any], on_gpu: bool) -> Machine:
    """The cards that are stated, else this machine."""
    from dataclasses import replace

    from .plan.hardware import available_memory, parse_sizes, stated_machine, this_machine

    sizes = [] if flags["ram"] is None else parse_sizes(flags["ram"], "--ram")
    if len(sizes) > 1:
        raise UsageError("--ram is one size", "several cards are stated with --vram")
    ram = sizes[0] if sizes else None
    if flags["vram"] is not None:
        # Beside a card that is stated, the main memory is this machine's, unless that is stated too.
        cards = parse_sizes(flags["vram"], "--vram")
        return stated_machine(cards, available_memory() if ram is None else ram)
    machine = this_machine(on_gpu)
    return machine if ram is None else replace(machine, ram=ram, stated=not machine.gpus)


def _models(model: str, level: str | None) -> list[Candidate]:
    from .plan.models import candidates, is_size, named

    if is_size(model):
        return named(model, level)
    problems: list[Any] = []
    found = candidates(Path(model), level, problems)
    for problem in problems:
        console.warn(problem.message)
    for one in found:
        if one.header.file_size < one.header.full_size:
            have, all = console.amount(one.header.file_size), console.amount(one.header.full_size)
            console.warn(f"{one.path.name} is not complete ({have} of {all}): planned from its header")
    return found


def _wishes(options: RuntimeOptions, flags: dict[str, Any]) -> Iterator[tuple[str, Wish]]:
    yield "chat", wish_of(options, 1)
    yield "batch", wish_of(options, flags["parallel"], per_request=flags["per_request"])


def _ranked(models: Sequence[Candidate], wish: Wish, machine: Machine) -> Ranking:
    """The plans; on this machine with llama.cpp's own word on their buffers."""
    from .plan.choose import rank
    from .plan.opening import probed

    ranking = rank(models, wish, machine)
    return ranking if machine.stated else probed(models, wish, machine, ranking, len(ranking.plans))


def _show(found: dict[str, Ranking], model: str, machine: Machine, texts: Texts) -> None:
    from .plan.explain import refusal

    for line in _described(machine, texts):
        click.echo(line)
    for use, ranking in found.items():
        click.echo("")
        click.echo(texts(f"plan.for_{use}"))
        if ranking.plans:
            _table(ranking.plans, machine, texts)
        for one in _too_large(ranking):
            name = f"{Path(model).name.upper() if one.model.named else ''} {one.model.level}".strip()
            click.echo("  " + refusal(one, ranking, name if one.model.named else one.model.path.name, texts))


def _described(machine: Machine, texts: Texts) -> list[str]:
    """What is planned for."""
    lines = [
        texts("plan.gpu", name=device.name, what=console.one_line(device.description), free=console.amount(device.free))
        for device in machine.gpus
    ]
    if machine.ram is not None:
        lines.append(texts("plan.ram", free=console.amount(machine.ram)))
    return lines or [texts("plan.nothing_known")]


def _table(plans: Sequence[Plan], machine: Machine, texts: Texts) -> None:
    gpu, lora = bool(machine.gpus), any(plan.need.all.lora for plan in plans)
    heads = ["level", *(["layers"] if gpu else []), "context", "kv_type", "parallel", "weights", "kv", "compute"]
    heads += [*(["runtime", "on_gpu", "in_ram"] if gpu else ["program", "in_ram"]), *(["lora"] if lora else []), "loss"]
    rows = []
    for one in plans:
        place = one.need.on_gpus if gpu else one.need.host
        cells = [one.model.level, *([f"{one.setup.gpu_layers}/{one.model.weights.layers}"] if gpu else [])]
        cells += [f"{one.setup.n_ctx:,}", one.setup.kv, str(one.parallel)]
        cells += [_gib(size) for size in (place.weights, place.kv, place.compute, place.runtime)]
        cells += [*([_gib(place.total)] if gpu else []), _gib(one.need.host.total)]
        rows.append([*cells, *([_gib(one.need.all.lora)] if lora else []), _lost(one, texts)])
    console.table([texts(f"plan.head_{head}") for head in heads], rows, file=sys.stdout, lines=False)


def _too_large(ranking: Ranking) -> list[Plan]:
    """The refused ones of which it is known that they do not fit."""
    return [plan for plan in ranking.refused if plan.short is not None]


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2f}"


def _lost(plan: Plan, texts: Texts) -> str:
    from .plan.quality import describe

    return describe(plan.loss, texts)


def _show_cards(texts: Texts, as_json: bool) -> None:
    from .plan.cards import card_plans
    from .plan.explain import in_short
    from .plan.shapes import SHAPES

    found = {use: list(card_plans(parallel)) for use, parallel in zip(USES, (1, None), strict=True)}
    if as_json:
        values = {
            use: [
                {"card": card.kind, "gib": card.size, "computed_only": card.computed}
                | {name: plan and _value(plan) for name, plan in plans.items()}
                for card, plans in rows
            ]
            for use, rows in found.items()
        }
        click.echo(json.dumps(values, ensure_ascii=False))
        return
    for use, rows in found.items():
        click.echo(texts(f"plan.for_{use}"))
        cells = [
            [
                f"{card.kind} {card.size} {'GB' if card.computed else 'GiB'}{' *' if card.computed else ''}",
                *(texts("plan.no_way") if plan is None else in_short(plan, texts) for plan in plans.values()),
            ]
            for card, plans in rows
        ]
        console.table([texts("plan.head_card"), *(name.upper() for name in SHAPES)], cells, file=sys.stdout)
    click.echo(texts("plan.cards_computed"))


def _values(found: dict[str, Ranking], machine: Machine, texts: Texts) -> dict[str, Any]:
    """Everything for a script: bytes, and the fields' English names."""
    from .plan.explain import refusal

    return {
        "machine": {"ram": machine.ram, "gpus": [_card(device) for device in machine.gpus], "stated": machine.stated},
        **{
            use: {
                "plans": [_value(plan) for plan in ranking.plans],
                "refused": [
                    _value(plan) | {"reason": refusal(plan, ranking, plan.model.path.name, texts)}
                    for plan in _too_large(ranking)
                ],
            }
            for use, ranking in found.items()
        },
    }


def _card(device: Device) -> dict[str, Any]:
    return {name: value for name, value in asdict(device).items() if name != "handle"}


def _value(plan: Plan) -> dict[str, Any]:
    setup, loss = plan.setup, plan.loss
    return {
        "model": str(plan.model.path),
        "level": plan.model.level,
        "gpu_layers": setup.gpu_layers,
        "layers": plan.model.weights.layers,
        "ctx": setup.n_ctx,
        "kv": setup.kv,
        "flash": setup.flash,
        "parallel": plan.parallel,
        "memory": {place: asdict(parts) | {"total": parts.total} for place, parts in plan.need.places.items()},
        "probed": plan.need.probed,
        "fits": plan.fits,
        "spare": None if plan.short is None else -plan.short,
        "loss_percent": None if loss.percent is None else round(loss.percent, 3),
        "loss_published": loss.measured,
    }
