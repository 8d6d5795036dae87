"""The base model's tokenizer for training: plain text → ids, and the ids of its special tokens.

SentencePiece and `tokenizers` are called directly. Transformers' own LLaMA tokenizer rebuilds the SentencePiece
model and splits some texts (runs of spaces, special tokens' texts) unlike llama.cpp, which serves the result; the
libraries themselves agree with it. Knows files of a base folder; knows no template and no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stellar_local.errors import MissingExtraError, ModelError
from stellar_local.files import read_text, require_folder
from stellar_local.prompts import BOS, EOS

_COMMAND = "stellar train"


@dataclass(frozen=True)
class Tokenizer:
    """`encode` gives the ids of plain text: never a special token, never BOS. `size` counts the ids there are."""

    encode: Callable[[str], list[int]]
    specials: Mapping[str, int]
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    size: int

    def special(self, token: str) -> int | None:
        """The id of a special token by its text, or of prompts.EOS or prompts.BOS; None where there is none."""
        return {EOS: self.eos_id, BOS: self.bos_id}.get(token, self.specials.get(token))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load `tokenizer.model` (SentencePiece), else `tokenizer.json`, of a base folder.

    Special ids come from tokenizer_config.json, then config.json, then the tokenizer's own file. Raises ModelError
    where there is none or it is damaged, MissingExtraError where `tokenizers` is needed and not installed.
    """
    require_folder(folder, "base model")
    settings = _json(folder / "tokenizer_config.json")
    config = _json(folder / "config.json")
    if (folder / "tokenizer.model").is_file():
        return _sentencepiece(folder, settings, config)
    if (folder / "tokenizer.json").is_file():
        return _tokenizers(folder, settings, config)
    raise ModelError(
        f"no tokenizer in {folder}: neither tokenizer.model nor tokenizer.json",
        "copy the tokenizer files of the original model into that folder",
    )


def _sentencepiece(folder: Path, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Tokenizer:
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    except (OSError, RuntimeError) as error:
        raise _damaged(folder / "tokenizer.model") from error
    specials = {model.id_to_piece(i): i for i in range(model.get_piece_size()) if model.is_control(i)}
    specials |= _added(settings, _json(folder / "added_tokens.json"))

    def encode(text: str) -> list[int]:
        return list(model.encode(text, out_type=int))

    def own(index: int) -> int | None:
        return index if index >= 0 else None

    return Tokenizer(
        encode=encode,
        specials=specials,
        bos_id=_special_id("bos", settings, config, specials, own(model.bos_id())),
        eos_id=_special_id("eos", settings, config, specials, own(model.eos_id())),
        add_bos=settings.get("add_bos_token") is not False,  # a LLaMA tokenizer's default is to add it
        size=max(model.get_piece_size(), 1 + max(specials.values(), default=0)),
    )


def _tokenizers(folder: Path, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Tokenizer:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError("train", "tokenizers", _COMMAND) from error
    try:
        model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises Exception itself for every defect of the file
        raise _damaged(folder / "tokenizer.json") from error
    model.no_truncation()
    model.no_padding()
    model.encode_special_tokens = True  # `</s>` in a text is text
    specials = {token.content: index for index, token in model.get_added_tokens_decoder().items() if token.special}
    specials |= _added(settings, {})
    bos = _special_id("bos", settings, config, specials, None)
    add_bos = settings.get("add_bos_token")
    if add_bos is None:  # then the post-processor decides
        add_bos = bos is not None and model.encode("a", add_special_tokens=True).ids[:1] == [bos]

    def encode(text: str) -> list[int]:
        return list(model.encode(text, add_special_tokens=False).ids)

    return Tokenizer(
        encode=encode,
        specials=specials,
        bos_id=bos,
        eos_id=_special_id("eos", settings, config, specials, None),
        add_bos=bool(add_bos),
        size=1 + max(model.get_vocab(with_added_tokens=True).values(), default=-1),
    )


def _special_id(
    name: str, settings: Mapping[str, Any], config: Mapping[str, Any], specials: Mapping[str, int], own: int | None
) -> int | None:
    """BOS or EOS: by the text in tokenizer_config.json, by the id in config.json (the first of several), or `own`."""
    token = settings.get(f"{name}_token")
    text = token.get("content") if isinstance(token, dict) else token
    if isinstance(text, str) and text in specials:
        return specials[text]
    index = config.get(f"{name}_token_id")
    if isinstance(index, list) and index:
        index = index[0]
    return index if isinstance(index, int) else own


def _added(settings: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, int]:
    """Special tokens that were added after the tokenizer was trained."""
    found = {text: index for text, index in extra.items() if isinstance(index, int)}
    decoder = settings.get("added_tokens_decoder")
    for index, token in (decoder if isinstance(decoder, dict) else {}).items():
        if isinstance(token, dict) and token.get("special") and str(index).isdigit():
            found[str(token.get("content"))] = int(index)
    return found


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, or {} where the file is absent. Raises ModelError where it is damaged."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(read_text(path, "tokenizer file"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    return data if isinstance(data, dict) else {}


def _damaged(path: Path) -> ModelError:
    return ModelError(f"the tokenizer file is damaged: {path}", "copy it again from the original model")
