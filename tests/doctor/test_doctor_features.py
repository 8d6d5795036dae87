"""A processor's features, from what Linux, macOS and llama.cpp say of several of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from stellar_local.doctor.features import (
    archs_of_system_info,
    name_of_cpuinfo,
    of_cpuinfo,
    of_sysctl,
    of_system_info,
    this_processor,
)
from stellar_local.native.library import api

IVY_BRIDGE = """processor	: 0
model name	: Intel(R) Core(TM) i5-3570 CPU @ 3.40GHz
flags		: fpu vme sse sse2 ht pni pclmulqdq ssse3 cx16 sse4_1 sse4_2 popcnt aes xsave avx f16c rdrand lahf_lm erms

processor	: 1
flags		: nothing
"""
ZEN4 = """model name	: AMD Ryzen 9 7950X 16-Core Processor
flags : pni ssse3 fma avx f16c avx2 bmi2 avx512f avx512dq avx512cd avx512bw avx512vl avx512_bf16 avx512vbmi avx512_vnni
"""
KNIGHTS_LANDING = (
    "model name : Intel(R) Xeon Phi(TM)\nflags : pni ssse3 fma avx f16c avx2 bmi2 avx512f avx512pf avx512er avx512cd\n"
)
SAPPHIRE = "model name : Xeon\nflags : avx avx2 amx_bf16 avx512_fp16 amx_tile amx_int8\n"
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp asimddp sve i8mm\n"
M1 = (
    "hw.optional.neon: 1\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\nhw.optional.floatingpoint: 1\n"
)


@pytest.mark.parametrize(
    ("text", "features"),
    [
        (IVY_BRIDGE, {"SSE3", "SSSE3", "AVX", "F16C"}),
        (
            ZEN4,
            {
                "SSE3",
                "SSSE3",
                "AVX",
                "F16C",
                "FMA",
                "AVX2",
                "BMI2",
                "AVX512",
                "AVX512_BF16",
                "AVX512_VBMI",
                "AVX512_VNNI",
            },
        ),
        (KNIGHTS_LANDING, {"SSE3", "SSSE3", "AVX", "F16C", "FMA", "AVX2", "BMI2"}),  # its AVX-512 is another
        (SAPPHIRE, {"AVX", "AVX2", "AMX_INT8"}),
        (GRAVITON, {"NEON", "FP16_VA", "DOTPROD", "SVE", "MATMUL_INT8"}),
        ("", set()),
    ],
)
def test_cpuinfo(text: str, features: set[str]) -> None:
    assert of_cpuinfo(text) == features


def test_names() -> None:
    assert name_of_cpuinfo(IVY_BRIDGE) == "Intel(R) Core(TM) i5-3570 CPU @ 3.40GHz"
    assert name_of_cpuinfo(GRAVITON) == ""


def test_macos() -> None:
    assert of_sysctl(M1) == {"NEON", "DOTPROD"}


def test_what_a_build_says() -> None:
    text = "CUDA : ARCHS = 500,610,700 | FORCE_MMQ = 1 | CPU : SSE3 = 1 | AVX = 1 | REPACK = 1 | "
    assert of_system_info(text) == {"SSE3", "AVX", "REPACK"}
    assert archs_of_system_info(text) == (500, 610, 700)
    assert of_system_info("MTL : EMBED_LIBRARY = 1 | CPU : NEON = 1 | SVE_CNT = 16 | ACCELERATE = 1 | ") == {
        "NEON",
        "ACCELERATE",
    }
    assert archs_of_system_info("CPU : AVX = 1 | ") == ()
    assert of_system_info("") == frozenset()


def test_this_machine_has_what_its_build_uses() -> None:
    """Our two readings against each other: the library runs here, so it uses nothing that is missing."""
    if not Path("/proc/cpuinfo").exists():
        pytest.skip("no Linux")
    name, has = this_processor()
    built = of_system_info(api().llama_print_system_info().decode())
    assert has
    assert built
    assert built - {"LLAMAFILE", "OPENMP", "REPACK", "ARM_FMA"} <= has
