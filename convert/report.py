"""What a conversion made, as lines for people or as JSON for programs. Knows results; makes none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stellar_local.console import say

from .export import Exported
from .levels import level_table
from .space import readable
from .verify import LevelCheck


def levels_text(as_json: bool) -> str:
    """The table of levels: bits per weight (of a 7B), sizes in GiB of a 7B, 8B and 13B, and what each is for."""
    rows = level_table()
    if as_json:
        return json.dumps(
            [
                {
                    "level": row.level.name,
                    "bits_per_weight": round(row.bits_per_weight, 3),
                    "gib": {"7b": round(row.size_7b, 3), "8b": round(row.size_8b, 3), "13b": round(row.size_13b, 3)},
                    "needs_imatrix": row.level.needs_importance,
                    "purpose": row.level.purpose,
                }
                for row in rows
            ],
            indent=1,
        )
    lines = ["level     bits  GiB: 7B     8B    13B  what it is for"]
    for row in rows:
        sizes = f"{row.size_7b:8.2f} {row.size_8b:6.2f} {row.size_13b:6.2f}"
        mark = " (needs --imatrix)" if row.level.needs_importance else ""
        lines.append(f"{row.level.name:8} {row.bits_per_weight:5.2f} {sizes}  {row.level.purpose}{mark}")
    return "\n".join(lines)


def summary(made: Exported | None, out: Path | None, checks: Sequence[LevelCheck] | None) -> str:
    """Everything as JSON: the files with their sizes and hashes, how long it took, what a verification found."""
    data: dict[str, Any] = {"out": None if out is None else str(out)}
    if made is not None:
        data |= {
            "name": made.name,
            "weights": made.weights,
            "seconds": round(made.seconds, 3),
            "levels": [
                {
                    "level": item.level,
                    "file": item.file,
                    "size": item.size,
                    "bits_per_weight": round(item.bits_per_weight, 4),
                    "sha256": item.sha256,
                    "kept": item.level in made.kept,
                }
                for item in made.levels
            ],
            "hf": None if made.hf is None else str(made.hf),
            "lora_gguf": None if made.lora_gguf is None else str(made.lora_gguf),
        }
    if checks is not None:
        data["verified"] = [{**asdict(check), "sound": check.sound} for check in checks]
    return json.dumps(data, ensure_ascii=False, indent=1)


def say_made(made: Exported) -> None:
    """The same of an export for people, on stderr."""
    for item in made.levels:
        kept = "  (made before)" if item.level in made.kept else ""
        bits = f"{item.bits_per_weight:5.2f} bits per weight"
        say(f"{item.level:8} {readable(item.size):>11}  {bits}  {item.file}{kept}")
    if made.hf is not None:
        say(f"merged Hugging Face folder: {made.hf}")
    if made.lora_gguf is not None:
        say(f"adapter for use at run time: {made.lora_gguf}")


def say_checks(checks: Sequence[LevelCheck]) -> None:
    """What a verification found, for people, on stderr: a line a level, and a line a problem."""
    for check in checks:
        found = check.divergence
        if not check.sound:
            say(f"{check.level:8} damaged")
            for problem in check.problems:
                say(f"         {problem}")
            continue
        figures = ""
        if found is not None:
            parts = [
                f"{name} KL {item.kl:.5f}, same top token {item.same_top:.1%}"
                for name, item in (("", found.overall), *found.languages.items())
            ]
            figures = "; ".join(part.strip() for part in parts)
        say(f"{check.level:8} sound. {figures}{' (' if figures else ''}{check.note}{')' if figures else ''}")
