"""Templates and corpus are found in a wheel and in a checkout; the wheel holds our packages and nothing else.

The editable install is what the other tests run in.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

PROBE = """
import stellar_local, stellar_local.prompts as prompts, train.corpus as corpus, convert
print(stellar_local.__file__)
print(len(prompts.template_names()), prompts.load_template("bayling").name)
print(len(corpus.shipped("astronomy")))
from train.building.recipe import find_recipe, load_recipe
print(len(load_recipe(find_recipe("stellarspeak")).sources))
from stellar_local.plan.shapes import LEVELS, SHAPES
print(len(SHAPES), len(LEVELS))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (found,) = out.glob("*.whl")
    return found


def probe(path: Path, cwd: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_in_a_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    file, templates, rows, sources, shapes = probe(tmp_path / "site", tmp_path)
    assert Path(file).parent == tmp_path / "site" / "stellar_local"
    assert templates == f"{len(list((ROOT / 'templates').glob('*.json')))} bayling"
    assert int(rows) >= 120
    assert int(sources) == 3
    assert shapes == "3 30"


def test_in_a_checkout(tmp_path: Path) -> None:
    file, templates, rows, sources, shapes = probe(ROOT, tmp_path)
    assert Path(file).parent == ROOT / "stellar_local"
    assert templates == f"{len(list((ROOT / 'templates').glob('*.json')))} bayling"
    assert int(rows) >= 120
    assert int(sources) == 3
    assert shapes == "3 30"


def test_the_wheel_holds_our_packages_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"stellar_local", "convert", "train"}
    assert "stellar_local/py.typed" in names
    beside = [path for path in (ROOT / "stellar_local").rglob("*") if path.suffix in (".json", ".jsonl", ".css")]
    assert len(beside) >= 4
    assert {path.relative_to(ROOT).as_posix() for path in beside} <= set(names)
    assert sum(name.startswith("train/data/") for name in names) == len(list((ROOT / "train" / "data").glob("*.jsonl")))
