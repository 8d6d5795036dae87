"""In a child process: read a model's header and its vocabulary, and tell what is in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..native.header import Header, check_runnable, check_vocabulary, read_header
from ..native.model import Model
from ..plan.choose import Wish
from ..plan.opening import choose
from ..prompts import BOS, EOS, Renderer, Segment, Special, Turn
from ..runtime import FALLBACK_TEMPLATE, TEMPLATE_KEY, template_of

_CONTROL = 3  # a token's type in GGUF: LLAMA_TOKEN_TYPE_CONTROL
_ENDS = ("<|im_end|>", "<|eot_id|>", "</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "<|end|>")


def main(tell: Callable[..., None], model: str) -> None:
    """Choose the file as chat would, and read it from the outside in. Raises ModelError for what is wrong with it."""
    tell(stage="choose")
    path = Path(model)
    if path.is_dir():
        path = choose(path, Wish()).path
    tell(file=str(path), stage="header")
    header = read_header(path, whole=True)
    metadata = header.metadata
    tell(
        kind=str(metadata.get("general.type", "model")),
        architecture=header.architecture,
        name=str(metadata.get("general.name", "")),
        size=header.file_size,
        whole=header.full_size,
        tensors=len(header.tensors),
        layers=header.value("block_count"),
        context=header.value("context_length"),
    )
    check_runnable(header)
    check_vocabulary(header)
    tell(stage="vocabulary", tokens=_tokens(header))
    with Model(path, vocab_only=True) as loaded:
        tell(
            n_vocab=loaded.n_vocab,
            add_bos=loaded.add_bos,
            bos=loaded.bos,
            eos=loaded.eos,
            bos_text=loaded.token_text(loaded.bos),
            eos_text=loaded.token_text(loaded.eos),
            eos_ends=loaded.eos is not None and loaded.is_eog(loaded.eos),
        )
        tell(stage="template", fallback=FALLBACK_TEMPLATE)
        source = TEMPLATE_KEY if metadata.get(TEMPLATE_KEY) else "tokenizer.chat_template"
        template = template_of(loaded)
        if template is None:
            tell(template=None)
            return
        tell(template=template.name, template_source=source, lacking=_lacking(template, loaded))


def _tokens(header: Header) -> dict[str, Any]:
    """What the metadata say of the special tokens, before llama.cpp has corrected it."""
    texts: list[Any] = header.metadata["tokenizer.ggml.tokens"]
    kinds = header.metadata.get("tokenizer.ggml.token_type")
    bos, eos = (header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
    known = kinds if isinstance(kinds, list) and isinstance(eos, int) and 0 <= eos < len(kinds) else None
    ends = [text for text in _ENDS if text in texts]
    return {
        "count": len(texts),
        "bos": bos,
        "eos": eos,
        "eos_is_control": known[int(eos or 0)] == _CONTROL if known else None,
        "end": texts.index(ends[0]) if ends else None,  # the likeliest end of an answer
    }


def _lacking(template: Renderer, model: Model) -> list[str]:
    """The special tokens that a template names and this vocabulary lacks. Raises UsageError if it is broken."""

    def known(token: str) -> bool:
        if token in (EOS, BOS):
            return (model.eos if token == EOS else model.bos) is not None
        return model.special(token) is not None

    turns = [Turn("Who are you?", "A model."), Turn("What is a star?")]
    segments: Sequence[Segment] = [*template.render(turns), *template.stop]
    named = dict.fromkeys(part.token for part in segments if isinstance(part, Special))
    return [token for token in named if not known(token)]
