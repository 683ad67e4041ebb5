"""Codes to FAISS and back, in memory and as files, sound and damaged."""

from __future__ import annotations

import errno
import gc
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from athsearch.codes import Codes
from athsearch.errors import FaissFileError
from athsearch.index.faiss_codes import KINDS, read_faiss, write_faiss

pytestmark = pytest.mark.usefixtures("one_openmp_thread")

BITS = (1, 7, 12, 36, 48, 64, 65, 128, 512)
READABLE = ("flat", "ivf", "hnsw", "multihash")


def random_codes(n_codes: int, bits: int, seed: int = 1) -> Codes:
    return Codes.from_bits(np.random.default_rng(seed).random((n_codes, bits)) < 0.5)


@pytest.mark.parametrize("kind", READABLE)
@pytest.mark.parametrize("bits", BITS)
def test_codes_come_back(kind: str, bits: int) -> None:
    for n_codes in (0, 1, 200):
        codes = random_codes(n_codes, bits)
        index = codes.to_faiss(kind)
        assert (index.ntotal, index.d) == (n_codes, -(-bits // 8) * 8)
        back = Codes.from_faiss(index, bits, "m")
        assert back == codes
        assert back.model_id == "m"
        assert back.words.flags.writeable
        del index
        gc.collect()
        assert back == codes


@pytest.mark.parametrize("kind", KINDS)
def test_faiss_finds_a_code_where_it_is(kind: str) -> None:
    codes = random_codes(500, 64)
    distances, rows = codes.to_faiss(kind).search(codes.to_bytes(), 1)
    assert rows[:, 0].tolist() == list(range(500))
    assert not distances.any()


def test_options_have_faiss_names() -> None:
    codes = random_codes(500, 64)
    ivf = codes.to_faiss("ivf", nlist=7, nprobe=3)
    assert (ivf.nlist, ivf.nprobe) == (7, 3)
    graph = codes.to_faiss("hnsw", M=5, efConstruction=11, efSearch=12)
    hnsw = graph.hnsw
    assert (hnsw.nb_neighbors(1), hnsw.efConstruction, hnsw.efSearch) == (5, 11, 12)
    hashed = codes.to_faiss("hash", b=9, nflip=0)
    assert (hashed.b, hashed.nflip) == (9, 0)
    several = codes.to_faiss("multihash", nhash=3, b=10, nflip=2)
    assert (several.nhash, several.b, several.nflip) == (3, 10, 2)
    for kind, options, message in (
        ("ivf", {"nlist": 501}, "nlist must be from 1 to 500 here, got 501"),
        ("ivf", {"nlist": 5, "nprobe": 6}, "nprobe must be from 1 to 5"),
        ("hnsw", {"M": 1}, "M must be from 2"),
        ("hash", {"b": 65}, "b must be from 1 to 62"),
        ("hash", {"nflip": -1}, "nflip must be from 0"),
        ("multihash", {"b": 20, "nhash": 4}, "nhash must be from 1 to 3"),
        ("lsh", {}, "unknown FAISS kind 'lsh'; known: flat, ivf"),
    ):
        with pytest.raises(ValueError, match=message):
            codes.to_faiss(kind, **options)
    with pytest.raises(TypeError, match="'nprobes'"):
        codes.to_faiss("ivf", nprobes=3)
    with pytest.raises(TypeError, match="'nlist'"):
        codes.to_faiss("flat", nlist=3)


def test_training_is_seeded_quiet_and_leaves_numpy_alone(capfd: pytest.CaptureFixture[str]) -> None:
    codes, state = random_codes(3000, 64), np.random.get_state()[1].tolist()
    lists = [faiss.serialize_index_binary(codes.to_faiss("ivf", nlist=200)).tobytes() for _ in range(2)]
    assert lists[0] == lists[1]
    assert np.random.get_state()[1].tolist() == state
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", READABLE)
def test_files_keep_codes_and_ids(tmp_path: Path, kind: str) -> None:
    codes, path = random_codes(300, 36), tmp_path / "codes.faiss"
    ids = np.cumsum(np.random.default_rng(2).integers(1, 9, 300))
    write_faiss(path, codes, kind=kind)
    assert Codes.from_faiss(path, 36) == codes
    assert read_faiss(str(path), 36)[1].tolist() == list(range(300))
    write_faiss(path, codes, ids, kind)
    back, back_ids = read_faiss(path, 36)
    assert back == codes
    assert back_ids.tolist() == ids.tolist()
    packed = np.ascontiguousarray(codes.to_bytes()[7:8])
    assert faiss.read_index_binary(str(path)).search(packed, 1)[1].tolist() == [[ids[7]]]
    assert list(tmp_path.iterdir()) == [path]


def test_a_files_name_may_be_no_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.faiss"))
    codes = random_codes(300, 36)
    write_faiss(path, codes)
    assert read_faiss(path, 36)[0] == codes


def test_codes_that_faiss_holds_in_another_order_come_in_order_of_their_ids(tmp_path: Path) -> None:
    codes = random_codes(50, 64)
    ids = np.random.default_rng(3).permutation(50) * 10
    mapped = faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(64))
    lists = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(64), 64, 4)
    lists.train(codes.to_bytes())
    for index in (mapped, lists):
        index.add_with_ids(codes.to_bytes(), ids)
        back, back_ids = read_faiss(index)
        assert back_ids.tolist() == sorted(ids.tolist())
        assert back == codes[np.argsort(ids)]
    write_faiss(tmp_path / "codes.faiss", codes, ids)
    assert read_faiss(tmp_path / "codes.faiss")[1].tolist() == sorted(ids.tolist())


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    codes, path = random_codes(50, 36), tmp_path / "codes.faiss"
    index = codes.to_faiss()
    with pytest.raises(ValueError, match="codes of 48 bits take 48 bits in FAISS, these take 40"):
        Codes.from_faiss(index, 48)
    longer = random_codes(50, 40).to_faiss()
    with pytest.raises(ValueError, match="past bit 36"):
        Codes.from_faiss(longer, 36)
    with pytest.raises(ValueError, match="does not give back the codes of a IndexBinaryHash"):
        Codes.from_faiss(codes.to_faiss("hash"))
    with pytest.raises(TypeError, match=r"expected a faiss\.IndexBinary or the path of a file, got IndexFlatL2"):
        Codes.from_faiss(faiss.IndexFlatL2(8))
    with pytest.raises(TypeError, match="expected Codes, got ndarray"):
        write_faiss(path, codes.words)  # type: ignore[arg-type]
    write_faiss(path, codes, list(range(50)))  # type: ignore[arg-type]
    path.unlink()
    with pytest.raises(TypeError, match=r"ids must be int64 \[50\], got int32 \[50\]"):
        write_faiss(path, codes, np.arange(50, dtype=np.int32))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        Codes.from_faiss(path)
    write_faiss(path, codes, kind="hash")
    with pytest.raises(FaissFileError, match=r"codes.faiss: FAISS does not give back .* IndexBinaryHash"):
        Codes.from_faiss(path)
    faiss.write_index(faiss.IndexFlatL2(8), str(path))
    with pytest.raises(FaissFileError, match=r"codes\.faiss: not a file of a FAISS binary index"):
        Codes.from_faiss(path)
    for content in (b"", b"IB", b"\x93NUMPY", b"IBqq" + bytes(99)):
        path.write_bytes(content)
        with pytest.raises(FaissFileError, match=r"codes\.faiss: "):
            Codes.from_faiss(path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "codes.faiss"
    path.write_text("old")
    write = faiss.write_index_binary
    monkeypatch.setattr(faiss, "write_index_binary", lambda index, _: write(index, "/dev/full"))
    with pytest.raises(OSError, match=rf"codes.faiss: .*{os.strerror(errno.ENOSPC)}"):
        write_faiss(path, random_codes(5000, 64))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


DAMAGE = """
import random, resource, sys
from pathlib import Path
import faiss
from athsearch.errors import FaissFileError
from athsearch.index.faiss_codes import read_faiss

faiss.omp_set_num_threads(1)
path, bad = Path(sys.argv[1]), Path(sys.argv[1] + ".bad")
sound, chance, outcomes = path.read_bytes(), random.Random(1), {"read": 0, "refused": 0}
read_faiss(path)
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (64 << 20),) * 2)
limits = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
for turn in range(600):
    damaged = bytearray(sound)
    if turn % 3:  # in the headers more often than in the codes
        damaged[chance.randrange((len(sound), 120)[turn % 2])] ^= 1 << chance.randrange(8)
    else:
        del damaged[chance.randrange(len(sound)):]
    bad.write_bytes(damaged)
    try:
        read_faiss(bad)
        outcomes["read"] += 1
    except FaissFileError as error:
        assert str(error).startswith(str(bad)), error
        outcomes["refused"] += 1
assert limits == (faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit())
assert outcomes["refused"] >= 200, outcomes
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_errors_and_take_no_memory(tmp_path: Path, kind: str) -> None:
    codes, path = random_codes(200, 64), tmp_path / "codes.faiss"
    write_faiss(path, codes, np.arange(200) * 3 if kind == "flat" else None, kind)
    program = DAMAGE if kind != "hash" else DAMAGE.replace("\nread_faiss(path)", "")
    ended = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_the_guide_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).parent.parent / "docs" / "faiss.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    codes, ids = random_codes(4000, 36), np.arange(4000) * 3
    names: dict[str, Any] = {"codes": codes, "ids": ids}
    exec(compile(example, "faiss.md", "exec"), names)
    assert names["codes"] == codes
    assert names["ids"].tolist() == ids.tolist()
    assert names["found"].distances[::10].tolist() == [0] * 5


def test_without_faiss_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    for use in (lambda: random_codes(3, 64).to_faiss(), lambda: Codes.from_faiss(tmp_path / "codes.faiss")):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'athsearch\[faiss\]'") as raised:
            use()
        assert raised.value.name == "faiss"
