"""The `stellar` command: options, the commands of all packages by name, and how failures end the process.

Commands of `convert` and `train` are mounted lazily, so that `stellar --help`, `chat` and `batch` never import torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from . import __version__, console
from .config import RuntimeOptions, SamplingOptions, read_config, resolve, specs
from .errors import ExitCode, StellarError, UsageError
from .files import explain

# name → (module, attribute, the line in `stellar --help`)
_MOUNTED = {
    "quickstart": ("stellar_local.cli", "quickstart", "Run the whole pipeline on a small bundled model."),
    "chat": ("stellar_local.cli", "chat", "Talk with a model."),
    "batch": ("stellar_local.cli", "batch", "Answer prompts from stdin, one JSON object a line."),
    "train": ("train.cli", "train", "Turn instruction triples into a LoRA adapter."),
    "data": ("train.cli", "data", "Build training files."),
    "convert": ("convert.cli", "convert", "Merge adapters into a base and export GGUF levels."),
    "import-gguf": ("convert.cli", "import_gguf", "Turn a GGUF into a Hugging Face base."),
}
_ROOT = Path(__file__).resolve().parent.parent
_WIDTH = 100

Function = TypeVar("Function", bound=Callable[..., Any])


def _own_package(name: str) -> None:
    """Import our package `name` from beside this one: a train.py in the user's folder must not take its place."""
    folder = _ROOT / name
    if str(getattr(sys.modules.get(name), "__file__", "")) == str(folder / "__init__.py"):
        return
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise StellarError(f"the package {name} is missing beside {__package__}", "reinstall stellar-local")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


class _Commands(click.Group):
    """A group that imports a command only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MOUNTED)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MOUNTED:
            return None
        module, attribute, _ = _MOUNTED[cmd_name]
        if module == __package__ + ".cli":
            command = globals()[attribute]
        else:
            _own_package(module.partition(".")[0])
            command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _MOUNTED.items()])


def options_of(kind: type[Any], only: Sequence[str] = ()) -> Callable[[Function], Function]:
    """A decorator that adds an options class's flags to a command; their values are checked by `resolve`."""

    def decorate(function: Function) -> Function:
        for name, (item, spec) in reversed(specs(kind).items()):
            if only and name not in only:
                continue
            known = item.default is not None and item.default != ()
            first = "the model's, or " if spec.key else ""
            help = f"{spec.help} [default: {first}{item.default}]" if known else spec.help
            flag, metavar = f"--{name.replace('_', '-')}", spec.metavar or "|".join(spec.choices)
            function = click.option(flag, name, metavar=metavar, multiple=spec.many, help=help)(function)
        return function

    return decorate


_verbose = click.option("-v", "--verbose", is_flag=True, help="Show llama.cpp's log on stderr.")
_system = click.option("--system", metavar="TEXT", help="System line instead of the template's own; '' for none.")
_model = click.argument("model", type=click.Path(path_type=Path))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _WIDTH})
@click.version_option(__version__, prog_name="stellar")
def stellar() -> None:
    """Make and run the astronomy model StellarSpeak (星语者) on your own machine.

    \b
    Example: stellar quickstart --dir demo
             stellar chat demo/model
    """


def _open(model: Path, flags: dict[str, Any], verbose: bool) -> tuple[Any, SamplingOptions]:
    """Resolve options, choose the file and open it: (Runtime, sampling options)."""
    config = read_config()
    runtime_options = resolve(RuntimeOptions, flags, config)
    resolve(SamplingOptions, flags, config)  # a wrong value is told now, before the slow part
    from .native.library import set_verbose
    from .plan.choose import choose_model
    from .session import DEFAULT_CONTEXT, Runtime

    set_verbose(verbose)
    path = choose_model(model, runtime_options.level, runtime_options.ctx or DEFAULT_CONTEXT)
    runtime = Runtime(path, runtime_options)
    for note in runtime.notes:
        console.warn(note)
    return runtime, resolve(SamplingOptions, flags, config, model=runtime.sampling)


