"""What a GGUF says of itself: the model's sizes and constants, where it comes from, and how to prompt it.

Keys, types and their order are llama.cpp's converter's (conversion/base.py and llama.py, and gguf-py's Metadata).
Neither a path nor a date goes in: the same inputs give the same bytes. Knows keys; reads no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gguf
import numpy as np

from stellar_local.prompts import Template

from .about import SAMPLING, About, Source
from .levels import Level
from .llama import Shape
from .vocab import Vocabulary


def metadata(
    name: str, shape: Shape, level: Level, vocabulary: Vocabulary, template: Template | None, weights: int, about: About
) -> dict[str, Any]:
    """All metadata of one level's file but general.architecture, which GgufStream adds.

    `shape` is the merged model's, `weights` their number. Whole numbers are unsigned 32-bit, except where NumPy's
    int32 says that llama.cpp reads a signed one.
    """
    out: dict[str, Any] = {
        "general.type": "model",
        **_sampling_keys(about),
        "general.name": name,
        **_words(about, ("author", "version", "organization", "finetune", "basename")),
        "general.size_label": gguf.size_label(weights, weights, 0, 0),
        **_words(about, ("license", "license_name", "license_link")),
        **_sources("base_model", about.base_models),
        **_sources("dataset", about.datasets),
        **{f"general.{key}": list(values) for key in ("tags", "languages") if (values := getattr(about, key))},
        "llama.block_count": shape.layers,
        "llama.context_length": shape.context,
        "llama.embedding_length": shape.width,
        "llama.feed_forward_length": shape.feed_forward,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
    }
    if shape.rope.get("rope_type") == "linear":
        out |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": float(shape.rope["factor"])}
    own = {}
    if template is not None:
        own = {"stellar.template": template.source, "stellar.template.name": template.name}
    return out | {
        "llama.rope.freq_base": shape.rope_theta,
        "llama.attention.layer_norm_rms_epsilon": shape.rms_eps,
        "llama.attention.key_length": shape.head_dim,
        "llama.attention.value_length": shape.head_dim,
        "general.file_type": level.ftype,
        "llama.vocab_size": shape.vocabulary,
        "llama.rope.dimension_count": shape.head_dim,
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **vocabulary.metadata(),
        **own,
    }


def _sampling_keys(about: About) -> dict[str, Any]:
    return {
        f"general.sampling.{key}": np.int32(about.sampling[key]) if kind is int else float(about.sampling[key])
        for key, (kind, _) in SAMPLING.items()
        if key in about.sampling
    }


def _words(about: About, names: Iterable[str]) -> dict[str, str]:
    return {
        f"general.{name.replace('license_', 'license.')}": getattr(about, name)
        for name in names
        if getattr(about, name)
    }


def _sources(kind: str, sources: Sequence[Source]) -> dict[str, Any]:
    """The keys of base models or data sets, each source's in the converter's order."""
    out: dict[str, Any] = {f"general.{kind}.count": len(sources)} if sources else {}
    for number, source in enumerate(sources):
        for key in ("name", "version", "organization", "repo_url"):
            if value := getattr(source, key):
                out[f"general.{kind}.{number}.{key}"] = value
    return out
