"""A checkpoint's tokenizer as the vocabulary that a GGUF carries, as llama.cpp's converter writes it.

SentencePiece from tokenizer.model (a tokenizer.json holds no scores, and without them the tokens would be wrong),
byte-level BPE from tokenizer.json. Source: llama.cpp's conversion/base.py. The list has exactly as many tokens as the
model has rows: rows without a token are named [PADi], as there; a token without a row is left out with a warning, and
refused where the model's own files need it. Knows tokenizer files and the number of rows; knows no weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stellar_local.console import warn
from stellar_local.errors import ModelError

from . import pretokenizers, spm
from .checkpoint import read_json
from .special import KEYS, SPM_DEFAULT, named_tokens, optional_json, read_special

_PAD_SCORE = -10000.0
_CONTROL_LOOK = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


@dataclass
class Vocabulary:
    """Everything under `tokenizer.` in a GGUF. `model` is "llama" (SentencePiece) or "gpt2" (byte-level BPE)."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    merges: list[str] | None = None
    special: dict[str, int] = field(default_factory=dict)  # "bos", "eos", "unk" … → id
    add: dict[str, bool] = field(default_factory=dict)  # "bos", "eos" → whether it is put around a text
    add_space_prefix: bool | None = None
    chat_template: str | None = None

    @property
    def adds_bos(self) -> bool:
        """Whether llama.cpp will put the begin token before a text."""
        default = self.model == "llama" or pretokenizers.adds_bos(self.pre)
        return self.add.get("bos", default)

    def id_of(self, token: str) -> int | None:
        """The id of a control or user-defined token by its text, or of a name such as "eos_token"; None if absent."""
        if token.endswith("_token"):
            name = token.removesuffix("_token")
            return self.special.get(name, SPM_DEFAULT.get(name) if self.model == "llama" else None)
        try:
            found = self.tokens.index(token)
        except ValueError:
            return None
        return found if self.types[found] in (spm.CONTROL, spm.USER_DEFINED) else None

    def metadata(self) -> dict[str, Any]:
        """The GGUF keys and values, in the order in which llama.cpp's converter writes them."""
        out: dict[str, Any] = {"tokenizer.ggml.model": self.model, "tokenizer.ggml.pre": self.pre}
        if self.add_space_prefix is not None:
            out = {"tokenizer.ggml.add_space_prefix": self.add_space_prefix, **out}
        out["tokenizer.ggml.tokens"] = self.tokens
        if self.scores is not None:
            out["tokenizer.ggml.scores"] = self.scores
        out["tokenizer.ggml.token_type"] = self.types
        if self.merges is not None:
            out["tokenizer.ggml.merges"] = self.merges
        for name, token in self.special.items():
            out[f"tokenizer.ggml.{KEYS[name]}_token_id"] = token
        for name, value in self.add.items():
            out[f"tokenizer.ggml.add_{name}_token"] = value
        if self.chat_template:
            out["tokenizer.chat_template"] = self.chat_template
        return out


@dataclass(frozen=True)
class _Added:
    """A token that was added to a vocabulary; `special` is None where the file does not say."""

    text: str
    id: int
    special: bool | None

    @property
    def control(self) -> bool:
        """Whether it is a control token: said to be special, or looking like one by llama.cpp's own list."""
        return bool(self.special) or (self.special is not None and _looks_special(self.text))

    @property
    def type(self) -> int:
        """Its type in a GGUF."""
        return spm.CONTROL if self.control else spm.USER_DEFINED

    @property
    def stored(self) -> str:
        """Its text in a GGUF: llama.cpp looks for spaces, not for ▁, in what is neither control nor undeclared."""
        return self.text if self.control or self.special is None else self.text.replace("▁", " ")


def read_vocabulary(folder: Path, config: Mapping[str, Any], rows: int, extra: Sequence[Path] = ()) -> Vocabulary:
    """Read the tokenizer of a checkpoint whose embedding has `rows` rows; the list is padded to exactly that many.

    `extra` are adapters' folders, whose tokenizer files may name the rows beyond the base's own vocabulary, and the
    padding and end tokens where the base names none; nothing else is taken from there, since an adapter's copy of a
    tokenizer is often changed by saving.

    Raises ModelError: no tokenizer, one that llama.cpp would read wrongly, one made for another model, or tokens of
    `extra` that contradict the base's or each other's.
    """
    where = folder
    try:
        vocabulary, left_out = _read(folder, config, rows)
        own = max((i + 1 for i, token in enumerate(vocabulary.tokens) if token != f"[PAD{i}]"), default=0)
        for where in extra:
            _read_extra(vocabulary, left_out, where, own)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:  # JSON of another form
        raise ModelError(
            f"the tokenizer files of {where} are damaged ({error!r})", "copy them from the original base"
        ) from error
    for text, index in left_out.items():
        warn(f"the added token {text!r} ({index}) is left out: the model has {rows:,} rows")
    return vocabulary


