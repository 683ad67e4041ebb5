"""Re-ranked searches, of every kind of index, against a full sort in plain Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from athsearch import _scan
from athsearch.codes import Codes, concatenate
from athsearch.index import INDEXES, DistinctIndex, FlatIndex, MihIndex, open_index, reranking
from athsearch.index.reranking import quantised
from athsearch.types import Bools, Floats, Ids, Neighbors
from test_index import answers, assert_same, random_codes

pytestmark = pytest.mark.usefixtures("one_openmp_thread")

KINDS = [kind for kind in INDEXES if kind not in ("faiss-gpu-flat", "gpu")]  # FaissFlat's codes; test_gpu_index.py
WITHOUT_CODES = ("faiss-ivf", "faiss-hash")
ASYMMETRIC = "asymmetric"


def logits_of(queries: Codes, seed: int) -> Floats:
    """Logits with the queries' bits as their signs, of few sizes, so that scores tie; all zero where no bit is set."""
    sizes = np.random.default_rng(seed).integers(1, 4, (len(queries), queries.bits))
    bits = queries.to_bits()
    return (np.where(bits, sizes, -sizes) * bits.any(axis=1, keepdims=True)).astype(np.float32)


def twin(first: Neighbors, codes: Codes, ids: Ids, logits: Floats, k: int) -> list[list[tuple[int, int, int]]]:
    """The first k by (-score, distance, id) of each answer; Python's integers, and its rounding, halves to even."""
    bits = dict(zip(ids.tolist(), codes.to_bits().tolist(), strict=True))
    expected = []
    for answer, of_query in zip(answers(first), logits.astype(np.float64).tolist(), strict=True):
        scale = 32767 / (max(map(abs, of_query)) or 1)
        weights = [round(value * scale) for value in of_query]
        hits = []
        for id, distance in answer:  # type: ignore[misc]
            score = sum(weight if bit else -weight for weight, bit in zip(weights, bits[id], strict=True))
            hits.append((-score, distance, id))
        expected.append(sorted(hits)[:k])
    return expected