@click.command()
@_model
@click.option("--prompt", metavar="TEXT", help="Answer this one message on stdout and leave.")
@_system
@options_of(RuntimeOptions)
@options_of(SamplingOptions)
@_verbose
def chat(model: Path, prompt: str | None, system: str | None, verbose: bool, **flags: Any) -> None:
    """Talk with MODEL, a .gguf file or a folder made by `stellar convert`.

    Answers stream to stdout. The conversation is remembered until /clear; Ctrl-C stops an answer.

    \b
    Example: stellar chat demo/model
             stellar chat model.gguf --prompt '什么是黑洞？' --temperature 0
    """
    if prompt is not None and not prompt.strip():
        raise UsageError("--prompt is empty", "give a message, or leave --prompt out to chat")
    from .chat.commands import COMMANDS
    from .chat.loop import chat as run_chat
    from .chat.loop import converse
    from .chat.terminal import PlainTerminal, open_terminal
    from .session import Conversation

    runtime, sampling = _open(model, flags, verbose)
    with runtime:
        conversation = Conversation(runtime, sampling, system)
        if prompt is not None:
            converse(conversation, PlainTerminal(), prompt)
            return
        terminal = open_terminal(list(COMMANDS))
        if terminal.interactive:
            size = runtime.engine.context.n_ctx
            terminal.note(f"{runtime.model.path.name} · context {size} · template {runtime.template.name} · /help")
        run_chat(conversation, terminal)


@click.command()
@_model
@_system
@options_of(RuntimeOptions)
@options_of(SamplingOptions)
@_verbose
def batch(model: Path, system: str | None, verbose: bool, **flags: Any) -> None:
    """Answer prompts from stdin with MODEL: one JSON object a line on stdout, in order.

    Input is plain text, a prompt a line, or JSON lines: `prompt`, or `messages`, or `instruction` with `input`;
    optional `id`, `system` and the sampling options (`max_tokens` …). A broken line gives an error object on its
    line; the exit code is then 1.

    \b
    Example: printf 'What is a parsec?\\n什么是光年？\\n' | stellar batch demo/model --temperature 0
    """
    from .batch.reader import read_items
    from .batch.runner import Summary, run_batch
    from .batch.writer import LineWriter

    runtime, sampling = _open(model, flags, verbose)
    summary = Summary()
    with runtime:
        writer = LineWriter(sys.stdout.buffer)
        for record in run_batch(runtime, read_items(sys.stdin.buffer, sampling, system), summary):
            writer.write(record)
    console.say(
        f"{summary.answered} answered, {summary.failed} failed, "
        f"{summary.prompt_tokens} prompt and {summary.completion_tokens} completion tokens"
    )
    if summary.failed:
        raise SystemExit(ExitCode.FAILED)


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    metavar="DIR",
    help="Where everything goes; run again, finished steps are reused.",
)
def quickstart(folder: Path) -> None:
    """Run the whole pipeline on SmolLM2-135M: import, train, convert, compare.

    Needs no GPU and no network. Killed in the middle, it goes on where it was.

    \b
    Example: stellar quickstart --dir demo
    """
    from .quickstart import run

    run(folder)


def _usage(arguments: Sequence[str]) -> str:
    """The help command that fits a wrong command line."""
    named = [name for name in arguments[:1] if name in _MOUNTED]
    return " ".join(["stellar", *named, "--help"]) + " shows what is possible"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; every failure becomes a sentence on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    console.restore_streams()
    console.use_utf8(sys.stdin, sys.stdout, sys.stderr)
    try:
        # Not click's own main(): it would end a closed pipe with 1 and turn Ctrl-C into an exception of its own.
        with stellar.make_context("stellar", list(arguments)) as context:
            stellar.invoke(context)
        return ExitCode.DONE
    except StellarError as error:
        if isinstance(error, UsageError) and not error.hint:
            error.hint = _usage(arguments)
        console.show_error(error)
        return error.exit_code
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        console.say(error.format_message())
        return ExitCode.USAGE
    except click.ClickException as error:
        console.show_error(UsageError(error.format_message().rstrip("."), _usage(arguments)))
        return ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        console.say("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except OSError as error:  # files name themselves; what is left is the output stream
        console.show_error(explain(error, error.filename or "the output", "write"))
        return ExitCode.FAILED
    except MemoryError:
        console.show_error(StellarError("not enough memory", "close other programs, or ask for less at once"))
        return ExitCode.FAILED
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else ExitCode.FAILED
    except Exception as error:
        if os.environ.get("STELLAR_TRACEBACK"):
            raise
        console.show_error(
            StellarError(f"internal error: {type(error).__name__}: {error}", "set STELLAR_TRACEBACK=1 for details")
        )
        return ExitCode.FAILED


if __name__ == "__main__":
    raise SystemExit(main())
