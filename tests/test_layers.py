"""The arrows between packages and modules hold, and light commands stay light."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Stellar

PACKAGES = ["stellar_local", "convert", "train"]
SUBPACKAGES = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for package in PACKAGES
    for path in (ROOT / package).rglob("__init__.py")
    if path.parent != ROOT / package
)
HEAVY = {"torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers"}


def layers(package: str) -> list[set[str]]:
    """The package's layer line, from its docstring: left may import right, a comma separates equals."""
    doc = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))) or ""
    text = " ".join(doc.split("\n\n")[1].split()) if "\n\n" in doc else ""
    chain = re.search(r"((?:[\w]+)(?:, [\w]+)*(?: > (?:[\w]+)(?:, [\w]+)*)+)", text)
    return [set(group.split(", ")) for group in chain[1].split(" > ")] if chain else []


def modules(package: str) -> list[Path]:
    return [path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts]


def imports(path: Path) -> list[str]:
    """Absolute dotted names of everything a module imports, inside functions too; TYPE_CHECKING blocks count."""
    found, parts = [], path.relative_to(ROOT).with_suffix("").parts
    package = parts if path.name == "__init__.py" else parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            stem = parts[:-1] if path.name == "__init__.py" else package
            prefix = ".".join(stem[: len(stem) - node.level + 1]) if node.level else ""
            name = ".".join(filter(None, [prefix, node.module or ""]))
            found += [name] if node.module else [f"{name}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_point_one_way(package: str) -> None:
    forbidden = {"stellar_local": {"convert", "train"}, "convert": {"train"}, "train": {"convert"}}[package]
    for path in modules(package):
        assert not {name.split(".")[0] for name in imports(path)} & forbidden, path


@pytest.mark.parametrize("package", [*PACKAGES, *SUBPACKAGES])
def test_modules_import_only_to_their_right(package: str) -> None:
    order = layers(package)
    dotted = package.replace("/", ".")
    names = {
        path.stem if path.name != "__init__.py" else path.parent.name
        for path in [*(ROOT / package).glob("*.py"), *(ROOT / package).glob("*/__init__.py")]
        if path.parent != ROOT / package or path.name != "__init__.py"
    }
    if len(names) == 1:
        return
    rank = {name: number for number, group in enumerate(order) for name in group}
    assert set(rank) == names, f"{package}: the layer line and the modules differ"
    for path in modules(package):
        inside = path.relative_to(ROOT / package).with_suffix("").parts
        own = inside[0]
        if own == "__init__":
            continue
        for name in imports(path):
            if not name.startswith(dotted + "."):
                continue
            target = name[len(dotted) + 1 :].split(".")[0]
            if target in rank and target != own:
                assert rank[target] > rank[own], f"{path.relative_to(ROOT)} imports {name}: that arrow points up"


def test_arrow_test_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself sees an upward import."""
    package = tmp_path / "convert"
    package.mkdir()
    (package / "__init__.py").write_text('"""Doc.\n\nLayers: cli > export\n"""\n')
    (package / "cli.py").write_text("")
    (package / "export.py").write_text("def f():\n    from .cli import x\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    with pytest.raises(AssertionError, match="points up"):
        test_modules_import_only_to_their_right("convert")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["chat", "MODEL", "--prompt", "Hi", "--max-tokens", "3"], ["batch", "MODEL", "--max-tokens", "3"]],
    ids=["help", "chat", "batch"],
)
def test_light_commands_import_nothing_heavy(arguments: list[str], stellar: Stellar, spm_model: Path) -> None:
    loaded = stellar.loading(*[str(spm_model) if part == "MODEL" else part for part in arguments], input="Hello\n")
    assert "stellar_local" in loaded
    assert not loaded & HEAVY
    if arguments == ["--help"]:
        assert not loaded & {"llama_cpp", "numpy", "gguf", "prompt_toolkit", "rich"}
