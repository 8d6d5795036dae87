"""The same files as llama.cpp's own converter makes: its metadata, its vocabulary and its bytes, for every kind of base.

Where we differ, DIFFERENCES says why; everything else must be equal, and in the same order.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_source
import pytest
from gguf_facts import KINDS, metadata, tensors
from tiny import write_base

from convert.checkpoint import Checkpoint
from convert.export import export
from convert.levels import LEVELS
from convert.safetensors import header_bytes
from convert.tokenizer_files import write_tokenizer

TYPES = ("F32", "F16", "BF16", "Q8_0")
SAME = {kind: None for kind in KINDS}


@dataclass
class Case:
    """A base: its kind, what is changed in its folder, and the keys in which we mean to differ, with the reason."""

    kind: str
    change: Callable[[Path], object] = lambda base: None
    differences: dict[str, str] = field(default_factory=dict)
    rows: int = 0  # rows of the embedding, where more than the tokenizer's tokens


def edit(path: Path, **changes: object) -> None:
    """Change fields of a JSON file; None removes one."""
    data = {**(json.loads(path.read_text()) if path.is_file() else {}), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


CONFIG, SETTINGS, TOKENIZER = "config.json", "tokenizer_config.json", "tokenizer.json"
BEGIN, END, TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"


def special(text: str, kind: int = 0) -> dict[str, Any]:
    return {"SpecialToken": {"id": text, "type_id": kind}}


def text(name: str, kind: int = 0) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": kind}}


def template(single: list[Any], pair: list[Any]) -> dict[str, Any]:
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special_tokens(single, pair)}


def special_tokens(*parts: list[Any]) -> dict[str, Any]:
    names = {entry["SpecialToken"]["id"] for part in parts for entry in part if "SpecialToken" in entry}
    return {name: {"id": name, "ids": [0], "tokens": [name]} for name in sorted(names)}


LLAMA3 = template([special(BEGIN), text("A")], [special(BEGIN), text("A"), special(BEGIN, 1), text("B", 1)])
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
GIVEN = {"tokenizer.chat_template": "we read chat_template.jinja even where tokenizer_config.json is silent or missing"}

CASES: dict[str, Case] = {
    **{kind.replace("-", "_"): Case(kind) for kind in KINDS},
    "added_tokens": Case(
        "spm-gqa-64",
        lambda base: (
            edit(base / "added_tokens.json", **{"<pad>": 480, "天文": 481, "▁under": 485}),
            edit(
                base / SETTINGS,
                added_tokens_decoder={
                    "1": {"content": "<s>", "special": True},
                    "482": {"content": "<mark>▁x", "special": False},
                    "483": {"content": "<|end|>", "special": False},
                },
            ),
        ),
        rows=488,
    ),
    "flags": Case(
        "spm-gqa-64",
        lambda base: (
            edit(base / SETTINGS, add_eos_token=True, add_prefix_space=False, pad_token="</s>", chat_template="{{ a }}"),
            edit(base / CONFIG, pad_token_id=0, sep_token_id=5, eos_token_id=[2, 3]),
        ),
    ),
    "no_settings": Case("spm-gqa-64", lambda base: (base / SETTINGS).unlink()),
    "first_export": Case(
        "spm-gqa-64",
        lambda base: edit(
            base / CONFIG,
            architectures=["LLaMAForCausalLM"],
            max_sequence_length=512,
            max_position_embeddings=512,
            num_key_value_heads=2,
            head_dim=None,
            rope_parameters=None,
            pad_token_id=0,
        ),
    ),
    "version_4": Case(
        "bpe-gqa4-256-tied-biased",
        lambda base: edit(
            base / CONFIG,
            rope_parameters=None,
            rope_theta=500000.0,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 256,
            },
        ),
    ),
    "linear_4": Case(
        "spm-gqa-64",
        lambda base: edit(base / CONFIG, rope_parameters=None, rope_scaling={"type": "linear", "factor": 2.0}),
    ),
    "llama3_template": Case("bpe-tied-576", lambda base: edit(base / TOKENIZER, post_processor=LLAMA3)),
    "template_after_bytes": Case(
        "bpe-tied-576",
        lambda base: (
            edit(base / TOKENIZER, post_processor={"type": "Sequence", "processors": [BYTES, LLAMA3]}),
            edit(base / SETTINGS, add_bos_token=False, pad_token=END, add_eos_token=False),
        ),
    ),
    "another_end": Case(
        "bpe-tied-576",
        lambda base: edit(
            base / TOKENIZER,
            post_processor=template(
                [special(BEGIN), text("A"), special(END)],
                [special(BEGIN), text("A"), special(END), text("B", 1), special(END, 1)],
            ),
        ),
    ),
    "another_begin": Case(
        "bpe-tied-576",
        lambda base: (
            edit(base / TOKENIZER, post_processor=template([special(END), text("A")], [])),
            edit(base / SETTINGS, unk_token=TURN),
        ),
    ),
    "rows_without_tokens": Case("bpe-tied-576", rows=490),
    "chat_template": Case(
        "bpe-tied-576",
        lambda base: (base / "chat_template.jinja").write_text("{{ bos_token }}你好", encoding="utf-8"),
    ),
    "named_templates": Case(
        "bpe-tied-576",
        lambda base: edit(
            base / SETTINGS,
            chat_template=[{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}],
        ),
        {
            "tokenizer.chat_templates": "only the default template is for chatting, and --template replaces it",
            "tokenizer.chat_template.tool_use": "the same",
        },
    ),
    "silent_template": Case(
        "spm-gqa-64",
        lambda base: ((base / SETTINGS).unlink(), (base / "chat_template.jinja").write_text("{{ a }}")),
        GIVEN,
    ),
    "Tiny-1.1B-v1.0-chat": Case(
        "spm-gqa-64",
        differences={
            f"general.{key}": "the converter guesses it from the name of the folder; we guess nothing"
            for key in ("basename", "version", "finetune", "size_label")
        },
    ),
}


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest) -> Path:
    """llama.cpp's Python files."""
    assert request.config.cache
    return llama_source.find(request.config.cache.mkdir("llama_source"))


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a base of every case, and beside each what the converter makes of it, at four types."""
    root = tmp_path_factory.mktemp("converter")
    jobs = []
    for name, case in CASES.items():
        tokenizer, fields = KINDS[case.kind]
        small = {**fields, "num_hidden_layers": 2} | ({"vocab_size": case.rows} if case.rows else {})
        base = write_base(root / "bases" / name, tokenizer, **small)
        case.change(base)
        types = TYPES if case.kind.replace("-", "_") == name else ("F16",)
        for kind in types:
            out = root / f"{name}-{kind}.gguf"
            pre = "llama-bpe" if tokenizer == "bpe" else None
            jobs.append({"folder": base, "out": out, "type": kind.lower(), "name": "star", "pre": pre})
    llama_source.convert(source, root, jobs)
    yield root
    shutil.rmtree(root)


@pytest.mark.parametrize("name", CASES)
def test_metadata_is_the_converters(name: str, made: Path, tmp_path: Path) -> None:
    case = CASES[name]
    types = [kind for kind in TYPES if (made / f"{name}-{kind}.gguf").is_file()]
    export(made / "bases" / name, out=tmp_path, levels=[LEVELS[kind] for kind in types], name="star")
    for kind in types:
        theirs, ours = metadata(made / f"{name}-{kind}.gguf"), metadata(tmp_path / f"star-{kind}.gguf")
        differing = {key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)}
        assert differing == set(case.differences), {key: (theirs.get(key), ours.get(key)) for key in differing}
        common = set(theirs) & set(ours)
        assert [key for key in theirs if key in common] == [key for key in ours if key in common]
        expected, found = tensors(made / f"{name}-{kind}.gguf"), tensors(tmp_path / f"star-{kind}.gguf")
        assert set(expected) == set(found)
        for tensor, (shape, stored, data) in expected.items():
            assert found[tensor][:2] == (shape, stored), tensor
            assert found[tensor][2] == data, f"{tensor} of {kind}"
