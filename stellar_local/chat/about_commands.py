"""Commands that tell: help, the context, what was counted, tokens, what fits this machine; and the one that leaves."""

from __future__ import annotations

import shutil
from dataclasses import replace

from ..console import amount, cells, fitted, folded, printable
from ..errors import StellarError
from ..flags import wish_of
from ..plan.choose import rank
from ..plan.estimate import estimate
from ..plan.explain import weighing
from ..plan.hardware import this_machine
from ..plan.models import candidates
from ..plan.opening import freed, running
from .state import Chat
from .table import COMMANDS, GROUPS, Leave, command

_SHOWN_TOKENS = 200
_USAGE = 24  # columns for a command and its arguments; longer ones push their text on


@command("/help", "[COMMAND]", lambda chat, words: [name[1:] for name in COMMANDS] if len(words) == 1 else [])
def _help(chat: Chat, rest: str) -> None:
    texts, note = chat.texts, chat.terminal.note
    if rest:
        found = COMMANDS.get("/" + rest.lstrip("/").lower())
        if found is None:
            raise StellarError(texts("chat.unknown", name=rest), texts("chat.similar", names="/help"))
        note(f"{found.usage}\n  {found.help(texts)}")
        return
    for group in GROUPS:
        note(texts(f"chat.group_{group}"))
        for one in COMMANDS.values():
            if one.group == group:
                _note_row(chat, one.usage, one.help(texts))
    columns = shutil.get_terminal_size().columns - 1
    for line in texts("chat.keys_help").splitlines():
        indent = len(line) - len(line.lstrip())
        for part in folded(line.strip(), max(columns - indent, 30)):
            note(" " * indent + part)


def _note_row(chat: Chat, usage: str, help: str) -> None:
    """A command and what it does, in two columns where there is room for two, else below one another."""
    columns = shutil.get_terminal_size().columns - 1
    lines = folded(help, max(columns - _USAGE - 4, 30))
    if columns < 2 * _USAGE or cells(usage) > _USAGE:
        chat.terminal.note(f"  {usage}")
        usage = ""
    indent = 4 if columns < 2 * _USAGE else _USAGE + 4
    for line in lines:
        chat.terminal.note(f"  {usage}".ljust(indent) + line if usage else " " * indent + line)
        usage = ""


@command("/exit")
def _exit(chat: Chat, rest: str) -> None:
    raise Leave


@command("/context")
def _context(chat: Chat, rest: str) -> None:
    talk, texts, note = chat.conversation, chat.texts, chat.terminal.note
    size, used = chat.runtime.engine.longest, talk.used()
    bar = "█" * round(30 * min(used, size) / size)
    note(f"{bar:░<30} {texts('chat.used', used=f'{used:,}', size=f'{size:,}', share=round(100 * used / size))}")
    before = talk.system_tokens()
    note(f"  {texts('chat.part_system')}: {before:,}")
    kept = talk.turns[talk.dropped :]
    for place in range(len(kept)):
        after = len(talk.tokens(kept[: place + 1], None))
        head = fitted(" ".join(kept[place].question.split()), 40)
        note(f"  {talk.dropped + place + 1}. {head}: {after - before:,}")
        before = after
    if talk.dropped:
        note("  " + texts("chat.left_out", turns=talk.dropped))
    note("  " + texts(f"chat.policy_{talk.overflow}"))


@command("/stats")
def _stats(chat: Chat, rest: str) -> None:
    texts, note, totals = chat.texts, chat.terminal.note, chat.totals
    if chat.last is None:
        note(texts("chat.no_stats"))
        return
    last = chat.last
    computed = last.usage.prompt_tokens - last.usage.cached_tokens
    note(
        texts(
            "chat.stats_last",
            prompt=f"{last.usage.prompt_tokens:,}",
            cached=f"{last.usage.cached_tokens:,}",
            first=f"{last.timing.prompt:.2f}",
            generated=f"{last.usage.completion_tokens:,}",
            speed=f"{last.timing.tokens_per_second(last.usage.completion_tokens):.1f}",
            reading=f"{computed / last.timing.prompt if last.timing.prompt > 0 else 0:.0f}",
        )
    )
    note(
        texts(
            "chat.stats_all",
            answers=totals.answers,
            prompt=f"{totals.prompt:,}",
            cached=f"{totals.cached:,}",
            generated=f"{totals.generated:,}",
            seconds=f"{totals.prompt_seconds + totals.generation_seconds:.1f}",
        )
    )


@command("/tokens", "[TEXT]")
def _tokens(chat: Chat, rest: str) -> None:
    """A text's tokens, each with its id; without a text, of the last answer."""
    model = chat.runtime.model
    turns = chat.conversation.turns
    if not rest and not turns:
        raise StellarError(chat.texts("chat.no_turns"))
    ids = model.tokenize(rest) if rest else turns[-1].tokens or model.tokenize(turns[-1].answer)
    pieces = [f"{token}:{_visible(model.piece(token))}" for token in ids[:_SHOWN_TOKENS]]
    chat.terminal.note(" ".join(pieces) + (" …" if len(ids) > _SHOWN_TOKENS else ""))
    chat.terminal.note(chat.texts("chat.tokens", count=f"{len(ids):,}"))


def _visible(piece: bytes) -> str:
    """A token's bytes on one line: a space as ▁, what is no whole character in hexadecimal."""
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError:
        return piece.hex(" ")
    shown = printable(text.replace(" ", "▁").replace("\n", "⏎").replace("\t", "⇥"))
    return shown or piece.hex(" ")


@command("/plan")
def _plan(chat: Chat, rest: str) -> None:
    """The memory that the model takes, and the levels beside it with whether each would fit in its place."""
    texts, note, runtime = chat.texts, chat.terminal.note, chat.runtime
    context, path, options = runtime.engine.context, runtime.model.path, runtime.options
    machine = this_machine(on_gpu=options.gpu_layers != 0)
    asked = replace(options, flash_attn=chat.setup.runtime.flash_attn)  # not what became of it
    wish = replace(wish_of(asked), ctx=context.n_ctx, kv=context.kv_type)
    models = candidates(path.parent if path.suffix == ".gguf" else path)
    own = next(one for one in models if one.path == path)
    taken = estimate(own.weights, running(context), machine, lora=wish.lora)
    need = taken.all
    note(
        texts(
            "chat.plan_model",
            weights=amount(need.weights + need.lora),
            kv=amount(need.kv),
            size=f"{context.n_ctx:,}",
            type=context.kv_type,
            compute=amount(need.compute),
        )
    )
    if machine.free is not None:
        note(texts("chat.plan_free_gpu" if machine.gpus else "chat.plan_free", free=amount(machine.free)))
    ranking = rank(models, wish, freed(machine, taken))
    plans = {plan.model.path: plan for plan in (*reversed(ranking.refused), *reversed(ranking.plans))}
    for plan in plans.values():
        fits = "unknown"
        if plan.short is not None:
            fits = "too_large" if not plan.fits else "fits" if plan.whole else "part"
        mark, size = "*" if plan.model.path == path else " ", amount(weighing(plan, machine))
        word = texts(f"chat.plan_{fits}")
        note(f"{mark} {plan.model.level:<8} {size:>9}  {word}  {plan.model.path.name}")
