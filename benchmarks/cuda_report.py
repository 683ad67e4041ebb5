"""What the compiler made of the CUDA kernels, for every GPU they are built for: no GPU is needed.

Compiles each file of cuda/ and writes registers and instructions of each kernel into docs/cuda.md. Exits 1 where a
kernel spills, has a stack, or its machine code touches local memory, or lacks the tensor cores' instruction it is
written for, and where the compiler makes products wait for each other that are meant to overlap. Needs nvcc,
cuobjdump and nvdisasm, all of the CUDA toolkit.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "cuda.md"
BEGIN, END = "<!-- kernels: make cuda-report -->", "<!-- end -->"
COUNTED = ("POPC", "LOP3", "LDG", "LDS", "ATOM", "RED")
NEEDED = {
    **{("scan_b1", arch): "BMMA" for arch in ("sm_80", "sm_90a")},  # later GPUs emulate it
    ("scan_wgmma", "sm_90a"): "BGMMA",
    **{("stage half", arch): "HMMA" for arch in ("sm_80", "sm_90a", "sm_100")},
}  # by kernels so named
SERIALIZED = "Potential Performance Loss"  # as ptxas says it
LETTERS = {"scan_b1": "MN"}  # of a kernel's numbers; by default WQ, and x after a type
NAMES = (
    "scan|scan_b1|scan_wgmma|count|sort|arrange|stage|finish|attention_forward|attention_backward|sum_blocks|hash_pack"
)
TYPES = {"Float16": "half", "BFloat16": "bfloat16", "f": "float", "d": "double"}


class Kernel(NamedTuple):
    """One kernel for one GPU. stack and spills: bytes; local: instructions that touch local memory; names: of any."""

    registers: int
    stack: int
    spills: int
    instructions: int
    local: int
    counted: tuple[int, ...]
    names: frozenset[str]


def readable(symbol: str) -> str:
    """scan W1 Q8 of a mangled name with template parameters 1 and 8; W0 stands for every other number of words.

    hash_pack half x8 of one with a type and 8: channels read at once, or images a warp. scan_b1 M4 N4: tiles of 16
    queries and of 8 rows.
    """
    name = re.search(rf"\d({NAMES})_kernel(?:I(?:NS\d_\d+(B?Float16)E|([fd])))?", symbol)
    if name is None:
        raise SystemExit(f"unknown kernel {symbol}")
    numbers = re.findall(r"[A-Za-z]Lj(\d+)", symbol)
    of_type = name[2] or name[3]
    letters = "x" if of_type else LETTERS.get(name[1], "WQ")
    parts = [name[1], *([TYPES[of_type]] if of_type else [])]
    return " ".join(parts + [letter + number for letter, number in zip(letters, numbers, strict=False)])


def compile_file(path: Path, arch: str, nvcc: str, cuobjdump: str, folder: Path) -> dict[str, Kernel]:
    """The kernels of a file for an arch such as sm_90a; compute_100 is PTX, which is made and not counted."""
    cubin = folder / f"{path.stem}.{arch}"
    kind = "-ptx" if arch.startswith("compute_") else "-cubin"
    flags = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-lineinfo", f"-arch={arch}", kind]
    made = _run([nvcc, *flags, "-Xptxas=-v", str(path), "-o", str(cubin)])
    if SERIALIZED in made.stderr + made.stdout:
        raise SystemExit(f"{path} for {arch}:\n{made.stderr}{made.stdout}")
    if kind == "-ptx":
        return {}
    used = re.findall(
        r"Compiling entry function '(\S+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        made.stderr + made.stdout,
        re.DOTALL,
    )
    listing = _run([cuobjdump, "-sass", str(cubin)]).stdout
    code = dict(re.findall(r"Function : (\S+)\n(.*?)(?=\tFunction : |\Z)", listing, re.DOTALL))
    kernels = {}
    for symbol, stack, stores, loads, registers in used:
        operations = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", code[symbol])
        counted = tuple(sum(name.startswith(operation) for name in operations) for operation in COUNTED)
        local = sum(name in ("LDL", "STL") for name in operations)
        kernels[readable(symbol)] = Kernel(
            *(int(registers), int(stack), int(stores) + int(loads), len(operations), local, counted),
            frozenset(operations),
        )
    if not kernels:
        raise SystemExit(f"{path}: nvcc told of no kernel for {arch}")
    return kernels


def table(found: dict[str, dict[str, Kernel]], archs: list[str]) -> str:
    """A row a kernel; registers and instructions for each arch, counts of some instructions for the last."""
    titles = [f"{arch} registers / instructions" for arch in archs]
    lines = [
        "| kernel | " + " | ".join([*titles, f"{' / '.join(COUNTED)} ({archs[-1]})"]) + " |",
        "|---" * (len(archs) + 2) + "|",
    ]
    for name, by_arch in sorted(found.items()):
        cells = [f"{by_arch[arch].registers} / {by_arch[arch].instructions}" for arch in archs]
        lines.append("| " + " | ".join([name, *cells, " / ".join(map(str, by_arch[archs[-1]].counted))]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Compiles, writes the table, and exits 1 where a kernel uses local memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--cuobjdump", default="cuobjdump")
    parser.add_argument("--archs", default="sm_80,sm_90a,sm_100,compute_100", help="sm_* are counted, compute_* built")
    arguments = parser.parse_args()
    archs = arguments.archs.split(",")
    counted = [arch for arch in archs if not arch.startswith("compute_")]
    found: dict[str, dict[str, Kernel]] = defaultdict(dict)
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted((ROOT / "cuda").glob("*.cu")):
            for arch in archs:
                print(f"{path.name} for {arch}", file=sys.stderr)
                for name, kernel in compile_file(path, arch, arguments.nvcc, arguments.cuobjdump, Path(folder)).items():
                    found[name][arch] = kernel
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{table(found, counted)}\n{END}{tail}", encoding="utf-8")
    bad = [
        f"{name} for {arch}: {kernel.stack} bytes of stack, {kernel.spills} spilled, {kernel.local} local instructions"
        for name, by_arch in found.items()
        for arch, kernel in by_arch.items()
        if kernel.stack or kernel.spills or kernel.local
    ]
    if bad:
        sys.exit("kernels must not use local memory:\n" + "\n".join(bad))
    lacking = []
    for (kernel_name, arch), operation in NEEDED.items():
        kernels = [by_arch for name, by_arch in found.items() if name.startswith(kernel_name)]
        if arch in counted and not (kernels and all(operation in by_arch[arch].names for by_arch in kernels)):
            lacking.append(f"{kernel_name} for {arch}: no {operation}")
    if lacking:
        sys.exit("kernels lack the instruction they are for:\n" + "\n".join(lacking))
    print(f"{len(found)} kernels for {', '.join(counted)}: no spills, no stack, no local memory", file=sys.stderr)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done


if __name__ == "__main__":
    main()
