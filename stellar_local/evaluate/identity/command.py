"""The command `stellar eval identity`: its options, and the failures listed for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...console import fitted, one_line, say
from ...errors import ExitCode
from ..flags import evaluation_options, measurement, sampling_of
from ..measuring import measure
from ..results import Summary, read_log
from .knowing import CONDITIONS, Identity
from .questions import SHIPPED, read_questions

_LONGEST = 96  # tokens of an answer: who it is takes one or two sentences
_SHOWN = 120  # columns of an answer in the list of failures


@click.command()
@click.option(
    "--questions",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Ask these, as stellar data identity --held-out writes them [default: StellarSpeak's, 67 in each language].",
)
@click.option(
    "--system-line",
    type=click.Choice(["both", *CONDITIONS]),
    default="both",
    show_default=True,
    help="Ask with the template's own system line, without any, or both.",
)
@click.option(
    "--failures",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    metavar="N",
    help="List the first N wrong answers of a model; the log has all.",
)
@evaluation_options()
def identity(questions: Path | None, system_line: str, failures: int, **given: Any) -> None:
    """Ask whether MODEL… knows who it is.

    Held-out questions in Chinese and English ask for its name, its developer and its base, whether it is another
    assistant, and in a mix of both languages. Right is an answer that gives the right name, claims no wrong one, names
    the right developer where that is asked, and does not say yes where no is right. Answers are greedy and have at most
    96 tokens unless options say otherwise.

    \b
    Example: stellar eval identity demo/model
             stellar eval identity base.gguf tuned.gguf --questions identity-eval.jsonl --system-line without
    """
    path = questions or SHIPPED
    asked, broken = read_questions(path)
    conditions = list(CONDITIONS) if system_line == "both" else [system_line]
    task = Identity(path, asked, conditions, sampling_of(given, max_tokens=_LONGEST), len(broken))
    measured = measure(task, measurement(given))
    for summary in measured.summaries if failures else []:
        _list_failures(summary, {item.key for item in task.items()[: given["limit"]]}, failures)
    code = measured.code or (ExitCode.FAILED if broken else ExitCode.DONE)
    if code:
        raise SystemExit(code)


def _list_failures(summary: Summary, asked: set[str], most: int) -> None:
    """The wrong answers to what was asked of one model, on stderr; what two system lines got alike is one."""
    log = summary.path.with_suffix(".jsonl")
    records = [one for one in read_log(log)[1] if one["key"] in asked and "error" not in one]
    wrong: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in records:
        if not one["right"]:
            wrong.setdefault((str(one["key"]).partition("/")[0], one["answer"]), []).append(one)
    if not wrong:
        return
    say(f"\n{summary.label}: {sum(map(len, wrong.values()))} of {len(records)} answers are wrong; {log} has them all")
    # The first that were measured are of all languages and kinds; they are shown in the questions' order.
    for alike in sorted(list(wrong.values())[:most], key=lambda alike: str(alike[0]["key"])):
        one, conditions = alike[0], sorted(other["system_line"] for other in alike)
        say(f"✗ {' and '.join(conditions)} system line: {_reason(one)}")
        say(f"  {one_line(one['question'])}")
        say(f"  → {fitted(one_line(one['answer']), _SHOWN).strip() or '(nothing)'}")
    if len(wrong) > most:
        say(f"… and {len(wrong) - most} more")


def _reason(record: dict[str, Any]) -> str:
    names = ", ".join(record["verdict"]["forbidden"])
    return one_line(f"{record['why']}: {names}" if names else record["why"])
