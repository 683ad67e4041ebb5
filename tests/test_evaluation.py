"""The expectations over ties against every order written out, and the whole of `evaluate` against a plain loop."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Hashable, Sequence
from fractions import Fraction

import numpy as np
import pytest

from athsearch.codes import Codes
from athsearch.errors import ModelMismatch
from athsearch.evaluation import Evaluation, evaluate
from athsearch.evaluation.bootstrap import PERCENTILES, SEED, bootstrap
from athsearch.evaluation.results import METRICS, titles
from athsearch.evaluation.scoring import score
from athsearch.evaluation.ties import TieGroups, expected_reciprocal_rank

Exact = dict[str, Fraction]


def scores_of_order(order: Sequence[int], k: int) -> Exact:
    """Every score of one ranking without ties, 1 marking a hit. A logarithm counts as the double that is nearest."""
    n_hits, first = sum(order), order[:k]
    if n_hits == 0:
        return dict.fromkeys(METRICS, Fraction(0))
    total = sum(
        (Fraction(sum(first[:place]), place) for place in range(1, len(first) + 1) if first[place - 1]), Fraction(0)
    )
    discounts = [1 / Fraction(math.log2(place + 1)) for place in range(1, len(order) + 1)]
    return {
        "precision": Fraction(sum(first), k),
        "average_precision": total / min(k, n_hits),
        "reciprocal_rank": Fraction(1, order.index(1) + 1),
        "recall": Fraction(sum(first), n_hits),
        "hit_rate": Fraction(any(first)),
        "ndcg": sum(itertools.compress(discounts, first)) / sum(discounts[: min(k, n_hits)]),
        "average_precision_by_relevant": total / n_hits,
        "average_precision_by_hits": total / sum(first) if any(first) else Fraction(0),
        "average_precision_by_k": total / k,
    }


def enumerated(sizes: Sequence[int], hits: Sequence[int], k: int) -> tuple[Exact, Exact, Exact]:
    """The mean, the least and the greatest of `scores_of_order` over every order of every tie group."""
    groups = [
        [[int(place in chosen) for place in range(size)] for chosen in itertools.combinations(range(size), hit)]
        for size, hit in zip(sizes, hits, strict=True)
    ]
    found = [scores_of_order(list(itertools.chain(*parts)), k) for parts in itertools.product(*groups)]
    columns = {name: [scores[name] for scores in found] for name in METRICS}
    return (
        {name: sum(values, Fraction(0)) / len(values) for name, values in columns.items()},
        {name: min(values) for name, values in columns.items()},
        {name: max(values) for name, values in columns.items()},
    )


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
            out[name].append(list(TieGroups(sizes, hits, k).expected()[0]))
    return out


def values(scores: object) -> list[float]:
    return [getattr(scores, name) for name in METRICS]


def random_groups(chooser: random.Random) -> tuple[list[int], list[int], int]:
    """Sizes and hits of up to three tie groups, some empty, and k."""
    sizes = [0]
    while sum(sizes) == 0:
        sizes = [chooser.randint(0, 5) for _ in range(chooser.randint(1, 3))]
    hits = [chooser.randint(0, size) for size in sizes]
    return sizes, hits, chooser.randint(1, sum(sizes) + 2)


def test_every_score_equals_all_orders_of_ties_written_out_in_fractions() -> None:
    chooser = random.Random(0)
    n_with_a_cut_group = n_where_a_hit_costs = 0
    for _ in range(400):
        sizes, hits, k = random_groups(chooser)
        groups = TieGroups(np.array([sizes], float), np.array([hits], float), k)
        exact = enumerated(sizes, hits, k)
        for found, expected in zip((groups.expected(), *groups.extremes()), exact, strict=True):
            for name, value in zip(METRICS, found[0].tolist(), strict=True):
                assert close(value, expected[name]), (name, sizes, hits, k)
        ends = list(itertools.accumulate(sizes))
        assert groups.is_cut[0] == (all(end != k for end in ends) and k < ends[-1])
        n_with_a_cut_group += int(groups.is_cut[0])
        # The one score that is not always greatest where the hits come first.
        in_order = [[1] * hit + [0] * (size - hit) for size, hit in zip(sizes, hits, strict=True)]
        by_hits = scores_of_order(list(itertools.chain(*in_order)), k)["average_precision_by_hits"]
        n_where_a_hit_costs += by_hits < exact[2]["average_precision_by_hits"]
    assert n_with_a_cut_group > 100
    assert n_where_a_hit_costs > 5


def test_rankings_side_by_side_score_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("athsearch.evaluation.ties.CELLS", 8)  # so that cut groups come in several parts
    chooser = random.Random(1)
    rankings = [random_groups(chooser)[:2] for _ in range(50)]
    sizes, hits = (
        np.array([part + [0] * (3 - len(part)) for part in parts], float) for parts in zip(*rankings, strict=True)
    )
    together = TieGroups(sizes, hits, 4)
    for row in range(50):
        alone = TieGroups(sizes[row : row + 1], hits[row : row + 1], 4)
        assert together.expected()[row].tolist() == pytest.approx(alone.expected()[0].tolist(), abs=1e-14)
        for both, one in zip(together.extremes(), alone.extremes(), strict=True):
            assert both[row].tolist() == pytest.approx(one[0].tolist(), abs=1e-14)


def test_a_cut_group_of_a_million_cases_is_exact() -> None:
    size, k = 10**6, 1000

    def found(hits: float) -> dict[str, float]:
        scores = TieGroups(np.array([[2.0, size]]), np.array([[0.0, hits]]), k).expected()
        return dict(zip(METRICS, scores[0].tolist(), strict=True))

    assert close(found(400_000)["precision"], Fraction(400_000, size) * (k - 2) / k)
    assert found(400_000)["hit_rate"] == 1.0  # but for one chance in 10^221
    none_found = Fraction(1)
    for hit in range(3):
        none_found *= Fraction(size - (k - 2) - hit, size - hit)
    assert close(found(3)["hit_rate"], 1 - none_found)


def test_evaluate_equals_every_order_of_ties_written_out() -> None:
    generator = np.random.default_rng(1)
    for _ in range(60):
        bits, n_cases, k = int(generator.integers(1, 4)), int(generator.integers(1, 7)), int(generator.integers(1, 8))
        database, query = random_codes(generator, n_cases, bits, 3), random_codes(generator, 1, bits, 1)
        labels = generator.choice(["a", "b"], n_cases).tolist()
        distances = (database.to_bits() ^ query.to_bits()).sum(axis=1)
        groups = [[labels[row] == "a" for row in np.flatnonzero(distances == d)] for d in range(bits + 1)]
        exact = enumerated([len(group) for group in groups], [sum(group) for group in groups], k)
        found = evaluate(database, labels, query, ["a"], k)
        for scores, expected in zip((found.macro, found.macro_ties.low, found.macro_ties.high), exact, strict=True):
            assert all(close(getattr(scores, name), expected[name]) for name in METRICS)


@pytest.mark.parametrize("bits", [5, 64, 130])
@pytest.mark.parametrize("n_distinct", [4, 400])
def test_evaluate_equals_a_plain_loop_with_and_without_groups(
    bits: int, n_distinct: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("athsearch.evaluation.scoring.CELLS", 300)  # so that every loop over blocks has several turns
    monkeypatch.setattr("athsearch.evaluation.ranking.CELLS", 300)
    monkeypatch.setattr("athsearch.evaluation.ranking.COLUMNS", 16)
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
    assert values(perfect.macro) == values(perfect.micro)
    assert values(perfect.macro) == [1, 1, 1, 0.5, 1, 1, 0.5, 1, 1]  # 10 of 20 cases can be found
    reversed_ranking = evaluate(codes, labels, codes, labels[::-1])
    assert values(reversed_ranking.macro) == [0, 0, pytest.approx(1 / 21), 0, 0, 0, 0, 0, 0]
    assert perfect.health.n_distinct_codes == 2
    assert perfect.health.tied_at_k == 1.0


def test_macro_chance_is_one_in_as_many_as_there_are_classes_and_micro_follows_the_skew() -> None:
    generator = np.random.default_rng(2)
    labels = ["normal"] * 777 + ["myopia"] * 79 + ["amd"] * 72 + ["glaucoma"] * 45 + ["diabetic_retinopathy"] * 27
    codes = random_codes(generator, 1000, 36, 1000)
    found = evaluate(codes, labels, codes, labels)
    assert found.chance.precision == pytest.approx(0.2, abs=1e-12)
    assert found.chance_micro.precision == pytest.approx(0.6179, abs=5e-5)
    assert values(found.majority)[:3] == [0.2, 0.2, pytest.approx(0.2, abs=2e-3)]
    assert found.majority_micro.precision == pytest.approx(0.777, abs=1e-12)


def test_leaving_out_the_query_itself_takes_its_sure_hit_away() -> None:
    codes = Codes.from_bits(np.random.default_rng(3).random((50, 64)) < 0.5)
    labels = [f"class {row}" for row in range(50)]  # nothing else can be a hit
    rows = list(range(50))
    assert evaluate(codes, labels, codes, labels, 1).micro.precision == 1.0
    left_out = evaluate(codes, labels, codes, labels, 1, database_groups=rows, query_groups=rows)
    assert values(left_out.micro) == [0.0] * 9
    assert left_out.health.n_without_relevant == 50
    nobody = evaluate(codes, labels, codes, labels, 1, database_groups=[None] * 50, query_groups=[None] * 50)
    assert nobody == evaluate(codes, labels, codes, labels, 1)


def test_places_past_the_end_of_the_database_are_misses() -> None:
    codes = Codes.from_bits(np.zeros((4, 8), np.bool_))
    found = evaluate(codes, ["a"] * 4, codes[:1], ["a"], 10)
    assert values(found.macro) == pytest.approx([0.4, 1, 1, 1, 1, 1, 1, 1, 0.4])
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
    found = evaluate(codes, labels, codes[:6], labels[:6])
    lines = found.table().splitlines()
    assert max(map(len, lines)) <= 100
    names = [line.split("  ")[0] for line in lines]
    first = ["macro", "micro", "chance, macro", "chance, micro", "majority, macro", "majority, micro"]
    assert names[2:8] == first
    assert f"{found.macro.precision:.3f}" in lines[2]
    assert names[10:12] == ["b", "c"]
    assert lines[2].split()[-2:] == ["6", "30"]
    assert lines[10].split()[-2:] == ["2", "10"]
    span = found.intervals.macro
    assert f"{span.low.precision:.3f}-{span.high.precision:.3f}" in lines[2]
    for metric, title in titles(10).items():
        (line,) = [line for line in lines[13:] if line.startswith(f"{title} ")]
        assert line.split()[len(title.split())] == f"{getattr(found.macro, metric):.3f}"
    for k in (99_999, 100_000, 999_999_999):
        lines = evaluate(codes, labels, codes[:3], labels[:3], k).table().splitlines()
        assert max(map(len, lines)) <= 100
        assert lines[0].split() == [f"P@{k}", "95", "%", f"AP@{k}", "MRR", "queries", "cases"]
        assert {len(line) for line in lines[:13]} == {len(lines[0])}
    without = evaluate(codes, labels, codes[:3], labels[:3], n_resamples=0)
    assert (without.intervals, "95 %:" in without.table()) == (None, False)


def test_names_of_classes_can_neither_break_a_table_nor_reach_the_terminal_as_commands() -> None:
    codes = random_codes(np.random.default_rng(5), 30, 16, 10)
    tables = []
    for names in (["a\nb", "c\x1b[31m", "\r"], ["a b", "c  31m", " "]):
        found = evaluate(codes, names * 10, codes, names * 10)
        tables.append((found.table(), found.latex()))
    (table, latex), (plain_table, plain_latex) = tables
    assert len(table.splitlines()) == len(plain_table.splitlines())
    assert len(latex.splitlines()) == len(plain_latex.splitlines())
    assert all(character.isprintable() for character in (table + latex).replace("\n", ""))


def test_the_latex_table_escapes_names_and_has_a_cell_for_each_column() -> None:
    codes = random_codes(np.random.default_rng(5), 30, 16, 10)
    labels = ["100% & more_{x}", "[b\\c]~^", "d#$"] * 10
    for n_resamples in (0, 100):
        lines = evaluate(codes, labels, codes, labels, n_resamples=n_resamples).latex().splitlines()
        (columns,) = [line.removeprefix("\\begin{tabular}{").removesuffix("}") for line in lines if "begin" in line]
        rows = [line for line in lines if line.endswith("\\\\")]
        assert [line.split(" & ")[0] for line in rows[-3:]] == [
            r"100\% \& more\_\{x\}", r"{[}b\textbackslash{}c]\textasciitilde{}\textasciicircum{}", r"d\#\$"
        ]  # fmt: skip
        for line in rows[1:]:
            assert len(re.split(r"(?<!\\)&", line)) == len(columns)
        assert [line for line in lines if "rule" in line] == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]


def test_the_dict_is_plain_json_and_names_the_form_of_average_precision() -> None:
    codes = random_codes(np.random.default_rng(6), 12, 16, 6)
    found: Evaluation = evaluate(codes, ["a", "b"] * 6, codes, ["a", "b"] * 6, 3)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["average_precision_form"] == "divided by min(k, R)"
    assert plain["macro"]["precision"] == found.macro.precision
    assert plain["per_class"]["b"]["n_queries"] == 6
    assert set(plain["average_precision_forms"]) == {name for name in METRICS if "average_precision" in name}
    assert plain["macro_ties"]["low"]["ndcg"] == found.macro_ties.low.ndcg
    assert plain["intervals"]["macro"]["high"]["recall"] == found.intervals.macro.high.recall
    assert plain["curves"]["depths"][0] == 1


def test_bad_arguments_say_what_was_expected_and_what_came() -> None:
    codes = Codes.from_bits(np.zeros((3, 8), np.bool_))
    labels = ["a", "b", "a"]
    with pytest.raises(ValueError, match="expected 3 database labels, one a code, got 2"):
        evaluate(codes, labels[:2], codes, labels)
    with pytest.raises(ValueError, match="expected 3 query labels, one a code, got 4"):
        evaluate(codes, labels, codes, [*labels, "a"])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        evaluate(codes, labels, codes, labels, 0)
    with pytest.raises(ValueError, match="n_resamples must be 0 or at least 100, got 99"):
        evaluate(codes, labels, codes, labels, n_resamples=99)
    with pytest.raises(ValueError, match="at least one database code, got none"):
        evaluate(codes[:0], [], codes, labels)
    with pytest.raises(ValueError, match="at least one query code, got none"):
        evaluate(codes, labels, codes[:0], [])
    with pytest.raises(TypeError, match="float"):
        evaluate(codes, labels, codes, labels, 2.5)  # type: ignore[arg-type]
    json.dumps(evaluate(codes, labels, codes, labels, np.int32(3)).to_dict())  # type: ignore[arg-type]
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


def test_curves_equal_the_scores_at_each_depth() -> None:
    generator = np.random.default_rng(7)
    database, queries = random_codes(generator, 90, 12, 20), random_codes(generator, 40, 12, 20)
    labels, query_labels = (
        generator.choice(["a", "b", "c"], 90).tolist(),
        generator.choice(["a", "b", "d"], 40).tolist(),
    )
    groups, query_groups = generator.integers(0, 20, 90).tolist(), generator.integers(0, 20, 40).tolist()
    grouped = {"database_groups": groups, "query_groups": query_groups, "n_resamples": 0}
    curves = evaluate(database, labels, queries, query_labels, 7, **grouped).curves
    assert (curves.depths[0], curves.depths[-1], 7 in curves.depths) == (1, 90, True)
    for place, depth in enumerate(curves.depths):
        found = evaluate(database, labels, queries, query_labels, depth, **grouped)
        for curve, scores in (
            (curves.scores, found.macro), (curves.chance, found.chance), (curves.majority, found.majority)
        ):  # fmt: skip
            assert curve.precision[place] == pytest.approx(scores.precision, abs=1e-12)
            assert curve.recall[place] == pytest.approx(scores.recall, abs=1e-12)


def test_a_case_is_left_out_once_however_many_of_its_groups_the_query_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("athsearch.evaluation.ranking.CELLS", 64)  # so that pairs come in several parts
    generator = np.random.default_rng(12)
    database, queries = random_codes(generator, 120, 16, 40), random_codes(generator, 50, 16, 40)
    labels, query_labels = generator.choice(["a", "b"], 120).tolist(), generator.choice(["a", "b"], 50).tolist()

    def some(n: int, n_groups: int) -> list[int | None]:
        return [None if group == 0 else group for group in generator.integers(0, n_groups, n).tolist()]

    groupings = [(some(120, 8), some(50, 9)), (some(120, 5), some(50, 5)), (some(120, 30), some(50, 30))]
    found, n_left_out = score(database, labels, queries, query_labels, 7, groupings, [None] * 50, n_resamples=0)
    precisions, expected = [], []
    for query in range(50):
        kept = [
            row for row in range(120)
            if all(theirs[query] is None or ours[row] != theirs[query] for ours, theirs in groupings)
        ]  # fmt: skip
        expected.append(120 - len(kept))
        left, its_label = [labels[row] for row in kept], [query_labels[query]]
        alone = evaluate(database[np.array(kept)], left, queries[query : query + 1], its_label, 7)
        precisions.append(alone.micro.precision)
    assert n_left_out.tolist() == expected
    assert min(expected) < 10 < 30 < max(expected)
    assert found.micro.precision == pytest.approx(np.mean(precisions), abs=1e-12)


def plain_intervals(
    scores: Sequence[float], labels: Sequence[str], units: Sequence[int], n_resamples: int
) -> dict[str, list[float]]:
    """The bootstrap one resample, one unit and one query at a time: percentiles of the macro, micro and class means."""
    generator, members = np.random.default_rng(SEED), sorted(set(units))
    means: dict[str, list[float]] = {name: [] for name in ("macro", "micro", *sorted(set(labels)))}
    whole: dict[str, list[float]] = {}
    for value, label in zip(scores, labels, strict=True):
        whole.setdefault(label, []).append(value)
    for _ in range(n_resamples):
        drawn: dict[str, list[float]] = {}
        for unit in generator.integers(0, len(members), len(members)):
            for value, label, of_unit in zip(scores, labels, units, strict=True):
                if of_unit == members[unit]:
                    drawn.setdefault(label, []).append(value)
        for label, values_drawn in drawn.items():
            means[label].append(float(np.mean(values_drawn)))
        of_classes = [drawn.get(label) or whole[label] for label in sorted(whole)]
        means["macro"].append(float(np.mean([np.mean(part) for part in of_classes])))
        means["micro"].append(float(np.mean(list(itertools.chain(*drawn.values())))))
    return {name: np.percentile(column, PERCENTILES).tolist() for name, column in means.items()}


def test_the_bootstrap_equals_a_plain_loop_over_resamples_of_patients() -> None:
    generator = np.random.default_rng(8)
    scores = generator.random((40, len(METRICS)))
    classes, units = generator.integers(0, 3, 40), generator.integers(0, 9, 40)
    units[:9] = np.arange(9)
    classes[classes == 2] = 1
    classes[:2] = 2  # of which many a resample has no query
    found = bootstrap(scores, classes, ("a", "b", "c"), units, 100)
    plain = plain_intervals(scores[:, 3].tolist(), ["abc"[number] for number in classes], units.tolist(), 100)
    assert (found.n_resamples, found.n_units) == (100, 9)
    for name, interval in (("macro", found.macro), ("micro", found.micro), *found.per_class.items()):
        assert [getattr(interval.low, METRICS[3]), getattr(interval.high, METRICS[3])] == pytest.approx(plain[name])


def test_intervals_are_wider_where_patients_answer_alike_and_do_not_depend_on_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(9)
    codes = random_codes(generator, 300, 16, 300)
    labels = generator.choice(["a", "b"], 300).tolist()
    queries, query_labels = codes[np.repeat(np.arange(20), 10)], [label for label in labels[:20] for _ in range(10)]
    nobody: list[Hashable] = [None] * 300
    alone = evaluate(codes, labels, queries, query_labels).intervals
    patients = [f"p{number // 10}" for number in range(200)]
    chosen = {"database_groups": nobody, "query_groups": patients}
    together = evaluate(codes, labels, queries, query_labels, **chosen).intervals
    assert alone is not None
    assert together is not None
    assert (alone.n_units, together.n_units) == (200, 20)
    widths = [span.micro.high.precision - span.micro.low.precision for span in (alone, together)]
    assert widths[1] > 2 * widths[0] > 0
    monkeypatch.setattr("athsearch.evaluation.bootstrap.DRAWS", 7 * 20)
    again = evaluate(codes, labels, queries, query_labels, **chosen).intervals
    assert values(again.macro.low) == pytest.approx(values(together.macro.low), abs=1e-12)


def test_of_one_unit_there_is_no_interval() -> None:
    codes = random_codes(np.random.default_rng(10), 9, 16, 9)
    labels = ["a"] * 5 + ["b"] * 4
    found = evaluate(codes, labels, codes[3:6], labels[3:6]).intervals
    assert found is not None
    assert set(found.per_class) == {"a"}  # of b there is one query, which does not vary
    assert found.macro is None
    patients = {"database_groups": [None] * 9, "query_groups": ["p"] * 3}
    assert evaluate(codes, labels, codes[3:6], labels[3:6], **patients).intervals is None


def test_health_counts_collisions_buckets_and_bits() -> None:
    bits = np.array([[0, 0, 1]] * 4 + [[0, 1, 1]] * 3 + [[0, 1, 0]], np.bool_)
    health = evaluate(Codes.from_bits(bits), list("aabaaaab"), Codes.from_bits(bits[:1]), ["a"]).health
    assert (health.n_distinct_codes, health.n_colliding_cases, health.largest_bucket) == (3, 4, 4)
    assert (health.mean_bucket, health.n_constant_bits) == (8 / 3, 1)
    assert health.bit_imbalance == pytest.approx((1 + 0 + 3 / 4) / 3)
    entropy = -(7 / 8) * math.log2(7 / 8) - (1 / 8) * math.log2(1 / 8)
    assert health.bit_entropy == pytest.approx((0 + 1 + entropy) / 3)
    assert health.code_entropy == pytest.approx(0.5 * 1 + 3 / 8 * math.log2(8 / 3) + 1 / 8 * 3)
