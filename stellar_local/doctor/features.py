"""The instruction sets that a processor has, and those that a build of llama.cpp uses, by one set of names.

Knows /proc/cpuinfo, macOS's sysctl, Windows's IsProcessorFeaturePresent and llama_print_system_info (ggml-cpu.cpp).
Those of macOS and Windows were never tried on a machine.
"""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

from .machine import tool

# ggml's name → the flags of /proc/cpuinfo, all of which it takes (x86, then ARM)
_LINUX = {
    "SSE3": ("pni",),
    "SSSE3": ("ssse3",),
    "AVX": ("avx",),
    "AVX_VNNI": ("avx_vnni",),
    "AVX2": ("avx2",),
    "F16C": ("f16c",),
    "FMA": ("fma",),
    "BMI2": ("bmi2",),
    "AVX512": ("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"),
    "AVX512_VBMI": ("avx512vbmi",),
    "AVX512_VNNI": ("avx512_vnni",),
    "AVX512_BF16": ("avx512_bf16",),
    "AMX_INT8": ("amx_tile", "amx_int8"),
    "NEON": ("asimd",),
    "FP16_VA": ("asimdhp",),
    "DOTPROD": ("asimddp",),
    "MATMUL_INT8": ("i8mm",),
    "SVE": ("sve",),
    "SME": ("sme",),
}
_MACOS = {
    "AVX": "avx1_0",
    "AVX2": "avx2_0",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX512": "avx512f",
    "NEON": "neon",
    "FP16_VA": "arm.FEAT_FP16",
    "DOTPROD": "arm.FEAT_DotProd",
    "MATMUL_INT8": "arm.FEAT_I8MM",
    "SME": "arm.FEAT_SME",
}
_WINDOWS = {"SSE3": 13, "SSSE3": 36, "AVX": 39, "AVX2": 40, "AVX512": 41}  # PF_... of winnt.h
# What makes a model clearly faster where it is used. AMX is not in it: left out on purpose where GCC breaks it.
FAST = ("AVX", "AVX2", "F16C", "FMA", "AVX512", "AVX512_VNNI", "AVX_VNNI", "NEON", "DOTPROD", "MATMUL_INT8")
KNOWN = frozenset(_LINUX)


def of_cpuinfo(text: str) -> frozenset[str]:
    """The features in the text of Linux's /proc/cpuinfo."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return frozenset(name for name, needed in _LINUX.items() if flags.issuperset(needed))


def name_of_cpuinfo(text: str) -> str:
    """The processor's name in the text of /proc/cpuinfo, "" where it has none (most of ARM's)."""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def of_sysctl(text: str) -> frozenset[str]:
    """The features in what macOS's `sysctl hw.optional` prints."""
    on = set(re.findall(r"^hw\.optional\.(\S+): 1$", text, re.MULTILINE))
    return frozenset(name for name, key in _MACOS.items() if key in on)


def of_system_info(text: str) -> frozenset[str]:
    """The features of ggml's CPU backend in what llama_print_system_info gives; all are on that are named."""
    found = re.search(r"\bCPU : (.*?)(?=\b[A-Z][A-Za-z]+ : |$)", text, re.DOTALL)
    return frozenset(re.findall(r"(\w+) = 1\b", found[1])) if found else frozenset()


def archs_of_system_info(text: str) -> tuple[int, ...]:
    """The compute capabilities that a CUDA build was made for, as 860 for 8.6; () where it does not say."""
    found = re.search(r"ARCHS = ([\d,\s]+)", text)
    return tuple(sorted(int(part) for part in re.findall(r"\d+", found[1]))) if found else ()


def this_processor() -> tuple[str, frozenset[str]]:
    """The name and the features of the processor; none where the system does not say."""
    if sys.platform == "win32":
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return "", frozenset(name for name, number in _WINDOWS.items() if present(number))
    if sys.platform == "darwin":
        name, features = tool("sysctl", "-n", "machdep.cpu.brand_string"), tool("sysctl", "hw.optional")
        return name.out.strip() if name else "", of_sysctl(features.out) if features else frozenset()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", frozenset()
    return name_of_cpuinfo(text), of_cpuinfo(text)
