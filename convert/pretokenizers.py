"""How byte-level BPE vocabularies cut text before merging: llama.cpp's names for what tokenizer.json spells out.

One table, read both ways. Source: llama.cpp's src/llama-vocab.cpp (the regular expressions behind each name) and the
models' own tokenizer.json. Anything that is not in the table is refused, because a near match tokenizes wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stellar_local.errors import ModelError

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_DEFAULT = [r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"]


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _bytes(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


# Name → (tokenizer.json's pre_tokenizer, ignore_merges). The first name of a pair is the one we write.
_TABLE: dict[str, tuple[dict[str, Any], bool]] = {
    "llama-bpe": (_sequence(_split(_LLAMA3), _bytes(False)), True),
    "smaug-bpe": (_sequence(_split(_LLAMA3), _bytes(False)), False),  # LLaMA 3's cut without its ignore_merges
    "qwen2": (_sequence(_split(_QWEN2), _bytes(False)), False),
    "smollm": (_sequence({"type": "Digits", "individual_digits": True}, _bytes(True)), False),
    "gpt-2": (_bytes(True), False),
    "default": (_sequence(*map(_split, _DEFAULT), _bytes(False)), False),
}
_OTHER_NAMES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2", "": "default"}
_OTHER_NAMES |= dict.fromkeys(("starcoder", "refact", "command-r", "codeshell"), "smollm")
_ADDS_BOS = frozenset({"llama-bpe"})  # where the GGUF does not say, llama.cpp adds the begin token for these


def recognise(pre_tokenizer: object, ignore_merges: bool, where: str) -> str:
    """llama.cpp's name for a tokenizer.json's pre_tokenizer. Raises ModelError for one that llama.cpp has not."""
    wanted = _plain(pre_tokenizer)
    for name, (known, ignores) in _TABLE.items():
        if _plain(known) == wanted and ignores == ignore_merges:
            return name
    raise ModelError(
        f"{where} cuts text in a way this converter does not know, so its tokens would be wrong",
        f"known are the tokenizers of LLaMA 3, SmolLM2, GPT-2 and Qwen 2 ({', '.join(_TABLE)})",
    )


def pre_tokenizer(name: str, where: str) -> tuple[dict[str, Any], bool]:
    """The pre_tokenizer and ignore_merges that llama.cpp's `name` stands for. Raises ModelError for unknown names."""
    found = _TABLE.get(_OTHER_NAMES.get(name, name))
    if found is None:
        raise ModelError(
            f"{where} uses the pre-tokenizer {name}, which cannot be rebuilt", f"known are {', '.join(_TABLE)}"
        )
    return found


def adds_bos(name: str) -> bool:
    """Whether llama.cpp puts the begin token before a text where the file does not say."""
    return _OTHER_NAMES.get(name, name) in _ADDS_BOS


def _plain(value: object) -> object:
    """A comparable form: fields that change no token are dropped, a sequence of one is that one."""
    if not isinstance(value, Mapping):
        return value
    if value.get("type") == "Sequence":
        steps = [_plain(step) for step in value.get("pretokenizers", [])]
        return steps[0] if len(steps) == 1 else steps
    out = {key: item for key, item in value.items() if key != "trim_offsets"}
    if value.get("type") == "ByteLevel":
        out.setdefault("use_regex", True)  # tokenizer.json of before 2022 does not say
    return out
