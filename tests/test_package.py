"""The package as a whole: its public names, who imports whom, and how fast it starts."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import athsearch

SOURCE = Path(__file__).parent.parent / "python" / "athsearch"

EVERYONE = {"errors", "types", "codes", "files", "parallel"}
MAY_IMPORT = {  # room -> rooms, beside those open to everyone
    "errors": set(),
    "types": set(),
    "codes": {"index"},  # in the methods that convert to and from FAISS
    "files": set(),
    "parallel": set(),
    "images": set(),
    "preprocessing": set(),
    "data": {"images"},
    "gpus": set(),  # and _cuda, by name
    "index": {"_cuda", "_scan", "gpus"},
    "benchmark": {"index"},
    "model": {"_network", "gpus", "preprocessing"},
    "recipes": {"preprocessing"},
    "encoder": {"_cuda", "data", "gpus", "images", "model", "preprocessing"},
    "evaluation": {"data", "index", "preprocessing"},  # in `near`, which reads images
    "explanation": {"data"},
    "plots": set(),
    "training": {"data", "encoder", "evaluation", "model", "plots", "preprocessing", "recipes"},
    "archive": {"_checks", "data", "encoder", "index"},
    "demo": {"archive", "data", "encoder", "evaluation", "explanation", "recipes", "training"},
}


def room_of(path: Path) -> str:
    name = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "training" if name.startswith("_training") else name


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a module imports when it runs, wherever in the file; what only type checkers see is left out."""
    package = ("athsearch", *path.relative_to(SOURCE).parts[:-1])
    rooms = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            modules = (
                [(*base, *(node.module or "").split("."))] if node.module else [(*base, a.name) for a in node.names]
            )
            for module in modules:
                if len(module) > 1:
                    rooms.add("training" if module[1].startswith("_training") else module[1])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return rooms


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_rooms_import_only_what_they_may(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__", "cli"):
        return
    assert imported_rooms(path) - EVERYONE - {room} <= MAY_IMPORT[room]


def test_the_import_rule_can_fail() -> None:
    assert "torch" not in imported_rooms(SOURCE / "encoder.py")
    assert imported_rooms(SOURCE / "archive" / "archive.py") >= {"encoder", "data"}


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(athsearch.__all__) == sorted(set(athsearch._HOME) | {"errors"})
    for name in athsearch.__all__:
        assert getattr(athsearch, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = athsearch.nonsense  # type: ignore[attr-defined]


def seconds_to_run(program: str, *names: str) -> float:
    """Median of the seconds a fresh interpreter takes for the program, its own start taken off; and checks `names`."""
    timed = f"import sys, time; begin = time.perf_counter()\n{program}\nprint(time.perf_counter() - begin)"
    timed += f"\nassert not {set(names)!r} & set(sys.modules)"
    runs = [subprocess.run([sys.executable, "-c", timed], check=True, capture_output=True, text=True) for _ in range(5)]
    return statistics.median(float(run.stdout) for run in runs)


def test_importing_is_quick_and_loads_nothing_heavy() -> None:
    assert seconds_to_run("import athsearch", "torch", "faiss", "numpy", "PIL") < 0.15


def test_searching_by_code_loads_neither_torch_nor_pillow() -> None:
    program = (
        "import athsearch as ath, numpy as np\n"
        "codes = ath.Codes(np.arange(9, dtype=np.uint64)[:, None], 36)\n"
        "assert ath.FlatIndex(codes).search(codes, k=1).ids.tolist() == list(range(9))"
    )
    seconds_to_run(program, "torch", "faiss", "PIL", "safetensors", "click")
