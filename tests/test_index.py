"""Every index of ours against a plain NumPy search, on every kernel this machine runs."""

from __future__ import annotations

from itertools import pairwise

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athsearch import _scan
from athsearch.codes import Codes
from athsearch.errors import KernelUnavailable, ModelMismatch
from athsearch.index import INDEXES, DistinctIndex, FlatIndex, open_index
from athsearch.types import AnyArray, Bools, Ids, Mask, Neighbors

BITS = (1, 7, 12, 36, 48, 63, 64, 65, 128, 512)
OURS = [kind for kind in INDEXES if not kind.startswith("faiss-")]  # FAISS's: test_faiss_adapters.py
N_CODES = (0, 1, 7, 8, 9, 4095, 4097)
FEW, MANY = 3, 9  # queries: a kernel may lay the rows out in another way for many


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
    for field in ("offsets", "ids", "distances", "ties"):
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


def test_distinct_codes_that_do_not_fit_their_rows_are_refused() -> None:
    def distinct(offsets: list[int], rows: list[int], n_words: int = 1) -> None:
        words = np.zeros((2, n_words), np.uint64)
        _scan.Distinct(words, np.array(offsets, np.int64), np.array(rows, np.uint32), 64)

    distinct([0, 2, 3], [0, 2, 1])
    for offsets, rows, message in (
        ([0, 3], [0, 2, 1], "from 0 to n_rows"),
        ([0, 2, 4], [0, 2, 1], "from 0 to n_rows"),
        ([0, 3, 3], [0, 1, 2], "offsets must ascend"),
        ([0, 2, 3], [2, 0, 1], "a code's rows must ascend"),
        ([0, 2, 3], [0, 3, 1], "rows must be below n_rows"),
    ):
        with pytest.raises(ValueError, match=message):
            distinct(offsets, rows)
    with pytest.raises(ValueError, match=r"distinct codes must be uint64 \[n, 1\]"):
        distinct([0, 2, 3], [0, 2, 1], n_words=2)


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
