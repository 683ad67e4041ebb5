"""Archives of ready-made codes: all of them or none, exactly found, and little memory for each."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from athsearch.archive.archive import Archive
from athsearch.archive.cases import Case
from athsearch.archive.segment import Segment, npy_header
from athsearch.archive.writing import writing
from athsearch.codes import Codes, concatenate
from athsearch.data import Source
from athsearch.encoder import Encoder
from athsearch.errors import ArchiveError, ModelError, ModelMismatch
from athsearch.evaluation import evaluate_archive
from athsearch.index import FlatIndex
from conftest import draw_image


def random_codes(n_codes: int, bits: int = 36, seed: int = 0) -> Codes:
    return Codes.from_bits(np.random.default_rng(seed).random((n_codes, bits)) < 0.5)


def found(archive: Archive, query: Codes | int, k: int = 50, **options: object) -> list[tuple[int, int]]:
    search = archive.search if isinstance(query, Codes) else archive.search_case
    return [(hit.case.id, hit.distance) for hit in search(query, k, **options)]  # type: ignore[operator]


def contents(folder: Path) -> dict[str, bytes]:
    names = {"catalogue.sqlite"} | {str(path.relative_to(folder)) for path in (folder / "segments").iterdir()}
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def mixed(tmp_path: Path, encoder: Encoder, source: Source) -> Iterator[Archive]:
    """Codes 1 to 100, the twelve cases of `source` as 101 to 112, codes 113 to 200."""
    with Archive.create(tmp_path / "mixed", encoder) as archive:
        assert archive.add_codes(random_codes(100)) == range(1, 101)
        assert archive.add(source).n_added == 12
        assert archive.add_codes(random_codes(88, seed=1)) == range(113, 201)
        yield archive


def test_codes_are_found_as_by_an_index_over_all(mixed: Archive, encoder: Encoder, source: Source) -> None:
    images = [source.root / item.source for item in source.items]
    codes = concatenate([random_codes(100), encoder.encode(images), random_codes(88, seed=1)])
    assert mixed.database().codes == codes
    assert mixed.database().ids.tolist() == list(range(1, 201))
    assert (mixed.n_cases, mixed.n_codes_alone, mixed.n_segments) == (200, 188, 3)

    def truth(query: Codes, gone: set[int]) -> list[tuple[int, int]]:
        ids = np.array([id for id in range(1, 201) if id not in gone])
        return [tuple(pair) for pair in FlatIndex(codes[ids - 1], ids).search(query, k=50)[0]]  # type: ignore[misc]

    for query in range(0, 200, 7):
        assert found(mixed, codes[query : query + 1]) == truth(codes[query : query + 1], set())
        assert found(mixed, query + 1, exclude_same=()) == truth(codes[query : query + 1], {query + 1})
    gone = {1, 50, 100, 101, 105, 113, 200}
    assert mixed.delete(gone) == 7
    assert (mixed.n_cases, mixed.n_codes_alone, mixed.n_deleted) == (193, 183, 7)
    for query in range(1, 200, 7):
        if query + 1 not in gone:
            assert found(mixed, query + 1, exclude_same=()) == truth(codes[query : query + 1], {query + 1, *gone})
    with pytest.raises(KeyError):
        mixed.case(50)
    for wrong in ([2, 50], [2, 101], [2, 201]):
        with pytest.raises(KeyError, match=str(wrong[1])):
            mixed.delete(wrong)
    assert mixed.n_cases == 193
    left = [id for id in range(1, 201) if id not in gone]
    assert mixed.database().ids.tolist() == left
    assert mixed.add_codes(random_codes(1)) == range(201, 202)


def test_a_code_alone_is_a_case_with_an_id_only(mixed: Archive, source: Source) -> None:
    assert mixed.case(1) == Case(1)
    assert mixed.case(1).source is None
    assert mixed.search(random_codes(100)[:1], k=1)[0].case == Case(1)
    assert mixed.counts() == {None: 188, "a": 6, "b": 6}
    database = mixed.database()
    assert database.labels[99:103] == (None, "a", "b", "a")
    assert (database.contents[0], database.patients[0]) == (None, None)
    assert {id for id, _ in found(mixed, 5, where="id < 105")} == {101, 102, 103, 104}
    assert found(mixed, 5, where="label = 'b'", k=3) == found(mixed, 5, where="id > 0 AND label = 'b'", k=3)
    assert len(found(mixed, 101, k=500)) == 200 - 2
    assert len(found(mixed, 5, k=500, exclude_same=("patient", "eye"))) == 200 - 1
    with pytest.raises(ArchiveError, match="all of them with labels"):
        evaluate_archive(mixed, source)


def test_all_cases_come_in_parts(mixed: Archive) -> None:
    mixed.delete([2, 104, 150])
    whole = mixed.database()
    parts = list(mixed.parts(("label", "age", "content"), n_rows=30))
    assert [len(part.ids) for part in parts] == [29, 30, 30, 29, 29, 30, 20]
    assert concatenate([part.codes for part in parts]) == whole.codes
    assert np.concatenate([part.ids for part in parts]).tolist() == whole.ids.tolist()
    assert tuple(label for part in parts for label in part.columns["label"]) == whole.labels
    assert tuple(content for part in parts for content in part.columns["content"]) == whole.contents
    assert parts[3].columns["age"][10:14] == [40, 41, 42, 44]
    assert next(mixed.parts()).columns == {}
    with pytest.raises(ValueError, match="no column 'weight'"):
        list(mixed.parts(("weight",)))


def test_a_writer_need_not_wait_for_the_last_part(mixed: Archive) -> None:
    parts = mixed.parts(("label",), n_rows=90)
    ids = next(parts).ids.tolist()
    with Archive.open(mixed.path) as other:
        other.delete([102, 200])
    ids += [id for part in parts for id in part.ids.tolist()]
    assert [id for id in ids if id not in (102, 200)] == mixed.database().ids.tolist()


@pytest.mark.parametrize("bits", [1, 36, 64, 65, 300])
def test_an_archive_needs_no_network(tmp_path: Path, bits: int, source: Source) -> None:
    codes = random_codes(500, bits)
    with Archive.create(tmp_path / "codes", bits=bits) as archive:
        assert archive.model_id is None
        assert archive.n_cases == 0
        assert found(archive, codes[:1]) == []
        assert archive.add_codes([codes[:200], codes[200:]]) == range(1, 501)
        assert archive.add_codes([]) == range(501, 501)
        assert archive.add_codes(codes[:0]) == range(501, 501)
        near = FlatIndex(codes).search(codes[7:8], k=50)[0]
        assert found(archive, codes[7:8]) == [(row + 1, distance) for row, distance in near]
        for ask, asked in ((archive.search, draw_image(1)), (archive.add, source), (archive.encode_queries, source)):
            with pytest.raises(ModelError, match="no known network and cannot encode images"):
                ask(asked)  # type: ignore[operator]
    assert not (tmp_path / "codes" / "weights.safetensors").exists()
    with Archive.open(tmp_path / "codes") as opened:
        assert opened.database().codes == codes


def test_what_an_archive_is_made_of_is_said_once(tmp_path: Path, encoder: Encoder) -> None:
    for options in ({}, {"encoder": encoder, "bits": 36}):
        with pytest.raises(TypeError, match="an encoder, or the bits"):
            Archive.create(tmp_path / "archive", **options)  # type: ignore[arg-type]
    for bits in (0, 4097):
        with pytest.raises(ValueError, match="bits must be from 1 to 4096"):
            Archive.create(tmp_path / "archive", bits=bits)
    assert list(tmp_path.iterdir()) == []


def test_a_segment_is_what_numpy_saves(tmp_path: Path) -> None:
    codes = random_codes(1000, 100)
    with Archive.create(tmp_path / "codes", bits=100) as archive:
        archive.add_codes((codes[begin : begin + 300] for begin in range(0, 1000, 300)), n_codes=1000)
        (segment,) = archive._catalogue.segments()
    path = tmp_path / "codes" / "segments" / segment.file
    np.save(tmp_path / "saved.npy", codes.words)
    assert path.read_bytes() == (tmp_path / "saved.npy").read_bytes()
    assert segment.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    # NumPy has padded headers otherwise at times; such a file is as good.
    header, data = path.read_bytes()[:128], path.read_bytes()[128:]
    path.write_bytes(header[:8] + (182).to_bytes(2, "little") + header[10:-1] + b" " * 64 + b"\n" + data)
    with Archive.open(tmp_path / "codes") as opened:
        assert opened.database().codes == codes


def test_what_is_wrong_with_codes_is_said_and_leaves_the_archive_as_it_was(mixed: Archive) -> None:
    before = contents(mixed.path)
    codes = random_codes(10)
    for wrong, error, words in (
        (random_codes(3, 64), ModelMismatch, "36-bit codes, the query 64"),
        ([codes, Codes(codes.words, 36, "another")], ModelMismatch, "the query by another"),
        ([codes, codes.words], TypeError, "expected Codes, got ndarray"),
        (codes.words, TypeError, "expected Codes, got ndarray"),
        (36, TypeError, "expected Codes, got int"),
        (iter([codes]), TypeError, "n_codes is needed"),
    ):
        with pytest.raises(error, match=words):
            mixed.add_codes(wrong)  # type: ignore[arg-type]
    for n_codes in (9, 11):
        with pytest.raises(ValueError, match=f"{n_codes} codes were announced, 10 came"):
            mixed.add_codes(iter([codes]), n_codes=n_codes)
    assert contents(mixed.path) == before


def test_progress_is_told_and_ctrl_c_leaves_the_archive_as_it_was(mixed: Archive) -> None:
    before = contents(mixed.path)
    told: list[tuple[int, int]] = []

    def interrupt(n_done: int, n_all: int) -> None:
        told.append((n_done, n_all))
        if len(told) == 2:
            raise KeyboardInterrupt

    parts = [random_codes(10), random_codes(20), random_codes(30)]
    with pytest.raises(KeyboardInterrupt):
        mixed.add_codes(parts, interrupt)
    assert contents(mixed.path) == before
    assert mixed.n_cases == 200
    assert mixed.add_codes(parts, interrupt) == range(201, 261)
    assert told == [(10, 60), (30, 60), (10, 60), (30, 60), (60, 60)]


KILL_AT = {
    "the first part": "n == 1",
    "a later part": "n == 3",
    "the last part": "n == 4",
    "the flush": "os.fsync = die",
    "the renaming": "os.replace = die",
    "the commit": "Catalogue.add_codes = die",
    "within the commit": "Catalogue.list_segment = lambda self, segment: (listed(self, segment), die())",
}


@pytest.mark.parametrize("moment", KILL_AT)
def test_killed_at_any_moment_an_import_leaves_the_archive_as_it_was(mixed: Archive, moment: str) -> None:
    before = mixed.database()
    program = f"""if True:
        import os, signal, sys
        import numpy as np
        from athsearch import Archive, Codes
        from athsearch.archive.catalogue import Catalogue
        listed = Catalogue.list_segment
        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)
        n = 0
        def parts():
            global n
            while n < 4:
                yield Codes(np.full((1000, 1), n, np.uint64), 36)
                n += 1
                if {KILL_AT[moment] if "==" in KILL_AT[moment] else False}:
                    die()
        {KILL_AT[moment]}
        Archive.open(sys.argv[1]).add_codes(parts(), n_codes=4000)
    """
    killed = subprocess.run([sys.executable, "-c", program, mixed.path], check=False)
    assert killed.returncode == -9
    if "part" in moment or moment in ("the flush", "the renaming"):
        assert list((mixed.path / "segments").glob(".*.tmp"))
    for archive in (mixed, Archive.open(mixed.path, device="cpu")):
        after = archive.database()
        assert after.codes == before.codes
        assert after.ids.tolist() == before.ids.tolist()
    assert mixed.add_codes(random_codes(5, seed=9)) == range(201, 206)
    assert len(contents(mixed.path)) == 1 + 4
    assert mixed.database().codes == concatenate([before.codes, random_codes(5, seed=9)])


def test_importing_takes_little_memory(tmp_path: Path) -> None:
    n_codes = 20_000_000
    words = np.lib.format.open_memmap(tmp_path / "codes.npy", "w+", np.uint64, (n_codes, 1))
    words[::1_000_000, 0] = np.arange(20)
    words.flush()
    program = """if True:
        import resource, sys
        import numpy as np
        from athsearch import Archive, Codes
        with Archive.create(sys.argv[2], bits=64) as archive:
            words = np.load(sys.argv[1], mmap_mode="r")
            archive.add_codes(Codes(words[:1], 64))
            size = [line for line in open("/proc/self/status") if line.startswith("VmData")][0].split()[1]
            limit = int(size) * 1024 + (32 << 20)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # counts what is not mapped from files
            archive.add_codes(Codes(words, 64))
            print(archive.n_cases, archive.search_case(1_000_002, k=1)[0].case.id)
    """
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "codes.npy", tmp_path / "archive"],
        check=False, capture_output=True, text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(n_codes + 1), "1"]


def test_a_hundred_million_codes_open_at_once(tmp_path: Path) -> None:
    shape = (100_000_000, 1)
    Archive.create(tmp_path / "archive", bits=64).close()
    path = tmp_path / "archive" / "segments" / "000000000001.npy"
    path.write_bytes(npy_header("<u8", shape))
    os.truncate(path, 128 + 8 * shape[0])  # a file of holes
    with writing(tmp_path / "archive") as catalogue:
        catalogue.add_codes(Segment(path.name, 1, shape[0], "", has_cases=False))

    def own_memory() -> int:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024

    before, begin = own_memory(), time.perf_counter()
    with Archive.open(tmp_path / "archive") as archive:
        assert archive.n_cases == shape[0]
        assert time.perf_counter() - begin < 0.2
        assert found(archive, 1, k=3) == [(2, 0), (3, 0), (4, 0)]
        assert own_memory() - before < 64 << 20


def test_segments_keep_no_files_open(tmp_path: Path) -> None:
    with Archive.create(tmp_path / "archive", bits=64) as archive:
        for seed in range(150):
            archive.add_codes(random_codes(3, 64, seed))
    program = "import sys, athsearch\nprint(len(athsearch.Archive.open(sys.argv[1]).search_case(200, k=1000)))"
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "archive"],
        check=True,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )
    assert done.stdout.split() == [b"449"]


def test_the_number_of_codes_is_a_whole_number(tmp_path: Path) -> None:
    with Archive.create(tmp_path / "archive", bits=36) as archive:
        assert archive.add_codes(iter([random_codes(5)]), n_codes=np.int64(5)) == range(1, 6)
        with pytest.raises(ValueError, match="0 codes were announced, and some came"):
            archive.add_codes(iter([random_codes(5)]), n_codes=0)
        with pytest.raises(TypeError):
            archive.add_codes(iter([random_codes(5)]), n_codes=5.0)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="must not be negative"):
            archive.add_codes(iter([random_codes(5)]), n_codes=-5)
    with Archive.open(tmp_path / "archive") as archive:
        assert archive.n_cases == 5
