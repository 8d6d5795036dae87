"""A GGUF's vocabulary as a Hugging Face tokenizer: the way back from `vocab`.

SentencePiece becomes tokenizer.model, byte-level BPE becomes tokenizer.json; both give llama.cpp's tokens.
Knows vocabularies and these files; knows no weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stellar_local.errors import ModelError

from . import pretokenizers, spm
from .hf import write_json
from .special import KEYS, SPM_DEFAULT

_PREFIX = "tokenizer.ggml."
_NAMED = ("bos", "eos", "unk", "pad")  # what Hugging Face's files name of a GGUF's special tokens


def special_ids(fields: Mapping[str, Any]) -> dict[str, int]:
    """The ids of bos, eos, unk and pad, where the GGUF has them; LLaMA's own where a SentencePiece one is silent."""
    count = len(fields[f"{_PREFIX}tokens"])
    found = dict(SPM_DEFAULT) if fields.get(f"{_PREFIX}model") == "llama" else {}
    for name in _NAMED:
        value = fields.get(f"{_PREFIX}{KEYS[name]}_token_id")
        if isinstance(value, int) and 0 <= value < count:
            found[name] = value
    return found


def write_tokenizer(folder: Path, fields: Mapping[str, Any], context: int, where: str) -> None:
    """Write the tokenizer files of a GGUF with the metadata `fields`. Raises ModelError for kinds not rebuilt here."""
    kind = fields.get(f"{_PREFIX}model")
    tokens = fields.get(f"{_PREFIX}tokens")
    if kind not in ("llama", "gpt2") or not isinstance(tokens, list) or not tokens:
        raise ModelError(f"{where} has a tokenizer of the kind {kind}; only LLaMA's kinds can be rebuilt")
    tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]  # as llama.cpp calls them
    types = fields.get(f"{_PREFIX}token_type") or [spm.NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise ModelError(f"damaged GGUF file: {where} has {len(tokens)} tokens and {len(types)} types")
    if repeated := [token for token, count in Counter(tokens).items() if count > 1]:
        raise ModelError(f"damaged GGUF file: {where} has the token {repeated[0]!r} twice")
    ids = special_ids(fields)
    add_bos = fields.get(f"{_PREFIX}add_bos_token")
    if add_bos is None:
        add_bos = kind == "llama" or pretokenizers.adds_bos(fields.get(f"{_PREFIX}pre", ""))
    settings: dict[str, Any] = {
        "add_bos_token": bool(add_bos),
        "add_eos_token": bool(fields.get(f"{_PREFIX}add_eos_token", False)),
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        **{f"{name}_token": tokens[index] for name, index in ids.items()},
    }
    if isinstance(template := fields.get("tokenizer.chat_template"), str):
        settings["chat_template"] = template
    if kind == "llama":
        settings |= _write_sentencepiece(folder, fields, tokens, types, ids, where)
    else:
        settings |= _write_byte_level(folder, fields, tokens, types, settings, where)
    write_json(folder / "tokenizer_config.json", settings)


def _write_sentencepiece(
    folder: Path,
    fields: Mapping[str, Any],
    tokens: Sequence[str],
    types: Sequence[int],
    ids: dict[str, int],
    where: str,
) -> dict[str, Any]:
    """Write tokenizer.model; returns what else tokenizer_config.json must say."""
    scores = fields.get(f"{_PREFIX}scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ModelError(f"{where} has a SentencePiece vocabulary without scores", "download or convert it again")
    count = len(tokens)
    while count and types[count - 1] == spm.UNUSED:  # padding up to the embedding's rows
        count -= 1
    pieces = [
        spm.Piece(token.replace(" ", "▁") if kind == spm.USER_DEFINED else token, score, kind or spm.NORMAL)
        for token, score, kind in zip(tokens[:count], scores, types, strict=False)
    ]
    prefix = bool(fields.get(f"{_PREFIX}add_space_prefix", True))
    model = spm.SpmModel(
        pieces,
        space_prefix=prefix,
        remove_extra_spaces=bool(fields.get(f"{_PREFIX}remove_extra_whitespaces", False)),
        byte_fallback=spm.BYTE in types,
    )
    (folder / "tokenizer.model").write_bytes(spm.build(model, {name: i for name, i in ids.items() if i < count}))
    added = {
        str(index): _added(tokens[index], types[index] == spm.CONTROL)
        for index in range(count)
        if types[index] == spm.USER_DEFINED or (types[index] == spm.CONTROL and scores[index] == spm.ADDED_SCORE)
    }
    settings: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "legacy": True}
    if added:
        settings["added_tokens_decoder"] = added
    return settings if prefix else {**settings, "add_prefix_space": False}


def _write_byte_level(
    folder: Path,
    fields: Mapping[str, Any],
    tokens: Sequence[str],
    types: Sequence[int],
    settings: Mapping[str, Any],
    where: str,
) -> dict[str, Any]:
    """Write tokenizer.json; returns what else tokenizer_config.json must say."""
    merges = fields.get(f"{_PREFIX}merges")
    if not isinstance(merges, list) or not all(isinstance(merge, str) and " " in merge[1:] for merge in merges):
        raise ModelError(f"{where} has a BPE vocabulary without usable merges", "download or convert it again")
    cut, ignore_merges = pretokenizers.pre_tokenizer(fields.get(f"{_PREFIX}pre", ""), where)
    added = [
        {"id": index, **_added(token, types[index] == spm.CONTROL)}
        for index, token in enumerate(tokens)
        if types[index] in (spm.CONTROL, spm.USER_DEFINED)
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": {token: index for index, token in enumerate(tokens) if types[index] != spm.UNUSED},
        "merges": [merge.split(" ", 1) for merge in merges],
    }
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": cut,
            "post_processor": _post_processor(tokens, settings),
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": model,
        },
    )
    return {"tokenizer_class": "PreTrainedTokenizerFast"}


def _post_processor(tokens: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What puts the begin and end tokens around a text."""
    bos = settings.get("bos_token") if settings["add_bos_token"] else None
    eos = settings.get("eos_token") if settings["add_eos_token"] else None
    if bos is None and eos is None:
        return None

    def around(sequence: str, number: int) -> list[dict[str, Any]]:
        marks = [{"SpecialToken": {"id": token, "type_id": number}} if token else None for token in (bos, eos)]
        text = {"Sequence": {"id": sequence, "type_id": number}}
        return [part for part in (marks[0], text, marks[1]) if part]

    special = {
        token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]}
        for token in (bos, eos)
        if token is not None
    }
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": special,
    }


def _added(token: str, special: bool) -> dict[str, Any]:
    """An added token as tokenizer.json and tokenizer_config.json spell it."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": token, **flags, "special": special}
