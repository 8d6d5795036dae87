"""The documentation is current: cli.md equals --help, every command is shown, the READMEs' commands work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Stellar
from tiny import write_adapter

from stellar_local.cli import _MOUNTED

READMES = ["README.md", "README.zh.md"]
GUIDES = ["docs/stellarspeak.md", "docs/stellarspeak.zh.md"]
PYTHON = ["docs/python.md", "docs/python.zh.md"]


def fenced(page: str) -> list[str]:
    """The lines of a page's shell blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.split("  #")[0].split()) for line in lines if line.strip() and not line.startswith("#")]


def test_cli_page_is_current() -> None:
    """Made in a fresh process: click keeps a command's help option from its first use, and other tests use some."""
    code = "import runpy, sys; sys.stdout.buffer.write(runpy.run_path(sys.argv[1])['page']().encode())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "docs" / "generate.py")], capture_output=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == done.stdout.decode("utf-8"), "run: make docs"


@pytest.mark.parametrize("name", list(_MOUNTED))
def test_every_command_has_help_with_an_example(name: str, stellar: Stellar) -> None:
    done = stellar(name, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout or name == "data"
    assert done.stderr == ""


@pytest.mark.parametrize("pages", [READMES, GUIDES], ids=["readme", "guide"])
def test_both_languages_show_the_same_commands(pages: list[str]) -> None:
    english, chinese = map(fenced, pages)
    assert english == chinese
    assert len(english) > 4


@pytest.mark.parametrize("page", READMES)
def test_readmes_open_with_the_two_commands(page: str) -> None:
    assert fenced(page)[:2] == ["make demo", "make test"]


def test_readme_make_targets_exist() -> None:
    for line in fenced("README.md"):
        if line.startswith("make "):
            done = subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


def test_readme_commands_work(tmp_path: Path, spm_base: Path, spm_folder: Path) -> None:
    """All of the README's `stellar` commands, in order, with a tiny model in the places of the real ones."""
    shutil.copytree(spm_folder, tmp_path / "demo" / "model")
    shutil.copy(spm_folder / "tiny-F32.gguf", tmp_path / "model.gguf")
    run_all(fenced("README.md"), tmp_path)
    assert {path.name for path in (tmp_path / "model").glob("*.gguf")} == {"model-Q8_0.gguf", "model-Q4_K_M.gguf"}


def run_all(lines: list[str], folder: Path) -> None:
    """Run a page's `stellar` commands in a folder, as its reader would."""
    scripts = folder / "bin"
    scripts.mkdir()
    (scripts / "stellar").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m stellar_local.cli "$@"\n')
    (scripts / "stellar").chmod(0o755)
    env = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for line in lines:
        if not line.startswith("make "):
            done = subprocess.run(
                ["bash", "-c", line], cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_guide_commands_work(tmp_path: Path, spm_base: Path) -> None:
    """The guide's commands, with a tiny base in the place of BayLing and an adapter of it in that of StellarSpeak's."""
    shutil.copytree(spm_base, tmp_path / "bayling-13b")
    write_adapter(tmp_path / "bayling-13b", tmp_path / "13BSS_model_tensors" / "v3")
    run_all(fenced(GUIDES[0]), tmp_path)
    made = {path.name for path in tmp_path.iterdir()}
    assert {"stellarspeak-13b", "stellarspeak-13b-half", "stellarspeak-13b-hf", "stellarspeak-lora.gguf"} <= made


def test_python_examples_work(tmp_path: Path, spm_model: Path) -> None:
    """The English page's programs, which are the Chinese page's as well."""
    english, chinese = (
        re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL) for page in PYTHON
    )
    assert english == chinese
    assert len(english) == 2
    shutil.copy(spm_model, tmp_path / "model.gguf")
    for program in english:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.strip()


@pytest.mark.parametrize("page", [*READMES, *GUIDES, *PYTHON, "CONTRIBUTING.md", "templates/README.md", "docs/cli.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_no_file_is_huge() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    sizes = {name: (ROOT / name).stat().st_size for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    assert max(sizes.values()) < 1_000_000
    assert Path("LICENSE").name in sizes
