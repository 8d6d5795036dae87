"""The same files as llama.cpp's own converter makes: its metadata, vocabulary and tensor bytes, for every kind of base.

Where we mean to differ, a case says in which keys and why; all else must be equal, and in the same order.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_source
import pytest
from exporting import export
from gguf_facts import KINDS, metadata, tensors
from tiny import write_base, write_plain_base

from convert.levels import LEVELS
from convert.tokenizer_files import write_tokenizer
from stellar_local.native.header import read_header

VOCABULARIES = ("llama-spm", "llama-bpe")
TYPES = ("F32", "F16", "BF16", "Q8_0")
SAME = dict.fromkeys(KINDS)


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
    names = sorted({entry["SpecialToken"]["id"] for entry in (*single, *pair) if "SpecialToken" in entry})
    tokens = {name: {"id": name, "ids": [0], "tokens": [name]} for name in names}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


LLAMA3 = template([special(BEGIN), text("A")], [special(BEGIN), text("A"), special(BEGIN, 1), text("B", 1)])
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
CARD = """---
license: gpl-3.0
base_model: ICTNLP/bayling-13b-v1.1
datasets: [astro/qa-zh]
language: [zh, en]
tags: [astronomy]
pipeline_tag: text-generation
---
# Star
"""
GIVEN = {"tokenizer.chat_template": "we read chat_template.jinja even where tokenizer_config.json is silent or missing"}

CASES: dict[str, Case] = {
    **{kind.replace("-", "_"): Case(kind) for kind in KINDS},
    "added_tokens": Case(
        "spm-gqa-64",
        lambda base: (
            edit(base / "added_tokens.json", **{"<pad>": 480, "超新星": 481, "▁under": 485}),
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
            edit(
                base / SETTINGS, add_eos_token=True, add_prefix_space=False, pad_token="</s>", chat_template="{{ a }}"
            ),
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
    "described": Case(
        "spm-gqa-64",
        lambda base: (
            (base / "README.md").write_text(CARD),
            edit(base / "generation_config.json", temperature=0.6, top_p=0.9, top_k=40, repetition_penalty=1.1),
        ),
    ),
    "Tiny-1.1B-v1.0-chat": Case(
        "spm-gqa-64",
        differences={
            f"general.{key}": "the converter guesses it from the name of the folder; we guess nothing"
            for key in ("basename", "version", "finetune")
        },
    ),
}


def whole_metadata(path: Path) -> dict[str, Any]:
    """As gguf_facts.metadata, by our own reader: gguf's takes nine seconds for 128,256 tokens."""
    return read_header(path, whole=True).metadata


def real_vocabulary(llama_cpp_source: Path, name: str, folder: Path) -> Path:
    """A base of one narrow layer with LLaMA 2's or LLaMA 3's own vocabulary, rebuilt from llama.cpp's test files."""
    fields = whole_metadata(llama_cpp_source / f"models/ggml-vocab-{name}.gguf")
    ids = {kind: fields[f"tokenizer.ggml.{kind}_token_id"] for kind in ("bos", "eos")}
    base = write_plain_base(
        folder, len(fields["tokenizer.ggml.tokens"]), **{f"{k}_token_id": v for k, v in ids.items()}
    )
    write_tokenizer(base, fields, 2048, name)
    return base


@pytest.fixture(scope="module")
def made(llama_cpp_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
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
    for name in VOCABULARIES:  # here the converter's own look-up of the pre-tokenizer decides
        base = real_vocabulary(llama_cpp_source, name, root / "bases" / name)
        jobs.append({"folder": base, "out": root / f"{name}-F16.gguf", "type": "f16", "name": "star", "pre": None})
    llama_source.convert(llama_cpp_source, root, jobs)
    yield root
    shutil.rmtree(root)


def compare(expected: Mapping[str, Any], found: Mapping[str, Any], differences: Mapping[str, str]) -> None:
    """Metadata and its order are equal, but for the keys in `differences`."""
    differing = {key: (expected.get(key), found.get(key)) for key in {**expected, **found}}
    differing = {key: (one, other) for key, (one, other) in differing.items() if one != other}
    assert set(differing) == set(differences), differing
    assert [key for key in expected if key not in differing] == [key for key in found if key not in differing]


@pytest.mark.parametrize("name", CASES)
def test_files_are_the_converters(name: str, made: Path, tmp_path: Path) -> None:
    kinds = [kind for kind in TYPES if (made / f"{name}-{kind}.gguf").is_file()]
    export(made / "bases" / name, out=tmp_path, levels=[LEVELS[kind] for kind in kinds], name="star")
    for kind in kinds:
        theirs, ours = made / f"{name}-{kind}.gguf", tmp_path / f"star-{kind}.gguf"
        compare(metadata(theirs), metadata(ours), CASES[name].differences)
        expected, found = tensors(theirs), tensors(ours)
        assert set(expected) == set(found)
        assert [tensor for tensor in expected if expected[tensor] != found[tensor]] == []


@pytest.mark.parametrize("name", VOCABULARIES)
def test_real_vocabularies_conform(
    name: str, made: Path, llama_cpp_source: Path, tmp_path: Path, llama_tokens: Callable[..., list[list[int]]]
) -> None:
    """32,000 and 128,256 tokens: equal to the converter's, to the original's, and all of llama.cpp's cases right."""
    export(made / "bases" / name, out=tmp_path, levels=[LEVELS["F16"]], name="star")
    found, original = (
        whole_metadata(path)
        for path in (tmp_path / "star-F16.gguf", llama_cpp_source / f"models/ggml-vocab-{name}.gguf")
    )
    compare(whole_metadata(made / f"{name}-F16.gguf"), found, {})
    for key in ("model", "pre", "tokens", "token_type", "scores", "merges", "bos_token_id", "eos_token_id"):
        assert found.get(f"tokenizer.ggml.{key}") == original.get(f"tokenizer.ggml.{key}"), key
    files = llama_cpp_source / "models"
    texts = (files / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode("utf-8").split("\n__ggml_vocab_test__\n")
    lines = (files / f"ggml-vocab-{name}.gguf.out").read_text().split("\n")[: len(texts)]
    assert len(texts) == 47
    assert llama_tokens(tmp_path / "star-F16.gguf", texts) == [[int(token) for token in line.split()] for line in lines]
