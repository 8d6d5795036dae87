"""Libraries that pip has installed beside llama.cpp, found when the loader misses them; stand-ins for NVIDIA's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from stellar_local.native.companions import installed_by_pip, load_missing, missing_library

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or not sys.platform.startswith("linux"),
    reason="libraries are made with Linux's compiler",
)


def test_which_is_missing() -> None:
    glibc = (
        "Failed to load shared library '/x/libllama.so': libcudart.so.12: cannot open shared object file: No such file"
    )
    assert missing_library(glibc) == "libcudart.so.12"
    assert missing_library("Error loading shared library libcublas.so.12: No such file or directory (needed by x)") == (
        "libcublas.so.12"
    )
    assert missing_library("/x/libllama.so: file too short") == ""


def made(path: Path, needs: list[Path], code: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_suffix(".c")
    source.write_text(code)
    linked = [str(other) for other in needs]
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-Wl,--no-as-needed", f"-Wl,-soname,{path.name}", "-o", path, source, *linked],
        check=True,
    )
    return path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site-packages folder with NVIDIA's packages, and a llama_cpp whose library needs what is in them."""
    nvidia = tmp_path / "site" / "nvidia"
    runtime = made(nvidia / "cuda_runtime" / "lib" / "libcudart.so.12", [], "int runtime(void) { return 12; }")
    light = made(nvidia / "cublas" / "lib" / "libcublasLt.so.12", [], "int light(void) { return 1; }")
    blas = made(
        nvidia / "cublas" / "lib" / "libcublas.so.12", [light], "int light(void); int blas(void) { return light(); }"
    )
    package = tmp_path / "site" / "llama_cpp"
    code = "int runtime(void); int blas(void); int answer(void) { return runtime() + blas(); }"
    library = made(package / "lib" / "libllama.so", [runtime, blas], code)
    (package / "__init__.py").write_text("")
    (package / "llama_cpp.py").write_text(
        "import ctypes\n"
        f"path = {str(library)!r}\n"
        "try:\n    _lib = ctypes.CDLL(path)\n"
        "except Exception as e:\n    raise RuntimeError(f\"Failed to load shared library '{path}': {e}\")\n"
    )
    return tmp_path / "site"


def child(site: Path, code: str) -> str:
    """Run code in a fresh process, where nothing is loaded yet."""
    start = f"import sys; sys.path[:0] = [{str(site)!r}, {str(ROOT)!r}]\n"
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_system_does_not_find_them(site: Path) -> None:
    with pytest.raises(AssertionError, match=r"libcudart.so.12|libcublas"):
        child(site, "import llama_cpp.llama_cpp")


def test_pip_s_are_found(site: Path) -> None:
    """One after the other, and what they need themselves."""
    code = "from stellar_local.native.library import _imported; print(_imported()._lib.answer())"
    assert child(site, code) == "13"


def test_what_nobody_has_stays_missing(site: Path) -> None:
    shutil.rmtree(site / "nvidia" / "cublas")
    code = (
        "from stellar_local.native.library import _imported\n"
        "try:\n    _imported()\nexcept RuntimeError as error:\n    print(error)\n"
    )
    assert "libcublas.so.12: cannot open shared object file" in child(site, code)


def test_other_messages_load_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not load_missing("file too short")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_by_pip("libno-such-thing.so.1") is None
    assert not load_missing("libno-such-thing.so.1: cannot open shared object file: No such file or directory")
