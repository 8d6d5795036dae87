"""`stellar batch`: its options, checked before the model loads, and how a run is put together and ends."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from ..config import RuntimeOptions, SamplingOptions
from ..console import say, warn
from ..errors import ExitCode, RequestError, StellarError, UsageError
from ..files import read_text
from ..flags import (
    model_argument,
    open_runtime,
    options_of,
    parallel_option,
    per_request_option,
    system_option,
    verbose_option,
)
from .fields import Defaults, Item
from .reader import FORMATS as INPUT_FORMATS
from .reader import Shard, Source
from .table import PromptTemplate

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..runtime import Runtime
    from .report import Progress, Summary
    from .resume import Done

OUTPUT_FORMATS = ("jsonl", "text", "csv")
_FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class Settings:
    """What the command line asks of a run, checked; `deterministic` means that no line's answer depends on others."""

    source: Source
    defaults: Defaults
    out: Path | None
    format: str
    resume: bool
    retry: bool
    parallel: int | None  # None: as the plan says
    per_request: int | None
    deterministic: bool
    ordered: bool
    json: bool


@click.command()
@model_argument
@click.option("--in", "input", type=_FILE, metavar="FILE", help="Read this file instead of stdin.")
@click.option(
    "--input-format",
    type=click.Choice(INPUT_FORMATS),
    default="auto",
    show_default=True,
    help="auto: by the file's extension, else a first line that opens with { means JSON lines.",
)
@click.option(
    "--prompt-template",
    metavar="TEXT",
    help="Make prompts of a table's columns: 'Translate into {lang}: {text}'; {{ and }} are braces.",
)
@click.option("--schema", type=_FILE, metavar="FILE", help="JSON schema that answers must follow.")
@click.option("--grammar", type=_FILE, metavar="FILE", help="GBNF grammar that answers must follow.")
@click.option("--out", type=_FILE, metavar="FILE", help="Write here instead of stdout.")
@click.option(
    "--format",
    type=click.Choice(OUTPUT_FORMATS),
    default="jsonl",
    show_default=True,
    help="text: one line an answer, for reading. csv: a spreadsheet may run a cell that opens with = as a formula.",
)
@click.option("--resume", is_flag=True, help="Go on with what --out has already.")
@click.option("--retry-errors", is_flag=True, help="With --resume: run again what failed; its answers come last.")
@click.option("--shard", metavar="I/N", help="Answer every N-th line only, from the I-th on; indexes stay.")
@parallel_option
@per_request_option
@click.option(
    "--deterministic",
    is_flag=True,
    help="Answers that do not depend on which lines run together; one line at a time, slower.",
)
@click.option("--unordered", is_flag=True, help="Write answers as they finish, not in input order.")
@click.option("--dry-run", is_flag=True, help="Answer nothing: count tokens, predict memory and time.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON: on stdout with --out, else on stderr.")
@system_option
@options_of(RuntimeOptions)
@options_of(SamplingOptions)
@verbose_option
def batch(model: Path, system: str | None, verbose: bool, dry_run: bool, **flags: Any) -> None:
    """Answer prompts from stdin or a file with MODEL: one JSON object a line, in order.

    Input is plain text, a prompt a line; JSON lines: `prompt`, or `messages`, or `instruction` with `input`, optional
    `id`, `system`, `schema`, `grammar`, `lora` and the sampling options (`max_tokens` …); or a CSV or TSV table
    whose columns have those names, or fill --prompt-template. A broken line gives an error object on its line, and
    the exit code is then 1.

    Ctrl-C or SIGTERM finishes the lines in hand; a second one stops at once. With --out the same command and
    --resume go on.

    \b
    Example: printf 'What is a parsec?\\n什么是光年？\\n' | stellar batch demo/model --temperature 0
             stellar batch demo/model --in questions.jsonl --out answers.jsonl --resume
             stellar batch demo/model --in words.csv --prompt-template 'Translate into {lang}: {text}'
    """
    settings = _settings(system, flags)
    if dry_run:
        from .dry import dry_run as predict

        settings.source.check()
        runtime, defaults = _open(settings, model, flags, verbose)
        with runtime:
            predict(runtime, settings.source.items(defaults), runtime.engine.parallel, settings.json)
        return
    code = _run(settings, lambda: _open(settings, model, flags, verbose))
    if code:
        raise SystemExit(code)


def _settings(system: str | None, flags: Mapping[str, Any]) -> Settings:
    """Check what can be checked without the model. Raises UsageError, StellarError."""
    out, resume, deterministic = flags["out"], flags["resume"], flags["deterministic"]
    if resume and out is None:
        raise UsageError("--resume goes on with a file", "name it with --out FILE")
    if resume and flags["format"] != "jsonl":
        raise UsageError(f"--resume needs the ids that --format {flags['format']} does not keep", "use jsonl")
    if flags["retry_errors"] and not resume:
        raise UsageError("--retry-errors goes with --resume", "add --resume")
    if deterministic and (flags["parallel"] or 1) > 1:
        raise UsageError("--deterministic runs one line at a time", "leave --parallel out")
    if flags["per_request"] and (flags["ctx"] or deterministic):
        raise UsageError("--per-request takes the place of --ctx, and needs several lines at once", "leave one out")
    if flags["schema"] and flags["grammar"]:
        raise UsageError("answers can follow a schema or a grammar, not both", "leave one out")
    template = None if flags["prompt_template"] is None else PromptTemplate(flags["prompt_template"])
    source = Source(flags["input"], flags["input_format"], template, _shard(flags["shard"]))
    if out and source.path and out.exists() and out.samefile(source.path):
        raise UsageError("--in and --out are the same file", "choose another name for one")
    return Settings(
        source=source,
        defaults=Defaults(
            system=system,
            schema=_schema(flags["schema"]) if flags["schema"] else None,
            grammar=read_text(flags["grammar"], "grammar") if flags["grammar"] else None,
        ),
        out=out,
        format=flags["format"],
        resume=resume,
        retry=flags["retry_errors"],
        parallel=1 if deterministic else flags["parallel"],
        per_request=flags["per_request"],
        deterministic=deterministic,
        ordered=not flags["unordered"],
        json=flags["as_json"],
    )


