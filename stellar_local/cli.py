"""The `stellar` command: options, the commands of all packages by name, and how failures end the process.

Commands of `convert` and `train` are mounted lazily, so that `stellar --help`, `chat` and `batch` never import torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from . import __version__, console
from .errors import ExitCode, StellarError, UsageError
from .files import explain
from .mounting import Commands

# name → (module, attribute, the line in `stellar --help`)
_MOUNTED = {
    "quickstart": ("stellar_local.cli", "quickstart", "Run the whole pipeline on a small bundled model."),
    "chat": ("stellar_local.chat.command", "chat", "Talk with a model."),
    "batch": ("stellar_local.batch.command", "batch", "Answer prompts from a file or a pipe, many at once."),
    "plan": ("stellar_local.plan_command", "plan", "What fits this machine or a card, and how to run it."),
    "doctor": ("stellar_local.doctor.command", "doctor", "Say whether this installation works, and uses the GPU."),
    "train": ("train.cli", "train", "Turn instruction triples into a LoRA adapter."),
    "data": ("train.cli", "data", "Build training files."),
    "convert": ("convert.cli", "convert", "Merge adapters into a base and export GGUF levels."),
    "import-gguf": ("convert.cli", "import_gguf", "Turn a GGUF into a Hugging Face base."),
    "imatrix": ("convert.imatrix_command", "imatrix", "Measure which weights matter, for the lowest levels."),
    "eval": ("stellar_local.evaluate.command", "evaluate", "Measure how good models are, and report it."),
}
_WIDTH = 100


@click.group(
    cls=Commands,
    mounted=_MOUNTED,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _WIDTH},
)
@click.version_option(__version__, prog_name="stellar")
def stellar() -> None:
    """Make and run the astronomy model StellarSpeak (星语者) on your own machine.

    \b
    Example: stellar quickstart --dir demo
             stellar chat demo/model
    """


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
    command: click.Command | None = stellar
    named = ["stellar"]
    for name in arguments:
        command = command.get_command(click.Context(command), name) if isinstance(command, click.Group) else None
        if command is None:
            break
        named.append(name)
    return " ".join([*named, "--help"]) + " shows what is possible"


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
