"""stellar_local/plan/shapes.json as convert knows it; run it to write the file anew, with the checkout in PYTHONPATH.

stellar_local may not import convert, so the types that llama.cpp gives each tensor are kept as data there, made here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import count, groupby
from pathlib import Path
from typing import Any

from convert.levels import LEVELS, Level, tensor_type
from convert.llama import ARCHITECTURE, Shape

FILE = Path(__file__).resolve().parent.parent / "stellar_local" / "plan" / "shapes.json"

_FIELDS = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "feed_forward": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "vocabulary": "vocab_size",
    "context": "max_position_embeddings",
    "rope_theta": "rope_theta",
    "rms_eps": "rms_norm_eps",
}
# From the config.json of LLaMA 2 7B and 13B and of LLaMA 3 8B.
_MODELS: dict[str, tuple[str, tuple[float, ...]]] = {
    "7b": ("LLaMA 2 7B, BayLing-2-7B", (32, 4096, 11008, 32, 32, 32000, 4096, 10000.0, 1e-5)),
    "8b": ("LLaMA 3 8B, BayLing-2-Llama-3-8B", (32, 4096, 14336, 32, 8, 128256, 8192, 500000.0, 1e-5)),
    "13b": ("LLaMA 2 13B, BayLing-13B", (40, 5120, 13824, 40, 40, 32000, 4096, 10000.0, 1e-5)),
}


def shape_of(name: str) -> Shape:
    """A named model's shape, as convert reads it from config.json."""
    values = dict(zip(_FIELDS.values(), _MODELS[name][1], strict=True))
    return Shape.from_config({"architectures": [ARCHITECTURE], **values})


def exceptions(level: Level, shape: Shape) -> dict[str, Any]:
    """The kinds of matrix that are not of the level's own type: the type of all, or layers by type."""
    found: dict[str, dict[str, list[int]]] = {}
    layers: dict[str, int] = {}
    for tensor in shape.tensors():
        if len(tensor.shape) < 2:
            continue
        parts = tensor.gguf.split(".")
        layer, kind = (int(parts[1]), parts[2]) if parts[0] == "blk" else (0, parts[0])
        layers[kind] = layers.get(kind, 0) + 1
        type = tensor_type(level, tensor, shape, level.needs_importance)
        if type is not level.type:
            found.setdefault(kind, {}).setdefault(type.name, []).append(layer)
    return {
        kind: next(iter(types))
        if [*map(len, types.values())] == [layers[kind]]
        else {type: ranges(where) for type, where in types.items()}
        for kind, types in found.items()
    }


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers in short: 0-3,6,9."""
    position = count()
    runs = [list(run) for _, run in groupby(numbers, key=lambda number: number - next(position))]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def text() -> str:
    """The file: a line a level, and a line a level of each shape."""
    levels = [
        f"    {json.dumps(level.name)}: "
        + json.dumps({"file_type": level.ftype, **({"needs_importance": True} if level.needs_importance else {})})
        for level in LEVELS.values()
    ]
    shapes = []
    for name, (model, values) in _MODELS.items():
        fields = {"model": model, **dict(zip(_FIELDS, values, strict=True))}
        types = [
            f"        {json.dumps(level.name)}: "
            + json.dumps({"type": level.type.name, **exceptions(level, shape_of(name))})
            for level in LEVELS.values()
        ]
        rows = [f"      {json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items()]
        rows.append('      "types": {\n' + ",\n".join(types) + "\n      }")
        shapes.append(f"    {json.dumps(name)}: {{\n" + ",\n".join(rows) + "\n    }")
    return '{\n  "levels": {\n' + ",\n".join(levels) + '\n  },\n  "shapes": {\n' + ",\n".join(shapes) + "\n  }\n}\n"


if __name__ == "__main__":
    FILE.write_bytes(text().encode("utf-8"))