def _shard(text: str | None) -> Shard:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", "1/1" if text is None else text, re.ASCII)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--shard must be I/N with I from 1 to N, not {text!r}", "the second of four is 2/4")
    return Shard(int(found[1]), int(found[2]))


def _schema(path: Path) -> dict[str, Any] | bool:
    try:
        data = json.loads(read_text(path, "schema"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the schema {path} is not JSON: {error}", "see https://json-schema.org") from error
    if not isinstance(data, (dict, bool)):
        raise UsageError(f"the schema {path} is no JSON schema: it must be an object", "see https://json-schema.org")
    return data


def _open(settings: Settings, model: Path, flags: dict[str, Any], verbose: bool) -> tuple[Runtime, Defaults]:
    """The model, and the defaults of lines with its own sampling options in them."""
    runtime, sampling = open_runtime(
        model,
        flags,
        verbose,
        parallel=settings.parallel,
        deterministic=settings.deterministic,
        per_request=settings.per_request,
    )
    try:
        _try(runtime, settings.defaults, sampling)
    except StellarError as error:
        runtime.close()
        raise UsageError(error.message, error.hint or "mend it, or leave it out") from error
    return runtime, replace(settings.defaults, sampling=sampling)


def _try(runtime: Runtime, defaults: Defaults, sampling: SamplingOptions) -> None:
    """Make a request as every line's will be made, so that what fails for all ends the run before the first."""
    from ..native.sampler import Sampler
    from ..prompts import Turn

    runtime.request([Turn("?")], sampling, defaults.system, schema=defaults.schema, grammar=defaults.grammar)
    Sampler(sampling, runtime.model).close()


def _run(settings: Settings, opened: Callable[[], tuple[Runtime, Defaults]]) -> ExitCode:
    """Answer everything; the exit code."""
    from .report import Progress, Summary
    from .resume import out_file
    from .writer import Writer

    source = settings.source
    source.check()

    def matches(done: Done) -> None:
        if source.size is not None:  # what comes through a pipe is compared on the way
            done.check(source.items(settings.defaults))

    with ExitStack() as stack:
        stream: IO[bytes] | Any = sys.stdout.buffer
        done: Done | None = None
        if settings.out:
            stream, done = stack.enter_context(
                out_file(settings.out, source.shard, matches, settings.resume, settings.retry)
            )
        runtime, defaults = opened()
        stack.enter_context(runtime)
        summary = Summary()
        progress = Progress(summary, source.size)
        writer = Writer(stream, settings.format)
        code = _answer(settings, runtime, defaults, writer.write, done, summary, progress)
    if done and code is None and done.count > summary.skipped:
        warn(f"{settings.out} has {done.count - summary.skipped} lines that this input lacks")
    if done:
        summary.failed_before = done.failed
    _tell(settings, summary, code)
    return code or (ExitCode.FAILED if summary.failed or summary.failed_before else ExitCode.DONE)


def _answer(
    settings: Settings,
    runtime: Runtime,
    defaults: Defaults,
    put: Callable[[Mapping[str, Any]], None],
    done: Done | None,
    summary: Summary,
    progress: Progress,
) -> ExitCode | None:
    """Run the lines that are not done; the exit code of the signal that ended it, if one did."""
    from .render import Renderer
    from .runner import Runner
    from .signals import orderly

    def items(waiting: Callable[[], None]) -> Iterator[Item]:
        for item in settings.source.items(defaults, waiting):
            if done is not None and done.has(item):
                with suppress(RequestError):  # what can no longer be asked, --ctx being smaller, say, is not asked
                    done.differs(item, lambda one: len(render(one).tokens))
                summary.skipped += 1
                progress.skip(item.end)
            else:
                yield item

    def write(record: Mapping[str, Any], end: int) -> None:
        put(record)
        summary.add(record)
        progress.advance(end)

    def stopping(lines: int) -> None:
        progress.close()
        if lines:
            say(f"finishing {lines} line{'s' if lines > 1 else ''}; press Ctrl-C again to stop at once")

    render = Renderer(runtime)
    runner = Runner(
        render,
        runtime.engine.submit,
        write,
        progress.tick,
        parallel=runtime.engine.parallel,
        ordered=settings.ordered,
    )
    with orderly(runner.ask_to_stop) as signals:
        try:
            runner.run(items, stopping)
        except KeyboardInterrupt:
            if signals.code is None:
                raise
        finally:
            progress.close()
        return signals.code


def _tell(settings: Settings, summary: Summary, code: ExitCode | None) -> None:
    """The summary, and how to go on after a signal."""
    word = {None: "", ExitCode.INTERRUPTED: "interrupted: ", ExitCode.TERMINATED: "terminated: "}[code]
    say(word + summary.sentence())
    if code and settings.out and settings.format == "jsonl":
        say("to go on, run the same command with --resume")
    if settings.json:
        line = json.dumps(summary.values())
        if settings.out:
            click.echo(line)
        else:
            say(line)
