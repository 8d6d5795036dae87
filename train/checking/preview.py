"""A sample as training sees it: the whole prompt, and the part that is learned marked, end token included."""

from __future__ import annotations

from collections.abc import Sequence

from stellar_local.console import one_line, printable
from stellar_local.prompts import BOS, EOS, Segment, Special

from ..corpus import Triple
from ..tokenizer import Tokenizer
from .lengths import Ruler
from .survey import Shown

_DIM, _BOLD, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"


def parts(row: Triple, ruler: Ruler) -> tuple[str, str]:
    """The prompt and what is learned, as text in which special tokens stand as they are written."""
    prompt, whole = ruler.template.training(row.instruction, row.input, row.output)
    head = _text(prompt, ruler.tokenizer)
    return head, _text(whole, ruler.tokenizer)[len(head) :]


def preview(samples: Sequence[Shown], ruler: Ruler, styled: bool) -> str:
    """Samples for people: on a terminal (`styled`) the prompt is dim and the learned part bold, else it is in ⟦ ⟧."""
    out = []
    for sample in samples:
        prompt, learned = map(printable, parts(sample.row, ruler))
        out.append(
            f"{one_line(sample.place)} (prompt {sample.length.prompt}, learned {sample.length.answer} {ruler.unit})"
        )
        out.append(f"{_DIM}{prompt}{_RESET}{_BOLD}{learned}{_RESET}" if styled else f"{prompt}⟦{learned}⟧")
        out.append("")
    return "\n".join(out)


def _text(segments: Sequence[Segment], tokenizer: Tokenizer | None) -> str:
    return "".join(_name(part.token, tokenizer) if isinstance(part, Special) else part.text for part in segments)


def _name(token: str, tokenizer: Tokenizer | None) -> str:
    """A special token as it is written: `</s>` for the end token of a LLaMA, `<eos>` where no base says more."""
    if token not in (EOS, BOS):
        return token
    index = tokenizer.special(token) if tokenizer is not None else None
    names = {number: text for text, number in tokenizer.specials.items()} if tokenizer is not None else {}
    return names.get(index, "<eos>" if token == EOS else "<bos>") if index is not None else f"<{token[:3]}>"