def _read(folder: Path, config: Mapping[str, Any], rows: int) -> tuple[Vocabulary, dict[str, int]]:
    """The base's vocabulary, and the added tokens that it has no rows for, which nothing needs."""
    settings = optional_json(folder / "tokenizer_config.json")
    left_out: dict[str, int] = {}
    if (folder / "tokenizer.model").is_file():
        vocabulary = _sentencepiece(folder, settings, rows, left_out)
    elif (folder / "tokenizer.json").is_file():
        vocabulary = _byte_level(folder, settings, rows, left_out)
    else:
        raise ModelError(
            f"{folder} holds no tokenizer", "copy tokenizer.model or tokenizer.json from the original base"
        )
    duplicates = [token for token, count in Counter(vocabulary.tokens).items() if count > 1]
    if duplicates:  # llama.cpp aborts on them
        raise ModelError(
            f"the tokenizer of {folder} has the token {duplicates[0]!r} twice",
            "copy the tokenizer from the original base",
        )
    if isinstance(prefix := settings.get("add_prefix_space"), bool):
        vocabulary.add_space_prefix = prefix
    special = read_special(folder, settings, config, rows)
    vocabulary.special, vocabulary.add, vocabulary.chat_template = special.ids, special.add, special.chat_template
    _correct_first_exports(vocabulary, folder)
    named = named_tokens(settings)
    needed = {named.get(name) for name in ("bos", "eos", "unk")} - {named.get("pad")}
    for text, index in left_out.items():
        if text in needed or text in (vocabulary.chat_template or ""):
            raise ModelError(
                f"the tokenizer of {folder} needs the token {text!r} ({index}), but the model has only {rows:,} rows",
                "it belongs to another model, or its embeddings were not saved: copy the tokenizer from the original",
            )
    # llama.cpp aborts on this too.
    if vocabulary.adds_bos and "bos" not in vocabulary.special and vocabulary.model == "gpt2":
        raise ModelError(
            f"the tokenizer of {folder} begins texts with a token that it does not name",
            "set bos_token in tokenizer_config.json, or add_bos_token to false",
        )
    return vocabulary, left_out


def _correct_first_exports(vocabulary: Vocabulary, folder: Path) -> None:
    """Drop ids that cannot be: the config.json of the first LLaMA exports counts from 0 where the tokens begin at 1."""
    begin, end = vocabulary.special.get("bos"), vocabulary.special.get("eos")
    if vocabulary.model == "llama" and begin == SPM_DEFAULT["unk"] and end == SPM_DEFAULT["bos"]:
        warn(f"config.json of {folder} names the wrong begin and end tokens; tokenizer.model's are taken")
        vocabulary.special |= {name: SPM_DEFAULT[name] for name in ("bos", "eos")}


def _read_extra(vocabulary: Vocabulary, left_out: dict[str, int], folder: Path, own: int) -> None:
    """Take an adapter's names for rows from `own` on, and the padding and end tokens that the base lacks."""
    settings = optional_json(folder / "tokenizer_config.json")
    added = [*_from_added_tokens(folder), *_from_tokenizer_json(folder), *_from_decoder(settings)]
    for token in {token.id: token for token in added if token.id >= own}.values():
        if token.id >= len(vocabulary.tokens):
            left_out[token.text] = token.id
            continue
        present = vocabulary.tokens[token.id]
        if present == token.stored:
            continue
        if present != f"[PAD{token.id}]" or token.stored in vocabulary.tokens:
            other = f"also names {present!r}" if token.stored not in vocabulary.tokens else "has elsewhere"
            raise ModelError(
                f"{folder} adds the token {token.text!r} ({token.id}), which this model {other}",
                "merge adapters whose tokenizers were extended in the same way",
            )
        vocabulary.tokens[token.id], vocabulary.types[token.id] = token.stored, token.type
        if vocabulary.scores is not None:
            vocabulary.scores[token.id] = spm.ADDED_SCORE
    named = named_tokens(settings)
    for name in ("pad", "eos"):
        if vocabulary.id_of(f"{name}_token") is None and (index := vocabulary.id_of(named.get(name, ""))) is not None:
            vocabulary.special[name] = index


def _from_added_tokens(folder: Path) -> Iterator[_Added]:
    for text, index in optional_json(folder / "added_tokens.json").items():
        yield _Added(text, _index(index), None)


def _from_decoder(settings: Mapping[str, Any]) -> Iterator[_Added]:
    for index, entry in (settings.get("added_tokens_decoder") or {}).items():
        yield _Added(_text(entry), _index(index), bool(entry.get("special")))


def _from_tokenizer_json(folder: Path) -> Iterator[_Added]:
    for entry in optional_json(folder / "tokenizer.json").get("added_tokens") or []:
        yield _Added(_text(entry), _index(entry["id"]), bool(entry.get("special")))


def _text(entry: Mapping[str, Any]) -> str:
    text = entry["content"]
    if not isinstance(text, str):
        raise ValueError(f"a token is {text!r}")
    return text


