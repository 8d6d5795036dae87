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
from .spec import specs
from .texts import Texts

if TYPE_CHECKING:
    from .plan.choose import Choice
    from .runtime import Runtime

Function = TypeVar("Function", bound=Callable[..., Any])


def options_of(kind: type[Any], without: Sequence[str] = ()) -> Callable[[Function], Function]:
    """A decorator that adds an options class's flags to a command; their values are checked by `resolve`."""

    def decorate(function: Function) -> Function:
        for name, (item, spec) in reversed(specs(kind).items()):
            if name in without:
                continue
            known = item.default is not None and item.default != ()
            first = "the model's, or " if spec.key else ""
            help = f"{spec.help} [default: {first}{item.default}]" if known else spec.help
            flag, metavar = f"--{name.replace('_', '-')}", spec.metavar or "|".join(spec.choices)
            repeated = spec.many and not spec.separator
            function = click.option(flag, name, metavar=metavar, multiple=repeated, help=help)(function)
        return function

    return decorate


verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show llama.cpp's log on stderr.")
system_option = click.option("--system", metavar="TEXT", help="System line instead of the template's own; '' for none.")
model_argument = click.argument("model", type=click.Path(path_type=Path))


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
        **more: Any,
    ) -> Runtime:
        """Choose the file that MODEL names, tell which, and open it; `more` goes to Runtime as it is."""
        from .native.library import set_verbose
        from .plan.choose import choose_model, describe
        from .runtime import Runtime, asked_cells

        options = options or self.runtime
        set_verbose(self._verbose)
        cells = asked_cells(options, more.get("parallel", 1), more.get("per_request"))
        choice = choose_model(model, options.level, cells, kv_type=options.kv, gpu_layers=options.gpu_layers)
        if options.gpu_layers is None and choice.gpu_layers is not None:
            options = replace(options, gpu_layers=choice.gpu_layers)  # all of them would not load
        if tell:
            tell(choice)
        elif self._verbose and (reason := describe(choice, Texts("en"))):
            console.say(reason)
        return Runtime(choice.path, options, **more)

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
