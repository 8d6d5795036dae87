"""llama-cpp-python that is missing, of another version, or does not load; the missing library is named."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from doctor_cases import CUDA0, LINUX, MAC, NVIDIA, WINDOWS, around, cuda, fake_llama, loaded

from stellar_local.doctor import library
from stellar_local.doctor.finding import State
from stellar_local.doctor.library import check_build, check_library, refused
from stellar_local.doctor.probe import Outcome, ask
from stellar_local.native.ggml import library_folder
from stellar_local.texts import Texts

ENGLISH = Texts("en")
PATH = "/site/llama_cpp/lib/libllama.so"
FAILED = f"llama.cpp's native library cannot be loaded: Failed to load shared library '{PATH}': "


def test_a_sound_one() -> None:
    finding = check_library(loaded(), "0.3.36", around(), 60)
    assert finding.state is State.OK
    assert "0.3.36" in finding.said.text(ENGLISH)
    assert finding.fix == ""


@pytest.mark.parametrize("version", ["0.3.35", "0.3.37", "0.4.0", ""])
def test_another_version(version: str) -> None:
    finding = check_library(loaded(), version, around(), 60)
    assert finding.state is State.FAILURE
    assert ">=0.3.36,<0.3.37 is needed" in finding.said.text(ENGLISH)
    assert "'llama-cpp-python==0.3.36'" in finding.fix
    assert "/whl/cpu" in finding.fix
    assert "/whl/cu124" in check_library(loaded(), version, around(NVIDIA), 60).fix


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(
            {
                "package": None,
                "error": {"message": "llama-cpp-python is not installed (llama_cpp is missing)", "hint": ""},
            }
        ),
        Outcome({"package": None}),
    ],
)
def test_none(outcome: Outcome) -> None:
    finding = check_library(outcome, "", around(), 60)
    assert finding.state is State.FAILURE
    assert "is not installed" in finding.said.text(ENGLISH)
    assert "--no-deps" not in finding.fix  # what it depends on is missing too
    assert "--only-binary llama-cpp-python" in finding.fix


@pytest.mark.parametrize(
    ("message", "words", "fix"),
    [
        (
            "libcudart.so.12: cannot open shared object file: No such file or directory",
            "libcudart.so.12 is missing",
            "pip install 'nvidia-cuda-runtime-cu12' 'nvidia-cublas-cu12'",
        ),
        (
            "libcublasLt.so.13: cannot open shared object file: No such file or directory",
            "libcublasLt.so.13 is missing",
            "'nvidia-cuda-runtime==13.*' 'nvidia-cublas==13.*'",
        ),
        (
            "libcudart.so.11.0: cannot open shared object file: No such file or directory",
            "libcudart.so.11.0 is missing",
            "nvidia-cuda-runtime-cu11",
        ),
        (
            "libcuda.so.1: cannot open shared object file: No such file or directory",
            "libcuda.so.1 is missing",
            "nvidia",
        ),
        (
            "libgomp.so.1: cannot open shared object file: No such file or directory",
            "libgomp.so.1 is missing",
            "sudo apt-get install -y libgomp1",
        ),
        (
            "libvulkan.so.1: cannot open shared object file: No such file or directory",
            "libvulkan.so.1 is missing",
            "sudo apt-get install -y libvulkan1",
        ),
        (
            "libamdhip64.so.7: cannot open shared object file: No such file or directory",
            "libamdhip64.so.7 is missing",
            "amdgpu-install --usecase=rocm",
        ),
        (
            "Error loading shared library libstdc++.so.6: No such file or directory (needed by libggml.so)",
            "libstdc++.so.6 is missing",
            "libstdc++6",
        ),
        (
            "libggml-cpu.so.0: cannot open shared object file: No such file or directory",
            "libggml-cpu.so.0 is missing",
            "",
        ),
        (
            "/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /site/libggml-base.so)",
            "needs GLIBC_2.38, this system has glibc 2.36",
            "--no-binary llama-cpp-python",
        ),
        (
            "/lib64/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by libllama.so)",
            "GLIBCXX_3.4.32",
            "--no-binary",
        ),
        (
            "/site/libllama.so: undefined symbol: ggml_backend_dev_count",
            "ggml_backend_dev_count is missing in a part",
            "",
        ),
        ("/site/libllama.so: wrong ELF class: ELFCLASS32", "another kind of processor", ""),
        ("/site/libllama.so: file too short", "damaged", ""),
        ("/site/libllama.so: invalid ELF header", "damaged", ""),
        ("something new", "something new", ""),
    ],
)
def test_linux_s_loader(message: str, words: str, fix: str) -> None:
    said, command = refused(FAILED + message, around(), "apt-get")
    assert words in said.text(ENGLISH)
    assert fix in command
    assert bool(fix) == bool(command)  # else a sound library is put in its place
    finding = check_library(
        Outcome({"package": PATH, "error": {"message": FAILED + message, "hint": ""}}), "0.3.36", around(), 60
    )
    assert finding.state is State.FAILURE
    assert finding.fix


def test_other_package_managers() -> None:
    message = FAILED + "libgomp.so.1: cannot open shared object file: No such file or directory"
    commands = [refused(message, around(), name)[1] for name in ("dnf", "pacman", "apk", "zypper", "")]
    assert commands == [
        "sudo dnf install -y libgomp",
        "sudo pacman -S --noconfirm gcc-libs",
        "sudo apk add libgomp",
        "sudo zypper install -y libgomp1",
        "",
    ]


def test_no_driver_in_a_container() -> None:
    message = FAILED + "libcuda.so.1: cannot open shared object file"
    assert "--gpus all" in refused(message, around(machine=replace(LINUX, container=True)), "apt-get")[1]


def test_macos_s_loader() -> None:
    message = (
        "dlopen(/site/libllama.dylib, 0x0006): Library not loaded: @rpath/libggml-metal.0.dylib\n"
        "  Referenced from: <UUID> /site/libllama.dylib\n  Reason: tried: '/site/libggml-metal.0.dylib' (no such file)"
    )
    said, fix = refused(message, around(machine=MAC), "")
    assert "libggml-metal.0.dylib is missing" in said.text(ENGLISH)
    assert fix == ""
    message = (
        "dlopen(x.dylib, 0x6): tried: 'x.dylib' (mach-o file, but is an incompatible architecture (have 'x86_64'))"
    )
    assert "another kind of processor" in refused(message, around(machine=MAC), "")[0].text(ENGLISH)


def test_windows_s_loader_names_nothing_so_the_dlls_are_read(tmp_path: Path) -> None:
    """The names of imported DLLs stand in a DLL as text."""
    lib = tmp_path / "lib"
    lib.mkdir()
    (lib / "llama.dll").write_bytes(b"MZ\0\0ggml.dll\0KERNEL32.dll\0MSVCP140.dll\0")
    (lib / "ggml.dll").write_bytes(b"MZ\0\0ggml-cuda.dll\0")
    (lib / "ggml-cuda.dll").write_bytes(b"MZ\0\0cublas64_12.dll\0nvcuda.dll\0")
    message = f"Could not find module '{lib / 'llama.dll'}' (or one of its dependencies). Try using the full path."
    there = {"ggml.dll", "ggml-cuda.dll", "MSVCP140.dll", "nvcuda.dll"}
    assert library._missing_on_windows(message, there.__contains__) == "cublas64_12.dll"
    assert library._missing_on_windows(message, lambda name: True) == ""
    assert library._missing_on_windows("another error", there.__contains__) == ""
    environ = {"SYSTEMROOT": str(tmp_path), "CUDA_PATH": str(tmp_path / "cuda"), "PATH": ""}
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    (tmp_path / "cuda" / "bin" / "cublas64_12.dll").touch()
    assert library._on_windows("cublas64_12.dll", lib, environ)
    assert library._on_windows("ggml.dll", lib, environ)
    assert not library._on_windows("nvcuda.dll", lib, environ)
    said, fix = refused(message, around(machine=WINDOWS), "")
    assert "ggml-cuda.dll" not in said.text(ENGLISH)
    assert fix.startswith("winget install")


def copied(tmp_path: Path) -> Path:
    """The real library's folder, copied."""
    return Path(shutil.copytree(library_folder(), tmp_path / "lib", symlinks=True))


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname != "Linux", reason="the library's files are Linux's")
def test_a_real_library_without_one_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(tmp_path)
    gone = list(folder.glob("libggml-cpu*"))
    assert gone
    for path in gone:
        path.unlink()
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(folder))
    finding = check_library(ask("probe_library", 60), "0.3.36", around(), 60)
    assert finding.state is State.FAILURE
    assert "libggml-cpu.so" in finding.said.text(ENGLISH)
    assert "--force-reinstall" in finding.fix


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname != "Linux", reason="the library's files are Linux's")
def test_a_real_library_that_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(tmp_path)
    for path in folder.glob("libllama.so*"):
        path.unlink()
    (folder / "libllama.so").write_bytes(b"\x7fELF")
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(folder))
    finding = check_library(ask("probe_library", 60), "0.3.36", around(), 60)
    assert "damaged" in finding.said.text(ENGLISH)


def test_a_package_without_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    finding = check_library(ask("probe_library", 60), "0.3.36", around(), 60)
    assert finding.state is State.FAILURE
    assert "not found" in finding.said.text(ENGLISH)


def test_a_library_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(fake_llama(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGILL)"))
    finding = check_library(ask("probe_library", 60), "0.3.36", around(), 60)
    assert finding.state is State.FAILURE
    assert "SIGILL" in finding.said.text(ENGLISH)
    assert "--no-binary" in finding.fix


def test_its_build() -> None:
    finding = check_build(cuda(CUDA0))
    assert finding.details["kind"] == "cuda"
    assert "CUDA0 (NVIDIA GeForce RTX 3090)" in finding.said.text(ENGLISH)
    assert check_build(loaded()).details["kind"] == "cpu"
    assert check_build(Outcome({"stage": "load"}, 1)).state is State.SKIPPED


def test_the_probe_tells_what_the_library_says_of_itself() -> None:
    outcome = ask("probe_library", 60)
    assert outcome.done
    assert "CPU" in outcome.facts["backends"]
    assert Path(str(outcome.facts["library"])).parent == library_folder()
    assert outcome.facts["offload"] == bool(outcome.facts["devices"])
