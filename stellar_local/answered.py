"""A prompt with its answer as token ids: which of them are the answer's. Training and evaluation both ask here.

Knows segments and how they are tokenized; knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .prompts import Renderer, Segment, Special, Text, Turn, token_ids


def answered(template: Renderer, turn: Turn, system: str | None = None) -> tuple[list[Segment], list[Segment]]:
    """One exchange, whose response is there, as (prompt, prompt + answer + end token), as `Template.training` has it.

    What follows the end token is never generated, and left out. Raises what rendering raises.
    """
    prompt = template.render([Turn(turn.instruction, input=turn.input)], system)
    whole = template.render([Turn(turn.instruction, turn.response, turn.input)], system)
    ends = (place for place in range(len(prompt), len(whole)) if isinstance(whole[place], Special))
    end = next(ends, None)
    return prompt, whole if end is None else whole[: end + 1]


def joined(
    prompt: Sequence[Segment],
    whole: Sequence[Segment],
    encode: Callable[[str], list[int]],
    special: Callable[[str], int | None],
) -> tuple[list[int], int, bool]:
    """Token ids of the whole, without BOS; how many of them are the prompt's; and whether the two were tokenized apart.

    The ids are those of the whole string, as llama.cpp gives them, wherever the prompt's ids are their beginning.
    An answer that begins with white space may merge with the prompt's last line break: then the two are tokenized
    apart, because a prompt that is being answered never contains a piece of the answer. Raises UsageError.
    """
    head = token_ids(prompt, encode, special)
    ids = token_ids(whole, encode, special)
    apart = ids[: len(head)] != head
    if apart:
        ids = head + token_ids(_answer(prompt, whole), encode, special)
    return ids, len(head), apart


def _answer(prompt: Sequence[Segment], whole: Sequence[Segment]) -> list[Segment]:
    """What `whole` adds to `prompt`, where the last text of the prompt may go on."""
    last, first = prompt[-1], whole[len(prompt) - 1]
    if isinstance(last, Text) and isinstance(first, Text):
        return [Text(first.text[len(last.text) :]), *whole[len(prompt) :]]
    return list(whole[len(prompt) :])