def _index(value: object) -> int:
    """A token's id. Raises ValueError for what is none: a negative one would name a token from the end."""
    index = int(value) if isinstance(value, str) else value
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise ValueError(f"a token's id is {value!r}")
    return index


def _looks_special(token: str) -> bool:
    """Whether a token is a control token although its file does not mark it, by llama.cpp's own list."""
    return token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        token.startswith(start) and token.endswith(end) for start, end in _CONTROL_LOOK
    )


def _too_many(folder: Path, count: int, rows: int) -> ModelError:
    return ModelError(
        f"the tokenizer of {folder} has {count:,} tokens, but the model only {rows:,}",
        "it belongs to another model: copy the tokenizer from the original base",
    )


def _sentencepiece(folder: Path, settings: Mapping[str, Any], rows: int, left_out: dict[str, int]) -> Vocabulary:
    """tokenizer.model, then added_tokens.json, then tokenizer_config's added_tokens_decoder, each over the last."""
    path = folder / "tokenizer.model"
    model = spm.parse(path.read_bytes(), str(path))
    if model.algorithm != spm.BPE:
        raise ModelError(f"{path} is not of SentencePiece's BPE kind", "only LLaMA's kind of tokenizer is supported")
    if len(model.pieces) > rows:
        raise _too_many(folder, len(model.pieces), rows)
    if model.remove_extra_spaces or model.normalizer not in ("", "identity"):
        warn(f"{path} rewrites text before tokenizing it and llama.cpp does not: some texts give other tokens")
    tokens = [f"[PAD{index}]" for index in range(rows)]
    scores, types = [_PAD_SCORE] * rows, [spm.UNUSED] * rows
    for index, piece in enumerate(model.pieces):
        tokens[index], scores[index] = piece.text, piece.score
        # The converter sees user-defined pieces as normal ones.
        types[index] = spm.NORMAL if piece.type == spm.USER_DEFINED else piece.type
    for added in (*_from_added_tokens(folder), *_from_decoder(settings)):
        if added.id >= rows:
            left_out[added.text] = added.id
        else:
            tokens[added.id], types[added.id], scores[added.id] = added.stored, added.type, spm.ADDED_SCORE
    # llama.cpp takes the prefix for granted; a model without one must say so.
    return Vocabulary("llama", "default", tokens, types, scores, add_space_prefix=None if model.space_prefix else False)


def _byte_level(folder: Path, settings: Mapping[str, Any], rows: int, left_out: dict[str, int]) -> Vocabulary:
    """tokenizer.json of the byte-level BPE kind."""
    path = folder / "tokenizer.json"
    data = read_json(path, "tokenizer.json")
    model = data.get("model")
    decoder = data.get("decoder") or {}
    if not isinstance(model, Mapping) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), Mapping):
        raise ModelError(f"{path} is not a BPE tokenizer", "only LLaMA's kinds of tokenizer are supported")
    if model.get("byte_fallback") or decoder.get("type") != "ByteLevel":
        raise ModelError(
            f"{folder} lacks tokenizer.model: tokenizer.json does not hold the scores that llama.cpp needs",
            "copy tokenizer.model from the original base into this folder",
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("dropout"):
        raise ModelError(f"{path} uses subword marks or dropout, which llama.cpp does not have", "")
    normalizer = data.get("normalizer")
    if normalizer and normalizer != {"type": "NFC"}:
        raise ModelError(f"{path} rewrites text before tokenizing, which llama.cpp does not do", "")
    if normalizer:
        warn("this tokenizer composes accents (NFC) and llama.cpp does not: decomposed text gives other tokens")
    pre = pretokenizers.recognise(data.get("pre_tokenizer"), bool(model.get("ignore_merges")), str(path))
    by_id = {_index(index): (str(text), spm.NORMAL) for text, index in model["vocab"].items()}
    if not by_id or len(by_id) < len(model["vocab"]):
        what = "gives one id to two tokens" if by_id else "holds no tokens"
        raise ModelError(f"{path} {what}", "copy tokenizer.json from the original base")
    if by_id and max(by_id) >= rows:
        raise _too_many(folder, max(by_id) + 1, rows)
    for added in {token.id: token for token in (*_from_decoder(settings), *_from_tokenizer_json(folder))}.values():
        if added.id >= rows:
            left_out[added.text] = added.id
        else:
            by_id[added.id] = (added.stored, added.type)
    listed = [by_id.get(index, (f"[PAD{index}]", spm.UNUSED)) for index in range(rows)]
    merges = [merge if isinstance(merge, str) else _joined(merge) for merge in model.get("merges") or []]
    if not merges or not all(" " in merge[1:-1] for merge in merges):
        raise ModelError(f"{path} has no usable merges", "copy tokenizer.json from the original base")
    return Vocabulary("gpt2", pre, [text for text, _ in listed], [kind for _, kind in listed], merges=merges)


def _joined(merge: Sequence[str]) -> str:
    """A merge of tokenizer.json's newer form, a pair; a space inside a part is written as Ġ, as bytes are."""
    return " ".join(part.replace(" ", "Ġ") for part in merge)
