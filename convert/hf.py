"""What a merged Hugging Face folder holds beside its weights: configuration, tokenizer, template and licence.

The folder keeps the base's tokenizer and configuration, but for what
merging changed: vocabulary size, shared embeddings, added tokens, the prompt template. Only files of known names are
copied, and nothing that makes Transformers run code from the folder (`*.py`, `auto_map`). Knows names and JSON; knows
no tensor.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stellar_local.errors import UsageError
from stellar_local.prompts import Template

from .about import is_local
from .checkpoint import Checkpoint, read_json
from .llama import Shape

TEMPLATE_FILE = "template.json"  # what training leaves in the adapter's folder
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_NAMES = {stored: name for name, stored in DTYPES.items()}
_CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json")  # the places beside tokenizer_config.json
_TOKENIZER = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    *_CHAT_TEMPLATES,
)
_LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
_GENERATION = "generation_config.json"


def stored_dtype(name: str) -> str:
    """safetensors' name of a dtype: "bfloat16" → "BF16". Raises UsageError."""
    if name not in DTYPES:
        raise UsageError(f"unknown dtype: {name}", f"use one of {', '.join(DTYPES)}")
    return DTYPES[name]


def write_json(path: Path, data: object) -> None:
    """Write indented JSON in UTF-8."""
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", newline="\n")


def write_surroundings(
    folder: Path,
    base: Checkpoint,
    dtype: str,
    template: Template | None,
    with_bos: bool,
    shape: Shape,
    adapters: Sequence[Path] = (),
) -> None:
    """Everything of a merged folder but its weights: configuration, tokenizer and licence, as in the base.

    `shape` is the merged model's. `adapters` are the folders of those that enlarge the vocabulary: their tokenizer
    files take the place of the base's, since training saved them with the tokens that were added. With a template of
    ours its Jinja form replaces the base's; `with_bos` puts the begin token into it, which Transformers does not add
    to a rendered chat template. Raises ModelError for a tokenizer_config.json that is no JSON, OSError for a full disk.
    """
    write_json(folder / "config.json", _config(base.config, dtype, shape))
    licences = [
        path.name
        for path in base.folder.iterdir()
        if path.name.upper().startswith(_LICENCES) and path.suffix.lower() in ("", ".txt", ".md", ".pdf")
    ]
    for name in (*_TOKENIZER, _GENERATION, *licences):
        _copy(base.folder, folder, name)
    for adapter in adapters:
        for name in _TOKENIZER:
            _copy(adapter, folder, name)
    path = folder / "tokenizer_config.json"
    settings = read_json(path, path.name) if path.is_file() else {}
    if template is not None:
        for name in _CHAT_TEMPLATES:
            (folder / name).unlink(missing_ok=True)
        settings["chat_template"] = template.jinja(with_bos=with_bos)
        (folder / TEMPLATE_FILE).write_text(template.source, encoding="utf-8", newline="\n")
    if settings:
        write_json(path, _without_code(settings))


def _config(config: Mapping[str, Any], dtype: str, shape: Shape) -> dict[str, Any]:
    """The base's configuration with what merging changed, in the form of the Transformers that wrote it."""
    out = {**_without_code(config), "torch_dtype": _NAMES[dtype]}
    if "dtype" in out:
        out["dtype"] = _NAMES[dtype]
    if "_name_or_path" in out and is_local(str(out["_name_or_path"])):
        del out["_name_or_path"]  # Transformers leaves it as a note; a path tells where the folder was made
    before = Shape.from_config(config)
    if shape.vocabulary != before.vocabulary:
        out["vocab_size"] = shape.vocabulary
    if shape.tied != before.tied:
        out["tie_word_embeddings"] = shape.tied
    return out


def _without_code(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that name Python code in the folder."""
    return {name: value for name, value in settings.items() if name not in ("auto_map", "custom_pipelines")}


def _copy(source: Path, target: Path, name: str) -> None:
    """Copy a file of this name, if there is one."""
    if (source / name).is_file():
        shutil.copyfile(source / name, target / name)
