"""The expectations over ties against every order written out, and the whole of `evaluate` against a plain loop."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Hashable, Sequence
from fractions import Fraction

import numpy as np
import pytest

from athsearch.codes import Codes
from athsearch.errors import ModelMismatch
from athsearch.evaluation import Evaluation, evaluate, expected_reciprocal_rank, expected_scores


def scores_of_order(order: Sequence[int], k: int) -> list[Fraction]:
    """P@k, AP@k and RR of one ranking without ties, 1 marking a hit."""
    n_hits = sum(order)
    at_hits = [Fraction(sum(order[:place]), place) for place in range(1, min(k, len(order)) + 1) if order[place - 1]]
    return [
        Fraction(sum(order[:k]), k),
        sum(at_hits, Fraction(0)) / min(k, n_hits) if n_hits else Fraction(0),
        Fraction(1, order.index(1) + 1) if n_hits else Fraction(0),
    ]


def enumerated(sizes: Sequence[int], hits: Sequence[int], k: int) -> list[Fraction]:
    """The mean of `scores_of_order` over every order of every tie group."""
    groups = [itertools.permutations([1] * hit + [0] * (size - hit)) for size, hit in zip(sizes, hits, strict=True)]
    found = [scores_of_order(sum(parts, ()), k) for parts in itertools.product(*groups)]
    return [sum(column, Fraction(0)) / len(found) for column in zip(*found, strict=True)]


def close(found: float, exact: Fraction, tolerance: float = 1e-12) -> bool:
    return abs(Fraction(found) - exact) <= tolerance


def random_codes(generator: np.random.Generator, n_codes: int, bits: int, n_distinct: int) -> Codes:
    distinct = Codes.from_bits(generator.random((n_distinct, bits)) < 0.5)
    return distinct[generator.integers(0, n_distinct, n_codes)]


def plain_evaluation(
    database: Codes,
    labels: Sequence[str],
    queries: Codes,
    query_labels: Sequence[str],
    k: int,
    groups: Sequence[Hashable],
    query_groups: Sequence[Hashable],
) -> dict[str, list[list[float]]]:
    """Per query one ranking at a time: the scores, those at chance, and those of the largest class first."""
    largest = max(sorted(set(labels)), key=list(labels).count)
    database_bits, query_bits = database.to_bits(), queries.to_bits()
    out: dict[str, list[list[float]]] = {"scores": [], "chance": [], "majority": []}
    for bits, label, group in zip(query_bits, query_labels, query_groups, strict=True):
        kept = [row for row in range(len(labels)) if group is None or groups[row] != group]
        distances = {row: int((database_bits[row] ^ bits).sum()) for row in kept}
        places = {"scores": distances, "chance": dict.fromkeys(kept, 0)}
        places["majority"] = {row: int(labels[row] != largest) for row in kept}
        for name, place_of in places.items():
            sizes, hits = np.zeros((1, database.bits + 2)), np.zeros((1, database.bits + 2))
            for row, place in place_of.items():
                sizes[0, place] += 1
                hits[0, place] += labels[row] == label
            out[name].append(list(expected_scores(sizes, hits, k)[0]))
    return out


def values(scores: object) -> list[float]:
    return [scores.precision, scores.average_precision, scores.reciprocal_rank]  # type: ignore[attr-defined]


def test_expectations_equal_every_order_of_ties_written_out() -> None:
    chooser = random.Random(0)
    n_with_a_cut_group = 0
    for _ in range(400):
        sizes = [chooser.randint(0, 4) for _ in range(chooser.randint(1, 3))]
        if sum(sizes) == 0:
            continue
        hits = [chooser.randint(0, size) for size in sizes]
        k = chooser.randint(1, sum(sizes) + 2)
        found = expected_scores(np.array([sizes], float), np.array([hits], float), k)[0]
        assert all(map(close, found.tolist(), enumerated(sizes, hits, k))), (sizes, hits, k)
        ends = list(itertools.accumulate(sizes))
        n_with_a_cut_group += all(end != k for end in ends) and k < ends[-1]
    assert n_with_a_cut_group > 50


def test_evaluate_equals_every_order_of_ties_written_out() -> None:
    generator = np.random.default_rng(1)
    for _ in range(60):
        bits, n_cases, k = int(generator.integers(1, 4)), int(generator.integers(1, 7)), int(generator.integers(1, 8))
        database, query = random_codes(generator, n_cases, bits, 3), random_codes(generator, 1, bits, 1)
        labels = generator.choice(["a", "b"], n_cases).tolist()
        distances = (database.to_bits() ^ query.to_bits()).sum(axis=1)
        groups = [[labels[row] == "a" for row in np.flatnonzero(distances == d)] for d in range(bits + 1)]
        exact = enumerated([len(group) for group in groups], [sum(group) for group in groups], k)
        assert all(map(close, values(evaluate(database, labels, query, ["a"], k).macro), exact))


@pytest.mark.parametrize("bits", [5, 64, 130])
@pytest.mark.parametrize("n_distinct", [4, 400])
def test_evaluate_equals_a_plain_loop_with_and_without_groups(
    bits: int, n_distinct: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("athsearch.evaluation.CELLS", 300)  # so that every loop over blocks has several turns
    monkeypatch.setattr("athsearch.evaluation.COLUMNS", 16)
    generator = np.random.default_rng(bits)
    database, queries = random_codes(generator, 150, bits, n_distinct), random_codes(generator, 60, bits, n_distinct)
    labels = generator.choice(["a", "b", "c"], 150, p=[0.2, 0.6, 0.2]).tolist()
    query_labels = [*generator.choice(["a", "b"], 58).tolist(), "unknown", "unknown"]
    groups = [None if group == 0 else f"p{group}" for group in generator.integers(0, 12, 150)]
    query_groups = [None if group == 0 else f"p{group}" for group in generator.integers(0, 15, 60)]
    for used in (False, True):
        nobody: list[Hashable] = [None] * 60
        plain = plain_evaluation(database, labels, queries, query_labels, 7, groups, query_groups if used else nobody)
        chosen = {"database_groups": groups, "query_groups": query_groups} if used else {}
        found = evaluate(database, labels, queries, query_labels, 7, **chosen)
        assert found.classes == ("a", "b", "unknown")
        for name, macro, micro in (
            ("scores", found.macro, found.micro),
            ("chance", found.chance, found.chance_micro),
            ("majority", found.majority, found.majority_micro),
        ):
            all_scores = np.array(plain[name])
            by_class = [all_scores[np.array(query_labels) == label].mean(axis=0) for label in found.classes]
            assert values(macro) == pytest.approx(np.mean(by_class, axis=0), abs=1e-12)
            assert values(micro) == pytest.approx(all_scores.mean(axis=0), abs=1e-12)
            if name == "scores":
                for label, expected in zip(found.classes, by_class, strict=True):
                    assert values(found.per_class[label]) == pytest.approx(expected, abs=1e-12)
        assert found.health.n_without_relevant == 2
        assert [found.per_class[label].n_queries for label in found.classes] == [
            query_labels.count(label) for label in found.classes
        ]
        assert [found.per_class[label].n_cases for label in found.classes] == [
            labels.count(label) for label in found.classes
        ]


@pytest.mark.parametrize(("before", "size", "hits"), [(0, 1, 1), (0, 30, 1), (7, 60, 13), (200, 40, 2), (3, 90, 90)])
def test_the_first_hit_in_a_large_group_is_exact(before: int, size: int, hits: int) -> None:
    chance, exact = Fraction(hits, size), Fraction(0)
    for j in range(1, size - hits + 2):
        exact += chance / (before + j)
        if j <= size - hits:
            chance *= Fraction(size - j - hits + 1, size - j)
    assert close(expected_reciprocal_rank(before, size, hits), exact, tolerance=1e-15)


def test_the_first_hit_among_a_million_ties_is_right() -> None:
    size = 10**6
    harmonic = float(np.sum(1.0 / np.arange(1, size + 1)))
    assert expected_reciprocal_rank(0, size, 1) == pytest.approx(harmonic / size, rel=1e-12)
    # two hits: sum (size - j)/C(size, 2)/j
    assert expected_reciprocal_rank(0, size, 2) == pytest.approx(
        (size * harmonic - size) / (size * (size - 1) / 2), rel=1e-12
    )
    share = 0.3  # many hits: the first one's place is all but geometric, whose mean of 1/J is -p/(1-p) ln p
    assert expected_reciprocal_rank(0, size, 300_000) == pytest.approx(-share / (1 - share) * np.log(share), rel=1e-5)
    assert expected_reciprocal_rank(10, size, size) == 1 / 11
    assert expected_reciprocal_rank(0, size, 0) == 0.0


def test_perfect_and_reversed_rankings_score_one_and_zero() -> None:
    codes = Codes.from_bits(np.array([[False] * 8] * 20 + [[True] * 8] * 20))
    labels = ["a"] * 20 + ["b"] * 20
    perfect = evaluate(codes, labels, codes, labels)
    assert values(perfect.macro) == values(perfect.micro) == [1.0, 1.0, 1.0]
    reversed_ranking = evaluate(codes, labels, codes, labels[::-1])
    assert values(reversed_ranking.macro)[:2] == [0.0, 0.0]
    assert perfect.health.n_distinct_codes == 2
    assert perfect.health.tied_at_k == 1.0


def test_macro_chance_is_one_in_as_many_as_there_are_classes_and_micro_follows_the_skew() -> None:
    generator = np.random.default_rng(2)
    labels = ["normal"] * 777 + ["myopia"] * 79 + ["amd"] * 72 + ["glaucoma"] * 45 + ["diabetic_retinopathy"] * 27
    codes = random_codes(generator, 1000, 36, 1000)
    found = evaluate(codes, labels, codes, labels)
    assert found.chance.precision == pytest.approx(0.2, abs=1e-12)
    assert found.chance_micro.precision == pytest.approx(0.6179, abs=5e-5)
    assert values(found.majority) == [0.2, 0.2, pytest.approx(0.2, abs=2e-3)]
    assert found.majority_micro.precision == pytest.approx(0.777, abs=1e-12)


def test_leaving_out_the_query_itself_takes_its_sure_hit_away() -> None:
    codes = Codes.from_bits(np.random.default_rng(3).random((50, 64)) < 0.5)
    labels = [f"class {row}" for row in range(50)]  # nothing else can be a hit
    rows = list(range(50))
    assert evaluate(codes, labels, codes, labels, 1).micro.precision == 1.0
    left_out = evaluate(codes, labels, codes, labels, 1, database_groups=rows, query_groups=rows)
    assert values(left_out.micro) == [0.0, 0.0, 0.0]
    assert left_out.health.n_without_relevant == 50
    nobody = evaluate(codes, labels, codes, labels, 1, database_groups=[None] * 50, query_groups=[None] * 50)
    assert nobody == evaluate(codes, labels, codes, labels, 1)


def test_places_past_the_end_of_the_database_are_misses() -> None:
    codes = Codes.from_bits(np.zeros((4, 8), np.bool_))
    found = evaluate(codes, ["a"] * 4, codes[:1], ["a"], 10)
    assert values(found.macro) == [0.4, 1.0, 1.0]
    assert found.health.tied_at_k == 0.0


def test_a_tie_counts_only_where_it_reaches_across_place_k() -> None:
    codes = Codes.from_bits(np.array([[False, False], [False, True], [False, True], [True, True]]))
    tied = [evaluate(codes, ["a"] * 4, codes[:1], ["a"], k).health.tied_at_k for k in (1, 2, 3, 4, 5)]
    assert tied == [0.0, 1.0, 0.0, 0.0, 0.0]  # places 2 and 3 are the tie


def test_the_order_of_the_database_and_of_the_queries_changes_nothing() -> None:
    generator = np.random.default_rng(4)
    database, queries = random_codes(generator, 200, 16, 30), random_codes(generator, 50, 16, 30)
    labels, query_labels = generator.choice(["a", "b"], 200), generator.choice(["a", "b"], 50)
    rows, query_rows = generator.permutation(200), generator.permutation(50)
    one = evaluate(database, labels.tolist(), queries, query_labels.tolist())
    other = evaluate(database[rows], labels[rows].tolist(), queries[query_rows], query_labels[query_rows].tolist())
    assert values(one.macro) == pytest.approx(values(other.macro), abs=1e-14)
    assert one.health == other.health


def test_the_table_has_macro_first_and_fits_a_hundred_columns() -> None:
    codes = random_codes(np.random.default_rng(5), 30, 16, 10)
    labels = ["a rather long name of a class that would not fit into any table of a hundred columns", "b", "c"] * 10
    found = evaluate(codes, labels, codes[:3], labels[:3])
    lines = found.table().splitlines()
    assert max(map(len, lines)) <= 100
    names = [line.split("  ")[0] for line in lines]
    first = ["macro", "micro", "chance, macro", "chance, micro", "majority, macro", "majority, micro"]
    assert names[2:8] == first
    assert f"{found.macro.precision:.3f}" in lines[2]
    assert names[10:12] == ["b", "c"]
    assert lines[2].split()[-2:] == ["3", "30"]
    assert lines[10].split()[-2:] == ["1", "10"]


def test_the_dict_is_plain_json_and_names_the_form_of_average_precision() -> None:
    codes = random_codes(np.random.default_rng(6), 12, 16, 6)
    found: Evaluation = evaluate(codes, ["a", "b"] * 6, codes, ["a", "b"] * 6, 3)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["average_precision_form"] == "divided by min(k, R)"
    assert plain["macro"]["precision"] == found.macro.precision
    assert plain["per_class"]["b"]["n_queries"] == 6


def test_bad_arguments_say_what_was_expected_and_what_came() -> None:
    codes = Codes.from_bits(np.zeros((3, 8), np.bool_))
    labels = ["a", "b", "a"]
    with pytest.raises(ValueError, match="expected 3 database labels, one a code, got 2"):
        evaluate(codes, labels[:2], codes, labels)
    with pytest.raises(ValueError, match="expected 3 query labels, one a code, got 4"):
        evaluate(codes, labels, codes, [*labels, "a"])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        evaluate(codes, labels, codes, labels, 0)
    with pytest.raises(ValueError, match="at least one database code, got none"):
        evaluate(codes[:0], [], codes, labels)
    with pytest.raises(ValueError, match="at least one query code, got none"):
        evaluate(codes, labels, codes[:0], [])
    with pytest.raises(ValueError, match="expected 3 query groups, one a code, got 1"):
        evaluate(codes, labels, codes, labels, database_groups=[1, 2, 3], query_groups=[1])
    with pytest.raises(ValueError, match="both database_groups and query_groups"):
        evaluate(codes, labels, codes, labels, query_groups=[1, 2, 3])
    with pytest.raises(TypeError, match="query labels must be str, got None"):
        evaluate(codes, labels, codes, ["a", None, "b"])  # type: ignore[list-item]
    with pytest.raises(ModelMismatch, match="8-bit codes, the query 9"):
        evaluate(codes, labels, Codes.from_bits(np.zeros((3, 9), np.bool_)), labels)
    with pytest.raises(ModelMismatch, match="model one, the query by two"):
        evaluate(Codes(codes.words, 8, "one"), labels, Codes(codes.words, 8, "two"), labels)