def hits_of(found: Neighbors) -> list[list[tuple[int, int, int]]]:
    assert found.scores is not None
    assert (found.scores.dtype, found.ties) == (np.int32, None)
    triples = list(zip((-found.scores).tolist(), found.distances.tolist(), found.ids.tolist(), strict=True))
    return [triples[begin:end] for begin, end in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


@pytest.mark.parametrize("flip", [0.02, 0.5])
@pytest.mark.parametrize("n_codes", [0, 1, 300])
@pytest.mark.parametrize("bits", [1, 12, 36, 64, 65, 128, 520])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_index_equals_a_full_sort(kind: str, bits: int, n_codes: int, flip: float) -> None:
    codes, queries = random_codes(n_codes, bits, 1, flip), random_codes(4, bits, 2, flip)
    queries.words[0] = 0
    rng = np.random.default_rng(3)
    ids, allowed, logits = np.cumsum(rng.integers(1, 5, n_codes)), rng.random(n_codes) < 0.5, logits_of(queries, 4)
    index, flat = open_index(kind, codes, ids), FlatIndex(codes, ids)
    if kind in WITHOUT_CODES:
        with pytest.raises(ValueError, match="cannot be re-ranked; those of faiss-flat, faiss-hnsw and faiss-multihas"):
            index.search(queries, logits=logits, rerank=ASYMMETRIC)
        return
    n_moved = 0
    for mask in (None, allowed):
        for k, depth in ((10, 60), (40, 1), (1, 7), (n_codes + 1, n_codes + 5)):
            first = (flat if index.is_exact else index).search(queries, max(k, depth), mask)
            found = index.search(queries, k, mask, logits=logits, rerank=ASYMMETRIC, depth=depth)
            assert hits_of(found) == twin(first, codes, ids, logits, k)
            n_moved += found.ids.tolist() != index.search(queries, k, mask).ids.tolist()
    assert n_moved or n_codes < 300 or bits == 1


@pytest.mark.parametrize(("n_distinct", "bits"), [(200_000, 64), (3_000, 96), (150_000, 20)])
def test_sorted_grown_split_and_mapped_codes_are_found_by_row(n_distinct: int, bits: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(bits)
    codes = random_codes(n_distinct, bits, 20)[(n_distinct * rng.random(200_000) ** 2).astype(np.int64)]
    near = codes[rng.integers(0, len(codes), 5)].to_bits() ^ (rng.random((5, bits)) < 0.05)
    queries = concatenate([Codes.from_bits(near), random_codes(4, bits, 21)])
    logits, allowed = logits_of(queries, 22), rng.random(len(codes)) < 0.2
    np.save(tmp_path / "codes.npy", codes.words)
    mapped = Codes(np.load(tmp_path / "codes.npy", mmap_mode="r"), bits)
    kept, added = codes[:190_000], [codes[190_000:190_000], codes[190_000:199_000], codes[199_000:]]
    indexes = [
        *(kind(codes) for kind in (DistinctIndex, MihIndex)),
        *(kind(kept).grown(added) for kind in (FlatIndex, DistinctIndex, MihIndex)),
        *(kind([mapped[:7], mapped[7:]]) for kind in (FlatIndex, MihIndex)),
    ]
    assert indexes[3].n_distinct < len(kept)  # type: ignore[attr-defined]
    for mask in (None, allowed):
        first = FlatIndex(codes).search(queries, 150, mask)
        truth = twin(first, codes, np.arange(len(codes)), logits, 20)
        for index in indexes:
            for threads in (1, 3):
                found = index.search(queries, 20, mask, threads, logits=logits, rerank=ASYMMETRIC, depth=150)
                assert hits_of(found) == truth
                one = index.search(queries[:1], 20, mask, threads, logits=logits[:1], rerank=ASYMMETRIC, depth=150)
                assert hits_of(one) == truth[:1]


def test_many_queries_are_answered_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    index, queries = FlatIndex(random_codes(500, 64, 5, 0.1)), random_codes(300, 64, 6, 0.1)
    logits = logits_of(queries, 7)
    truth = index.search(queries, 10, threads=1, logits=logits, rerank=ASYMMETRIC)
    for n_candidates in (1, 1000, 200 * 299):
        monkeypatch.setattr(reranking, "MAX_CANDIDATES", n_candidates)
        assert_same(index.search(queries, 10, threads=4, logits=logits, rerank=ASYMMETRIC), truth)
    none = index.search(queries[:0], 10, logits=logits[:0], rerank=ASYMMETRIC)
    assert (len(none), hits_of(none)) == (0, [])


def test_logits_are_quantised_to_16_bits_the_same_everywhere() -> None:
    tiny, huge = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    logits = np.array([[2, 1, -1, 0.5], [0, -0.0, 0, 0], [-tiny, tiny, 0, 0], [huge, -huge, 1, 0]], np.float32)
    weights = quantised(logits)
    assert weights.dtype == np.int16
    assert weights.tolist() == [  # 16383.5 and 8191.75: halves to even
        [32767, 16384, -16384, 8192],
        [0, 0, 0, 0],
        [-32767, 32767, 0, 0],
        [32767, -32767, 0, 0],
    ]
    random = np.random.default_rng(8).normal(size=(50, 90)).astype(np.float32)
    assert quantised(random).tolist() == [
        [round(value * (32767 / max(map(abs, row)))) for value in row] for row in random.astype(np.float64).tolist()
    ]


def test_the_largest_scores_fit() -> None:
    ones, zeros = np.ones((1, 4096), np.bool_), np.zeros((1, 4096), np.bool_)
    codes, logits = Codes.from_bits(np.concatenate([zeros, ones])), np.ones((1, 4096), np.float32)
    found = FlatIndex(codes).search(Codes.from_logits(logits), logits=logits, rerank=ASYMMETRIC)
    assert hits_of(found) == [[(-4096 * 32767, 0, 1), (4096 * 32767, 4096, 0)]]


def refused(
    index: FlatIndex, queries: Codes, message: str, error: type[Exception] = ValueError, **options: object
) -> None:
    with pytest.raises(error, match=message):
        index.search(queries, **options)  # type: ignore[arg-type]


def test_wrong_arguments_are_refused() -> None:
    index, queries = FlatIndex(random_codes(9, 36, 9)), random_codes(2, 36, 10)
    logits = logits_of(queries, 11)
    refused(index, queries, "unknown re-ranking 'float'; known: asymmetric", rerank="float", logits=logits)
    refused(index, queries, r"needs the queries' logits, float32 \[2, 36\]", rerank=ASYMMETRIC)
    refused(index, queries, "logits are for re-ranking only", logits=logits)
    refused(index, queries, "ties", rerank=ASYMMETRIC, logits=logits, count_ties=True)
    refused(index, queries, "depth must be at least 1, got 0", rerank=ASYMMETRIC, logits=logits, depth=0)
    refused(index, queries, r"\[2, 36\], got \[1, 36\]", rerank=ASYMMETRIC, logits=logits[:1])
    refused(index, queries, "float32 array, got float64", TypeError, rerank=ASYMMETRIC, logits=logits.astype(float))
    refused(index, queries, "float32 array, got list", TypeError, rerank=ASYMMETRIC, logits=logits.tolist())
    for value in (np.nan, np.inf, -np.inf):
        logits[1, 3] = value
        refused(index, queries, "NaN or infinity", rerank=ASYMMETRIC, logits=logits)


def test_arrays_of_wrong_shapes_are_refused() -> None:
    codes, weights = np.zeros((3, 1), np.uint64), np.zeros((2, 36), np.int16)
    assert [part.tolist() for part in _scan.rerank(codes, np.array([0, 2, 3]), weights, 1, 1)] == [
        [0, 1, 2],
        [0, 2],
        [0, 0],
    ]
    for offsets in ([0, 2], [1, 2, 3], [0, 4, 3], [0, 2, 4], [0, -1, 3]):
        with pytest.raises(ValueError, match="offsets must"):
            _scan.rerank(codes, np.array(offsets), weights, 1, 1)
    with pytest.raises(ValueError, match=r"codes must be uint64 \[n, 2\]"):
        _scan.rerank(codes, np.array([0, 2, 3]), np.zeros((2, 65), np.int16), 1, 1)


def test_a_mask_that_allows_nothing_leaves_nothing(kernel: str) -> None:
    codes, queries = random_codes(50, 64, 12), random_codes(2, 64, 13)
    nobody: Bools = np.zeros(50, np.bool_)
    for kind in ("flat", "distinct", "mih"):
        found = open_index(kind, codes).search(queries, 5, nobody, logits=logits_of(queries, 14), rerank=ASYMMETRIC)
        assert hits_of(found) == [[], []]
