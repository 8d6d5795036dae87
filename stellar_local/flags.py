"""What commands that run a model share: flags made from the options' definitions, and opening the model they name.

Knows click and the options; knows nothing of what a command then does with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import console
from .config import Options, RuntimeOptions, SamplingOptions, read_config, resolve
from .errors import UsageError
from .files import require_file
from .spec import specs
from .texts import Texts

if TYPE_CHECKING:
    from .plan.choose import Plan, Wish
    from .plan.opening import Choice
    from .runtime import Runtime

Function = TypeVar("Function", bound=Callable[..., Any])


def options_of(
    kind: type[Any], without: Sequence[str] = (), defaults: Mapping[str, Any] | None = None
) -> Callable[[Function], Function]:
    """A decorator that adds an options class's flags to a command; their values are checked by `resolve`.

    `defaults` are those that the command has in the place of the options' own and the model's.
    """

    def decorate(function: Function) -> Function:
        for name, (item, spec) in reversed(specs(kind).items()):
            if name in without:
                continue
            own = (defaults or {}).get(name, item.default)
            known = own is not None and own != ()
            first = "the model's, or " if spec.key and defaults is None else ""
            help = f"{spec.help} [default: {first}{own}]" if known else spec.help
            flag, metavar = f"--{name.replace('_', '-')}", spec.metavar or "|".join(spec.choices)
            repeated = spec.many and not spec.separator
            function = click.option(flag, name, metavar=metavar, multiple=repeated, help=help)(function)
        return function

    return decorate


MOST_PARALLEL = 64  # requests at once
parallel_option = click.option(
    "--parallel",
    type=click.IntRange(1, MOST_PARALLEL),
    metavar="N",
    help=f"Lines answered at once, 1 to {MOST_PARALLEL} "
    f"[default: 16, or what fits; up to {MOST_PARALLEL} on a graphics card].",
)
per_request_option = click.option(
    "--per-request",
    type=click.IntRange(16, 1 << 20),
    metavar="N",
    help="Give each line answered at once a context of N tokens of its own, instead of sharing --ctx: faster with many "
    "on a GPU.",
)
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show llama.cpp's log on stderr.")
system_option = click.option("--system", metavar="TEXT", help="System line instead of the template's own; '' for none.")
model_argument = click.argument("model", type=click.Path(path_type=Path))


def wish_of(
    options: RuntimeOptions,
    parallel: int | None = 1,
    deterministic: bool = False,
    per_request: int | None = None,
    outputs: int = 0,
) -> Wish:
    """What options fix of a plan. Raises UsageError for what cannot go together, ModelError for a missing adapter."""
    from .native.attention import check_attention
    from .plan.choose import Wish
    from .runtime import DEFAULT_KV, check_batch, parse_adapter

    adapters = [parse_adapter(text)[0] for text in options.lora]
    for path in adapters:
        require_file(path, "adapter", "check the path given with --lora")
    check_attention(options.kv or DEFAULT_KV, options.flash_attn)
    check_batch(options.batch_size, parallel or 1)
    if per_request and options.ctx:
        raise UsageError("--per-request takes the place of --ctx", "leave one of them out")
    return Wish(
        ctx=options.ctx,
        kv=options.kv,
        gpu_layers=options.gpu_layers,
        parallel=1 if deterministic else parallel,
        per_request=per_request,
        separate=deterministic,
        n_batch=options.batch_size,
        # An answer that depends on nothing but its line depends on no free memory.
        flash_attn="on" if deterministic and options.flash_attn == "auto" else options.flash_attn,
        split=options.tensor_split,
        lora=sum(path.stat().st_size for path in adapters),
        outputs=outputs,
    )


def fits_beside(model: Path, options: RuntimeOptions) -> bool:
    """Whether what MODEL names surely fits, whole, in what is free now, beside all that runs. Raises StellarError."""
    from .plan.opening import choose

    plan = choose(model, wish_of(options), options.level).plan
    return plan.fits and plan.whole


class Setup:
    """What the user asked for when a command started: it opens models, now or later, and says how to sample from them.

    Raises UsageError for a wrong value at once, before the slow part.
    """

    def __init__(self, flags: dict[str, Any], verbose: bool) -> None:
        self._flags, self._config, self._verbose = flags, read_config(), verbose
        self.runtime = resolve(RuntimeOptions, flags, self._config)
        resolve(SamplingOptions, flags, self._config)

    def options(self, kind: type[Options]) -> Options:
        """Another class of options, from the same sources."""
        return resolve(kind, self._flags, self._config)

    def open(
        self,
        model: Path,
        options: RuntimeOptions | None = None,
        tell: Callable[[Choice], None] | None = None,
        texts: Texts | None = None,
        parallel: int | None = 1,
        deterministic: bool = False,
        per_request: int | None = None,
        outputs: int = 0,
    ) -> Runtime:
        """Plan how to run MODEL, tell it, and open it so, or with less where memory turns out to be short.

        `parallel` None lets the plan say how many requests run at once. `outputs` are the logits of prompts wanted at
        once, by those that measure.
        """
        from .native.library import set_verbose
        from .plan.explain import describe, given_up, noted
        from .plan.opening import choose, open_fitting, prove
        from .runtime import Runtime

        options, texts = options or self.runtime, texts or Texts("en")
        set_verbose(self._verbose)
        wish = wish_of(options, parallel, deterministic, per_request, outputs)
        choice = choose(model, wish, options.level)
        if tell:
            tell(choice)
        elif self._verbose and (reason := describe(choice, texts)):
            console.say(reason)

        def make(plan: Plan) -> Runtime:
            setup = plan.setup
            return Runtime(
                plan.model.path,
                replace(
                    options,
                    ctx=None if per_request else setup.n_ctx,
                    kv=setup.kv,
                    gpu_layers=None if plan.whole else setup.gpu_layers,
                    flash_attn=setup.flash_attn if options.flash_attn == "auto" else options.flash_attn,
                    tensor_split=setup.split,
                ),
                parallel=plan.parallel,
                deterministic=deterministic,
                per_request=setup.n_ctx // plan.parallel if per_request else None,
                prove=prove,
                outputs=outputs,
            )

        runtime, plan = open_fitting(choice, wish, make)
        notes = [texts("plan.damaged", reason=problem.message) for problem in choice.problems]
        if plan is not choice.plan:
            what = given_up(choice.plan, plan, texts)
            notes.append(texts("plan.short", file=plan.model.path.name, what=what))
        elif not tell or not describe(choice, texts):
            notes += noted(choice, texts)
        runtime.notes[:0] = notes
        return runtime

    def sampling(self, model: Mapping[str, Any]) -> SamplingOptions:
        """How to sample; `model` holds the model's own defaults."""
        return resolve(SamplingOptions, self._flags, self._config, model=model)


def open_runtime(model: Path, flags: dict[str, Any], verbose: bool, **more: Any) -> tuple[Runtime, SamplingOptions]:
    """Resolve options, choose the file and open it: (Runtime, sampling options). `more` goes to Runtime as it is."""
    setup = Setup(flags, verbose)
    runtime = setup.open(model, **more)
    for note in runtime.notes:
        console.warn(note)
    return runtime, setup.sampling(runtime.sampling)
