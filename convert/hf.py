"""A Hugging Face folder as output: the files around its weights.

Knows the folder's layout; the merged folder keeps the base's tokenizer and configuration.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from stellar_local.errors import UsageError
from stellar_local.prompts import Template

from .checkpoint import Checkpoint, read_json

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_NAMES = {stored: name for name, stored in DTYPES.items()}
_COPIED = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


def stored_dtype(name: str) -> str:
    """safetensors' name of a dtype: "bfloat16" → "BF16". Raises UsageError."""
    if name not in DTYPES:
        raise UsageError(f"unknown dtype: {name}", f"use one of {', '.join(DTYPES)}")
    return DTYPES[name]


def write_json(path: Path, data: object) -> None:
    """Write indented JSON in UTF-8."""
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", newline="\n")


def write_surroundings(folder: Path, base: Checkpoint, dtype: str, template: Template | None, with_bos: bool) -> None:
    """Everything of a merged folder but its weights: configuration, tokenizer and licence, as in the base.

    With a template of ours its Jinja form replaces the base's; `with_bos` puts the begin token into it, which
    Transformers does not add to a rendered chat template.
    """
    config: dict[str, Any] = {**base.config, "torch_dtype": _NAMES[dtype]}
    if "dtype" in config:
        config["dtype"] = _NAMES[dtype]
    write_json(folder / "config.json", config)
    licences = [path.name for path in base.folder.iterdir() if path.name.upper().startswith(("LICENSE", "NOTICE"))]
    for name in (*_COPIED, *licences):
        if (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, folder / name)
    if template is None:
        return
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    settings = read_json(path, path.name) if path.is_file() else {}
    write_json(path, {**settings, "chat_template": template.jinja(with_bos=with_bos)})
    (folder / "template.json").write_text(template.source, encoding="utf-8", newline="\n")
