"""The C++ core under sanitizers, every kernel's source included, whatever this machine's CPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARED = [
    ROOT / "tests/csrc/test_scanner.cpp",
    *(ROOT / f"csrc/{name}.cpp" for name in ("scanner", "distinct", "group", "multi_index", "rerank", "pool")),
]
GPU = {
    "search": ["cuda/database.cpp"],
    "encode": ["cuda/network.cpp", "cuda/stages.cpp", "csrc/network/description.cpp"],
    "ops": [],
}
KERNELS = [ROOT / f"csrc/kernels/{name}.cpp" for name in ("scalar", "avx2", "avx512_vpopcntdq")]


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler on the path")
@pytest.mark.parametrize(("sanitizer", "kernel_level"), [("address,undefined", "-O0"), ("thread", "-O1")])
def test_core_is_right_and_clean_under_sanitizers(sanitizer: str, kernel_level: str, tmp_path: Path) -> None:
    program = tmp_path / "test_scanner"
    compile_ = ["c++", "-std=c++17", "-g1", "-pthread", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    # The kernels' own #include <immintrin.h> finds the portable stand-in first. To optimise them takes a minute, which
    # under ThreadSanitizer pays.
    kernels = [*compile_, kernel_level, "-c", "-I", str(ROOT / "tests/csrc/portable_intrinsics"), *map(str, KERNELS)]
    subprocess.run(kernels, check=True, capture_output=True, text=True, cwd=tmp_path)
    objects = map(str, sorted(tmp_path.glob("*.o")))
    build = [*compile_, "-O1", *map(str, SHARED), *objects, "-o", str(program)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    run = subprocess.run([program], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler on the path")
@pytest.mark.parametrize("name", GPU)
def test_the_gpu_core_is_right_on_an_emulated_gpu(name: str, tmp_path: Path) -> None:
    program = tmp_path / f"test_gpu_{name}"
    flags = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    sources = [f"tests/csrc/test_gpu_{name}.cpp", *GPU[name]]
    build = ["c++", *flags, "-fno-sanitize-recover=all", *(str(ROOT / source) for source in sources)]
    subprocess.run([*build, "-o", str(program)], check=True, capture_output=True, text=True)
    run = subprocess.run([program], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
