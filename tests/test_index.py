"""Every index of ours against a plain NumPy search, on every kernel this machine runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athsearch import _scan
from athsearch.codes import Codes, concatenate
from athsearch.errors import KernelUnavailable, ModelMismatch, SegmentCorrupt
from athsearch.gpus import find_gpus
from athsearch.index import INDEXES, DistinctIndex, FlatIndex, MihIndex, open_index
from athsearch.index.distinct import SORTED_KINDS
from athsearch.index.sorted import SortedForm
from athsearch.types import AnyArray, Bools, Ids, Mask, Neighbors

BITS = (1, 7, 12, 36, 48, 63, 64, 65, 128, 512)
NO_GPU = find_gpus().why_not(0)
# FAISS's: test_faiss_adapters.py. The GPU's where there is one; what it says elsewhere: test_gpu_index.py.
OURS = [kind for kind in INDEXES if not kind.startswith("faiss-") and (kind != "gpu" or NO_GPU is None)]
N_CODES = (0, 1, 7, 8, 9, 4095, 4097)
FEW, MANY = 2, 40  # queries: a kernel may lay the rows out in another way for many


def random_codes(n_codes: int, bits: int, seed: int, flip: float = 0.5) -> Codes:
    """Codes around five centres, with bits flipped at the rate `flip`: full of ties and duplicates when it is small."""
    centres = np.random.default_rng(0).random((5, bits)) < 0.5
    rng = np.random.default_rng(seed)
    return Codes.from_bits(centres[rng.integers(0, 5, n_codes)] ^ (rng.random((n_codes, bits)) < flip))


def all_distances(codes: Codes, queries: Codes) -> AnyArray:
    """int [q, n_codes], the slow and obvious way."""
    return np.bitwise_count(codes.words[None] ^ queries.words[:, None]).sum(axis=2, dtype=np.int64)


def expected(codes: Codes, queries: Codes, ids: Ids, allowed: Bools, k: int | None, radius: int) -> list[list[object]]:
    answers: list[list[object]] = []
    for distances in all_distances(codes, queries):
        rows = np.flatnonzero(allowed & (distances <= radius))
        rows = rows[np.argsort(distances[rows], kind="stable")][:k]
        answers.append(list(zip(ids[rows].tolist(), distances[rows].tolist(), strict=True)))
    return answers


def answers(found: Neighbors) -> list[list[object]]:
    return [list(found[query]) for query in range(len(found))]


def assert_same(found: Neighbors, truth: Neighbors) -> None:
    for field in ("offsets", "ids", "distances", "ties", "scores"):
        assert np.array_equal(getattr(found, field), getattr(truth, field))


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("n_codes", N_CODES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n_queries", [FEW, MANY])
def test_search_and_within_equal_numpy(kernel: str, kind: str, bits: int, n_codes: int, n_queries: int) -> None:
    codes, queries = random_codes(n_codes, bits, 1), random_codes(n_queries, bits, 2)
    index, ids, everyone = open_index(kind, codes), np.arange(n_codes), np.ones(n_codes, np.bool_)
    for k in (1, 10, n_codes + 1):
        assert answers(index.search(queries, k)) == expected(codes, queries, ids, everyone, k, bits)
    for radius in (0, bits // 3, bits):
        assert answers(index.within(queries, radius)) == expected(codes, queries, ids, everyone, None, radius)


@pytest.mark.parametrize("bits", [b for b in BITS if b % 8 == 0])
@pytest.mark.parametrize("n_codes", [n for n in N_CODES if n])
def test_flat_equals_faiss(kernel: str, bits: int, n_codes: int) -> None:
    codes, queries, k = random_codes(n_codes, bits, 3, 0.2), random_codes(7, bits, 4, 0.2), 10
    oracle = faiss.IndexBinaryFlat(bits)
    oracle.add(np.ascontiguousarray(codes.to_bytes()))
    faiss_distances, faiss_ids = oracle.search(np.ascontiguousarray(queries.to_bytes()), k)
    ids, distances, counts = FlatIndex(codes).search(queries, k).dense(k)
    for query, count in enumerate(counts):
        assert distances[query, :count].tolist() == faiss_distances[query, :count].tolist()
        # FAISS orders ties as it likes, so ids must agree below the k-th distance only.
        below = distances[query, :count] < distances[query, count - 1]
        faiss_below = faiss_ids[query, :count][faiss_distances[query, :count] < distances[query, count - 1]]
        assert set(ids[query, :count][below].tolist()) == set(faiss_below.tolist())


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(OURS),
    kernel_name=st.sampled_from(_scan.kernel_names()),
    bits=st.sampled_from(BITS),
    n_codes=st.integers(0, 700),
    n_queries=st.sampled_from([FEW, MANY]),
    k=st.integers(1, 800),
    flip=st.sampled_from([0.0, 0.02, 0.5]),
    allowed_share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_masked_search_is_a_stable_sort_by_distance_and_id(
    kind: str,
    kernel_name: str,
    bits: int,
    n_codes: int,
    n_queries: int,
    k: int,
    flip: float,
    allowed_share: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    codes, queries = random_codes(n_codes, bits, seed, flip), random_codes(n_queries, bits, seed + 1, flip)
    ids = np.cumsum(rng.integers(1, 5, n_codes))
    allowed = rng.random(n_codes) < allowed_share
    index = open_index(kind, codes, ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATHSEARCH_KERNEL", kernel_name)
        found = index.search(queries, k, mask=allowed, count_ties=True)
        near = index.within(queries, bits // 4, mask=Mask.from_bools(allowed))
    assert answers(found) == expected(codes, queries, ids, allowed, k, bits)
    assert answers(near) == expected(codes, queries, ids, allowed, None, bits // 4)
    assert found.ties is not None
    for query, distances in enumerate(all_distances(codes, queries)):
        answer = found[query]
        assert found.ties[query] == (np.count_nonzero(distances[allowed] == answer[-1].distance) if answer else 0)


@pytest.mark.parametrize("bits", [36, 64, 200])
def test_answers_do_not_depend_on_threads_or_segments(kernel: str, bits: int) -> None:
    # Enough work that the threads asked for are really started.
    codes, queries = random_codes(300_000, bits, 5, 0.1), random_codes(12, bits, 6, 0.1)
    allowed = np.random.default_rng(7).random(len(codes)) < 0.3
    whole = FlatIndex(codes)
    cuts = [0, 1, 1, 100_003, 299_999, 300_000]
    split = FlatIndex([codes[begin:end] for begin, end in pairwise(cuts)])
    distinct = [DistinctIndex(codes), DistinctIndex([codes[begin:end] for begin, end in pairwise(cuts)], threads=1)]
    for mask in (None, allowed):
        truth = whole.search(queries, 50, mask, threads=1, count_ties=True)
        near = whole.within(queries, bits // 7, mask, threads=1)
        assert len(near.ids) > 1000
        for index in (whole, split, *distinct):
            for threads in (1, 2, 3, 8):
                assert_same(index.search(queries, 50, mask, threads, count_ties=True), truth)
                assert_same(index.within(queries, bits // 7, mask, threads), near)


@pytest.mark.parametrize("kind", ["distinct", "mih", "auto"])
@pytest.mark.parametrize(("n_distinct", "bits"), [(200_000, 64), (200_000, 48), (3_000, 96), (150_000, 20)])
def test_large_sorted_indexes_equal_the_flat_one(kernel: str, kind: str, n_distinct: int, bits: int) -> None:
    rng = np.random.default_rng(n_distinct + bits)
    codes = random_codes(n_distinct, bits, 20)[(n_distinct * rng.random(200_000) ** 2).astype(np.int64)]
    near = codes[rng.integers(0, len(codes), 5)].to_bits() ^ (rng.random((5, bits)) < 0.05)
    queries = concatenate([Codes.from_bits(near), random_codes(4, bits, 21)])
    allowed, flat = rng.random(len(codes)) < 0.2, FlatIndex(codes)
    index = open_index(kind, codes)
    for asked in (queries, queries[:1]):
        for mask in (None, allowed):
            for k in (1, 10, 500):
                assert_same(index.search(asked, k, mask, count_ties=True), flat.search(asked, k, mask, count_ties=True))
            for radius in (0, 3, bits // 6, bits // 2):
                assert_same(index.within(asked, radius, mask), flat.within(asked, radius, mask))


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["flat", "distinct", "mih"]),
    bits=st.sampled_from([7, 36, 64, 128]),
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=6),
    with_ids=st.booleans(),
    flip=st.sampled_from([0.0, 0.02, 0.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_grown_index_answers_as_one_built_at_once(
    kind: str, bits: int, sizes: list[int], with_ids: bool, flip: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    whole, queries = random_codes(sum(sizes), bits, seed, flip), random_codes(FEW, bits, seed + 1, flip)
    ids = np.cumsum(rng.integers(1, 5, len(whole)))
    ends = np.cumsum(sizes)
    allowed = rng.random(len(whole)) < 0.5  # the others were deleted
    parts = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    index = open_index(kind, whole[parts[0]], ids[parts[0]] if with_ids else None)
    for part in parts[1:]:
        before = index
        index = before.grown(whole[part], ids[part] if with_ids else None)
        assert before.n_codes == part.start
        truth = FlatIndex(whole[: part.stop], ids[: part.stop] if with_ids else None)
        for mask in (None, allowed[: part.stop]):
            assert_same(
                index.search(queries, 20, mask, count_ties=True), truth.search(queries, 20, mask, count_ties=True)
            )
            assert_same(index.within(queries, bits // 4, mask), truth.within(queries, bits // 4, mask))


def test_codes_added_are_scanned_until_they_are_many() -> None:
    codes, few, many = random_codes(3200, 64, 22), random_codes(200, 64, 23), random_codes(1, 64, 24)
    index = DistinctIndex(codes)
    with_few = index.grown(few)
    assert with_few.form is index.form
    assert (with_few.n_codes, with_few.n_distinct) == (3400, 3200)
    assert with_few.grown(many).n_distinct == 3401
    assert (index.n_codes, index.n_distinct) == (3200, 3200)
    with pytest.raises(ValueError, match="the codes added have ids and the index has none"):
        index.grown(few, np.arange(5000, 5200))
    with pytest.raises(ValueError, match="ids must ascend strictly; row 3200 has 7 after 3199"):
        MihIndex(codes, np.arange(3200)).grown(many, np.array([7]))
    with pytest.raises(ModelMismatch, match="64-bit codes, the query 36"):
        index.grown(random_codes(2, 36, 25))
    with pytest.raises(ModelMismatch, match="model a, the query by b"):
        FlatIndex(Codes(codes.words, 64, "a")).grown(Codes(few.words, 64, "b"))


@pytest.mark.parametrize("kind", ["distinct", "mih"])
@pytest.mark.parametrize("n_distinct", [100, 5000])
def test_a_sorted_form_survives_files(kind: str, n_distinct: int, tmp_path: Path) -> None:
    codes = random_codes(n_distinct, 64, 26)[np.random.default_rng(27).integers(0, n_distinct, 5000)]
    added, queries = random_codes(50, 64, 28), random_codes(3, 64, 29)
    form = SORTED_KINDS[kind].sort(codes)
    for name, array in form.arrays():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {path.stem: np.load(path, mmap_mode="r") for path in tmp_path.iterdir()}
    index = SORTED_KINDS[kind]([codes, added], form=SortedForm.from_arrays(5000, mapped))
    assert_same(index.search(queries, 100), FlatIndex([codes, added]).search(queries, 100))
    with pytest.raises(ValueError, match="the sorted form is of 5000 rows, which is not where a segment"):
        SORTED_KINDS[kind]([codes[:4999], added], form=form)


def test_auto_says_what_it_chose_and_why() -> None:
    rng = np.random.default_rng(30)
    uniform, learned = random_codes(400_000, 64, 31), random_codes(500, 64, 32)[rng.integers(0, 500, 400_000)]
    near = uniform[rng.integers(0, 30_000, 400_000)].to_bits()
    near[np.arange(400_000), rng.integers(0, 64, 400_000)] ^= True
    for codes, kind in ((uniform[:50_000], "flat"), (random_codes(200_000, 256, 33), "flat"), (learned, "distinct"),
                        (Codes.from_bits(near), "mih")):  # fmt: skip
        index = open_index("auto", codes)
        assert index.plan is not None
        assert str(index.plan).startswith(f"{kind}: "), index.plan
        assert f"{len(codes):,}" in str(index.plan)
        assert type(index) is {"flat": FlatIndex, **SORTED_KINDS}[kind]
        assert index.plan.costs["flat"] == len(codes) * codes.n_words
    assert FlatIndex(uniform).plan is None


@pytest.mark.parametrize("n_classes", [1, 300])
def test_distinct_codes_of_skewed_classes(kernel: str, n_classes: int) -> None:
    rng = np.random.default_rng(15)
    classes = random_codes(n_classes, 48, 16)
    labels = (n_classes * rng.random(100_000) ** 4).astype(np.int64)  # the first class has most cases
    codes, queries, allowed = classes[labels], random_codes(9, 48, 17), rng.random(100_000) < 0.5
    ids = np.cumsum(rng.integers(1, 9, len(codes)))
    index, flat = DistinctIndex(codes, ids), FlatIndex(codes, ids)
    assert index.n_distinct == len(np.unique(labels))
    for k in (1, 1000, 60_000):
        for mask in (None, allowed):
            assert_same(index.search(queries, k, mask, count_ties=True), flat.search(queries, k, mask, count_ties=True))
    assert_same(index.within(queries, 22, allowed), flat.within(queries, 22, allowed))


def test_distinct_codes_that_tie_by_the_thousand() -> None:
    pairs = np.array([(1 << a) | (1 << b) for a in range(64) for b in range(a)], np.uint64)  # all at distance 2 of zero
    codes = Codes(np.random.default_rng(18).permutation(pairs)[:, None], 64)
    zero = Codes(np.zeros((1, 1), np.uint64), 64)
    for k in (1, 10, 1500):
        found = DistinctIndex(codes).search(zero, k, count_ties=True)
        assert_same(found, FlatIndex(codes).search(zero, k, count_ties=True))
        assert found.ids.tolist() == list(range(k))


@pytest.mark.parametrize("bits", [248, 249, 256, 504])
def test_all_bits_may_differ(kernel: str, bits: int) -> None:
    codes = random_codes(300, bits, 19)
    opposite = Codes.from_bits(~codes.to_bits()[:MANY].astype(np.bool_))
    everyone = np.ones(len(codes), np.bool_)
    truth = expected(codes, opposite, np.arange(300), everyone, 300, bits)
    assert truth[0][-1] == (0, bits)
    for kind in OURS:
        assert answers(open_index(kind, codes).search(opposite, 300)) == truth


def test_more_codes_than_32_bits_count_are_refused() -> None:
    codes = Codes(np.zeros((1 << 23, 1), np.uint64), 64)
    with pytest.raises(ValueError, match="at most 4294967295 codes can be grouped, got 4294967296"):
        DistinctIndex([codes] * 512)
    index = open_index("auto", [codes] * 512)
    assert "more than 4,294,967,295" in str(index.plan)


@pytest.mark.parametrize("n_words", [126, 127, 1000])
def test_kernels_agree_on_codes_wider_than_codes_may_be(n_words: int) -> None:
    rng = np.random.default_rng(n_words)
    rows, queries = (rng.integers(0, 2**64, (n, n_words), np.uint64) for n in (600, 5))
    segments = _scan.Segments([rows], 64 * n_words)
    distances = np.bitwise_count(queries[:, None] ^ rows).sum(axis=2)
    for kernel in _scan.kernel_names():
        found = _scan.top_k(segments, queries, 10, None, 1, kernel, False, False)[0]
        assert np.array_equal(found[2].reshape(5, 10), np.sort(distances, axis=1)[:, :10])


def sorted_codes(
    offsets: list[int], rows: list[int], begins: Sequence[int] = (0, 1, 3), numbers: Sequence[int] = (0, 1, 2)
) -> _scan.Sorted:
    words, u32 = np.array([[0], [1], [1]], np.uint64), np.uint32
    table = (1, np.array(begins, u32), words, np.array(numbers, u32))
    codes = _scan.Segments([words], 1)
    return _scan.Sorted(codes, np.array(offsets, np.int64), np.array(rows, u32), [table], None)


def test_sorted_arrays_of_wrong_shapes_are_refused() -> None:
    sorted_codes([0, 1, 2, 4], [3, 0, 1, 2])
    for arguments, message in (
        (([0, 1, 4], [3, 0, 1, 2]), r"offsets must be int64 \[4\]"),
        (([0, 1, 2, 4], [3, 0, 1, 2], (0, 3)), r"begins must be uint32 \[3\]"),
        (([0, 1, 2, 4], [3, 0, 1, 2], (0, 1, 3), (0, 1)), r"numbers must be uint32 \[3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            sorted_codes(*arguments)
    codes = _scan.Segments([np.zeros((2, 1), np.uint64)], 64)
    with pytest.raises(ValueError, match="offsets and rows go together"):
        _scan.Sorted(codes, np.array([0, 1, 2]), None, [], None)
    zeros = np.zeros(2, np.uint32)
    with pytest.raises(ValueError, match="every bit is in one substring"):
        _scan.Sorted(codes, None, None, [(1, np.zeros(3, np.uint32), np.zeros((2, 1), np.uint64), zeros)], None)
    for first_bit, n_bits in ((64, 1), (63, 2), (2**32 - 1, 1), (2**32 - 1, 2), (0, 0), (0, 25)):
        with pytest.raises(ValueError, match="a substring has 1 to 24 bits of the code"):
            _scan.fill_table(codes, first_bit, n_bits, np.zeros(5, np.uint32), np.zeros((2, 1), np.uint64), zeros, 1)


def test_damaged_sorted_arrays_are_found_out_when_they_are_used() -> None:
    query = np.zeros((1, 1), np.uint64)

    def search(*arrays: Sequence[int]) -> list[int]:
        sorted_ = sorted_codes(*(list(array) for array in arrays))
        return _scan.top_k(sorted_, query, 4, None, 1, "", False, False)[0][1].tolist()

    assert search([0, 1, 2, 4], [3, 0, 1, 2]) == [3, 0, 1, 2]
    for offsets, rows in (([0, 1, 2, 5], [3, 0, 1, 2]), ([0, 1, 1, 4], [3, 0, 1, 2]), ([0, 1, 2, 4], [3, 0, 1, 4])):
        with pytest.raises(SegmentCorrupt, match="damaged"):
            search(offsets, rows)


# The search is in a process of its own: what it takes at the most is never given back.
MANY_WITHIN = """
import resource, numpy as np, athsearch as ath
rng = np.random.default_rng(0)
codes, queries = (ath.Codes(rng.integers(0, 2**64, (n, 1), np.uint64), 64) for n in (200_000, 200_000))
index = ath.FlatIndex(codes)
index.within(queries[:1], 0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = index.within(queries, 0, threads=64)
print(len(found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_what_within_takes_does_not_grow_with_threads_times_queries() -> None:
    done = subprocess.run([sys.executable, "-c", MANY_WITHIN], check=True, capture_output=True, text=True)
    n_answers, kib = map(int, done.stdout.split())
    assert n_answers == 200_000
    assert kib < 100 << 10


def test_a_mapped_file_is_searched_in_place(tmp_path: object) -> None:
    codes, queries = random_codes(1000, 64, 8), random_codes(3, 64, 9)
    np.save(f"{tmp_path}/codes.npy", codes.words)
    mapped = np.load(f"{tmp_path}/codes.npy", mmap_mode="r")
    index = FlatIndex(Codes(mapped, 64))
    assert answers(index.search(queries)) == answers(FlatIndex(codes).search(queries))


def test_rows_past_2_to_the_31_are_found(kernel: str) -> None:
    codes = Codes(np.random.default_rng(1).integers(0, 2**64, (1 << 23, 1), np.uint64), 64)
    index = FlatIndex([codes] * 257)
    same = [row + copy * len(codes) for copy in range(257) for row in (5, 8_000_000)]
    found = index.search(codes[np.array([5, 8_000_000])], k=257)
    assert found.ids.tolist() == same[::2] + same[1::2]
    assert found.ids.max() > 2**31
    assert not found.distances.any()
    words = np.zeros((index.n_codes + 63) // 64, np.uint64)
    words[same[-1] // 64] = np.uint64(1 << same[-1] % 64)
    allowed = Mask(words, index.n_codes)
    assert index.within(codes[8_000_000:8_000_001], 0, allowed).ids.tolist() == same[-1:]


def test_wrong_arguments_are_refused() -> None:
    codes, queries = random_codes(9, 64, 10), random_codes(2, 64, 11)
    index = FlatIndex(codes)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        index.search(queries, 0)
    with pytest.raises(ValueError, match="radius must not be negative"):
        index.within(queries, -1)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        index.search(queries, threads=0)
    with pytest.raises(ValueError, match="8 rows, the index has 9"):
        index.search(queries, mask=np.ones(8, np.bool_))
    with pytest.raises(ModelMismatch, match="64-bit codes, the query 36"):
        index.search(random_codes(1, 36, 1))
    with pytest.raises(TypeError, match="expected Codes, got ndarray"):
        index.search(queries.words)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        index.search(queries, 2.5)  # type: ignore[arg-type]
    assert answers(index.search(queries, 2**70, threads=2**40)) == answers(index.search(queries, 9))
    assert answers(index.within(queries, 2**70)) == answers(index.within(queries, 64))
    plain, other = Codes(codes.words, 64), Codes(codes.words, 64, "b")
    with pytest.raises(ModelMismatch, match="model a, the query by b"):
        FlatIndex([plain, Codes(codes.words, 64, "a"), other])
    with pytest.raises(ModelMismatch, match="model a, the query by b"):
        FlatIndex([plain, Codes(codes.words, 64, "a")]).search(other)
    with pytest.raises(ValueError, match="row 2 has 5 after 5"):
        FlatIndex(codes[:3], np.array([1, 5, 5]))
    with pytest.raises(ValueError, match=r"\[9\], one a code, got \[2\]"):
        FlatIndex(codes, np.array([1, 2]))
    with pytest.raises(ValueError, match="known: flat"):
        open_index("nonsense", codes)
    with pytest.raises(TypeError, match="'nprobe'"):
        open_index("distinct", codes, nprobe=3)


@pytest.mark.parametrize("kind", ["flat", "distinct", "mih", "auto", "faiss-flat"])
def test_segments_may_come_from_a_generator(kind: str) -> None:
    codes = random_codes(9, 64, 10)
    index = open_index(kind, (codes[start : start + 3] for start in (0, 3, 6)))  # type: ignore[arg-type]
    assert answers(index.search(codes, 2)) == answers(FlatIndex(codes).search(codes, 2))


def test_options_reach_the_index() -> None:
    codes = random_codes(9, 64, 12)
    assert answers(open_index("distinct", codes, threads=1).search(codes, 1)) == [[(row, 0)] for row in range(9)]
    with pytest.raises(ValueError, match="threads must be at least 1"):
        open_index("distinct", codes, threads=0)


def test_no_queries_give_no_answers() -> None:
    found = FlatIndex(random_codes(9, 64, 12)).search(random_codes(0, 64, 13))
    assert len(found) == 0
    assert found.dense(3)[0].shape == (0, 3)


def test_an_unknown_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHSEARCH_KERNEL", "sse9")
    with pytest.raises(KernelUnavailable, match=r"'sse9'.*available: .*scalar"):
        FlatIndex(random_codes(9, 64, 14)).search(random_codes(1, 64, 15))
