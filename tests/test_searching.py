"""Filters and groups of a search: what `where` may do, one hit a patient, and that neither needs the whole archive."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from athsearch.archive.archive import Archive
from athsearch.archive.cases import NewCase, Value
from athsearch.archive.searching import Hit
from athsearch.archive.segment import write_segment
from athsearch.archive.where import MAX_CHARACTERS
from athsearch.archive.writing import writing
from athsearch.codes import Codes
from athsearch.data import Source
from athsearch.encoder import Encoder
from athsearch.errors import AthsearchError
from athsearch.gpus import find_gpus
from athsearch.index import INDEXES
from conftest import Run, draw_image

BITS = 12  # few, so that distances tie
N_CASES, N_ALONE = 600, 40
OURS = [kind for kind in INDEXES if "faiss" not in kind and (kind != "gpu" or find_gpus().why_not(0) is None)]


def new_case(number: int) -> NewCase:
    """Half the cases are of one patient, a seventh of none; studies are of six cases; `site` is sparse and mixed."""
    patient = None if number % 7 == 0 else "p0" if number % 2 else f"p{number % 31}"
    record: dict[str, Value] = {"age": 20 + number % 60}
    if number % 3 == 0:
        sites: list[Value] = [1, 1.0, "1", "x", 2.5]
        record["site"] = sites[number % 5]
    study = None if patient is None else f"{patient}-{number % 12 // 6}"
    return NewCase(f"{number}.png", number.to_bytes(32, "big"), "abc"[number % 3], patient, "test", record, study)


def fill(archive: Archive, n_cases: int, n_alone: int) -> None:
    """Cases 1 to n_cases, then codes alone; every eleventh case is deleted."""
    codes = Codes.from_bits(np.random.default_rng(5).random((n_cases + n_alone, archive.bits)) < 0.5, archive.model_id)
    with writing(archive.path) as catalogue:
        segment = write_segment(archive.path / "segments", [codes[:n_cases]], n_cases, archive.bits, first_id=1)
        catalogue.add("/images", segment, [new_case(number) for number in range(n_cases)])
    archive.add_codes(codes[n_cases:])
    archive.delete(range(11, n_cases, 11))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with Archive.create(tmp_path_factory.mktemp("searching") / "archive", bits=BITS) as archive:
        fill(archive, N_CASES, N_ALONE)
        yield archive


def one_of_each(hits: list[Hit], column: str) -> list[Hit]:
    """The slow, obviously right twin."""
    seen: set[Any] = set()
    kept = []
    for hit in hits:
        value = hit.case.value(column)
        if value is None or value not in seen:
            kept.append(hit)
            seen.add(value)
    return kept


# ---- one hit of each


@pytest.mark.parametrize("column", ["patient", "study", "label", "site", "id", "split"])
@pytest.mark.parametrize("kind", [None, *OURS])
def test_one_per_is_the_full_ranking_filtered(archive: Archive, column: str, kind: str | None) -> None:
    for number, where in ((3, None), (78, "age < 50"), (150, "label <> 'b'")):
        ranking = archive.search_case(number, 10_000, where, kind=kind)
        one_each = one_of_each(ranking, column)
        assert len(one_each) < len(ranking) or column == "id"
        for k in (1, 2, 10, 37, 10_000):
            assert archive.search_case(number, k, where, kind=kind, one_per=column) == one_each[:k]


def test_one_per_counts_codes_without_a_case_each(archive: Archive) -> None:
    query = archive.database().codes[5:6]
    ranking = one_of_each(archive.search(query, 10_000), "patient")
    assert sum(hit.case.source is None for hit in ranking) == N_ALONE
    assert archive.search(query, 10_000, one_per="patient") == ranking
    with pytest.raises(ValueError, match="no column 'weight'; columns: id, source, label, patient, study, split, age"):
        archive.search(query, one_per="weight")
    with pytest.raises(ValueError, match="k must be at least 1"):
        archive.search(query, 0, one_per="patient")


def test_what_is_reranked_is_the_nearest_of_each(tmp_path: Path, encoder: Encoder) -> None:
    with Archive.create(tmp_path / "archive", encoder) as archive:
        fill(archive, 300, 10)
        image, n_told = draw_image(70), 0
        logits = encoder.logits(image)[0]
        weights = np.rint(logits.astype(np.float64) * (32767 / np.abs(logits).max())).astype(int)
        database = archive.database()
        scores = np.where(database.codes.to_bits(), 1, -1) @ weights
        score_of = dict(zip(database.ids.tolist(), scores.tolist(), strict=True))
        nearest = one_of_each(archive.search(image, 10_000), "patient")
        for k, depth in ((5, 1), (5, 20), (12, 1000)):
            first = [replace(hit, score=score_of[hit.case.id]) for hit in nearest[: max(k, depth)]]
            ranked = sorted(first, key=lambda hit: (-(hit.score or 0), hit.distance, hit.case.id))[:k]
            assert archive.search(image, k, rerank="asymmetric", depth=depth, one_per="patient") == ranked
            n_told += [hit.case.id for hit in ranked] != [hit.case.id for hit in nearest[:k]]
        assert n_told


def test_a_patient_with_most_of_the_archive_does_not_make_it_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 cases of one patient are nearer than those of all others."""
    n_cases = 20_100
    words = np.zeros((n_cases, 1), np.uint64)
    words[20_000:, 0] = np.arange(100, dtype=np.uint64) + np.uint64(0xFFFF_FFFF_0000_0000)
    with Archive.create(tmp_path / "archive", bits=64) as archive:
        with writing(archive.path) as catalogue:
            segment = write_segment(archive.path / "segments", [Codes(words, 64)], n_cases, 64, first_id=1)
            patients = ["big"] * 20_000 + [f"p{number}" for number in range(100)]
            cases = [NewCase(f"{n}.png", bytes(32), patient=patient) for n, patient in enumerate(patients)]
            catalogue.add("/images", segment, cases)
        n_asked = []
        search = type(archive._snapshot.index() if archive._snapshot else None).search  # type: ignore[union-attr]

        def counting(self: Any, queries: Codes, k: int, *arguments: Any, **options: Any) -> Any:
            n_asked.append(k)
            return search(self, queries, k, *arguments, **options)

        monkeypatch.setattr(INDEXES["flat"], "search", counting)
        hits = archive.search(Codes(np.zeros((1, 1), np.uint64), 64), one_per="patient")
        assert [hit.case.id for hit in hits][:2] == [1, 20_001]
        assert len(hits) == 10
        assert sum(n_asked) < 500


# ---- where


def test_parameters_are_values(archive: Archive) -> None:
    def ids(where: str, *parameters: object, **named: object) -> list[int]:
        found: list[int] = archive._catalogue.ids_where(where, named or parameters).tolist()  # type: ignore[arg-type]
        return found

    expected = ids("age < 25 AND label = 'b'")
    assert len(expected) == 20
    assert ids("age < ? AND label = ?", 25, "b") == expected
    assert ids("age < :age AND label = :label", age=25, label="b") == expected
    assert ids("label = ?", "b' OR 1 --") == []
    assert ids("label IS ?", None) == []
    assert ids("source = ? OR source = ?1", "7.png") == [8]
    refused: list[tuple[str, Any]] = [
        ("age < ?", ()), ("age < ?", (1, 2)), ("age < :age", {"ages": 1}), ("age < ?", (10**30,)), ("1", (1,)),
        ("label = ?", ("x" * (MAX_CHARACTERS + 1),)), ("age < ?", {"age": 1}), ("label = ?", ("\ud800",)),
    ]  # fmt: skip
    for where, parameters in refused:
        with pytest.raises(ValueError, match="columns: id, source"):
            archive._catalogue.ids_where(where, parameters)
    others: list[Any] = ["ab", 3, b"ab", ([1],), {"age": np.int64(3)}]
    for parameters in others:
        with pytest.raises(TypeError, match="parameters must be"):
            archive._catalogue.ids_where("age < 3", parameters)


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ('"ages" > 5', "ages"),
        ('label = "a"', "a"),
        ("label = 'a' OR \"it's\" > 5 OR label = 'b'", "it's"),
        ("label = '--' AND \"ages\" > 5", "ages"),
        ("1 /* ' */ AND \"ages\" > 5 -- '", "ages"),
        ('"a""b" > 5', 'a""b'),
        ('age > 5 AND "', ""),
        ("`ages` > 5", None),  # these SQLite takes for names alone
        ("[ages] > 5", None),
    ],
)
def test_a_name_in_quotes_that_is_no_column_is_an_error(archive: Archive, where: str, name: str | None) -> None:
    wanted = "no such column: ages" if name is None else f"no column \"{name}\"; a text stands in '...'; columns: id, "
    with pytest.raises(ValueError, match=re.escape(wanted)):
        archive.find(where=where)
    with pytest.raises(ValueError, match="columns: id, source"):
        archive.delete(where=where)


@pytest.mark.parametrize("quoted", ['"age"', '"AGE"', "[age]", "`age`", '/* " */ age', 'age -- "\n'])
def test_columns_may_stand_in_quotes(archive: Archive, quoted: str) -> None:
    expected = archive.find(where="age < 25").tolist()
    assert archive.find(where=f"{quoted} < 25 AND label <> '\"no\"'").tolist() == expected
    assert len(expected) > 10


LONG = "label"
for _ in range(7):
    LONG = f"{LONG}||{LONG}"
ATTACKS = [
    "id IN (SELECT id FROM visible_cases)",
    "EXISTS (SELECT 1)",
    "1) UNION SELECT value FROM property WHERE (1",
    "1) UNION ALL VALUES (1",
    "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n)",
    "(SELECT count(*) FROM visible_cases a, visible_cases b, visible_cases c, visible_cases d)",
    "id IN deleted_code",
    "id IN pragma_table_info('cases')",
    "content IS NOT NULL",
    "is_deleted",
    "check_sum > 0",
    "root = 1",
    "cases.record IS NOT NULL",
    "main.cases.id = 1",
    "rowid = 1 AND (SELECT sql FROM sqlite_master)",
    "load_extension('x')",
    "readfile('/etc/passwd')",
    "writefile('x', 'y')",
    "edit('x')",
    "fts3_tokenizer('x')",
    "zeroblob(1000000000)",
    "randomblob(1000000000)",
    "printf('%1000000000d', 1)",
    "format('%1000000000d', 1)",
    "replace(hex(zeroblob(1000)), '0', hex(zeroblob(100000)))",
    "quote(label)",
    "sqlite_version()",
    "json_group_array(id)",
    "json_each('[1]')",
    "count(*) > 1",
    "row_number() OVER ()",
    "raise(ABORT, 'x')",
    "1; DELETE FROM cases",
    "1); DELETE FROM cases WHERE (1",
    "1) ; ATTACH 'x' AS y; --",
    "?",
    "label MATCH 'x'",
    "label REGEXP '(a+)+$'",
    "label -> '$'",
    "json_extract('x', '$')",
    f"json_extract('{'[' * 5000}', '$')",
    "abs(-9223372036854775808)",
    "NOT " * 2000 + "1",
    "(" * 3000 + "1" + ")" * 3000,
    "+".join("1" * 3000),
    " OR ".join(["label = 'a'"] * 900),
    f"{LONG} LIKE '{'%a' * 2000}b'",
    f"{LONG} GLOB '{'*a' * 2000}b'",
    f"'{'a' * 9000}' LIKE '{'%a_' * 200}'",
    "'" + "a" * MAX_CHARACTERS + "'",
    "max(" + ",".join("1" * 3000) + ")",
    "label = '\x00'",
    "\ud800",
    "label COLLATE nothing = 'a'",
    "a.b.c.d",
    "",
    ")",
    "(",
    "--",
    "/*",
    "'",
]


@pytest.mark.parametrize("where", ATTACKS, ids=lambda where: ascii(where[:30]))
def test_attacks_end_soon_with_an_error_or_with_cases_alone(archive: Archive, where: str) -> None:
    query = archive.database().codes[:1]
    begin = time.monotonic()
    with pytest.raises(ValueError, match="where="):
        archive.search(query, where=where)
    assert time.monotonic() - begin < 2
    assert archive.n_cases == N_CASES + N_ALONE - 54  # it is as it was, and may be searched
    assert archive.search(query, where="age > 0")


def test_a_slow_expression_is_stopped(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("athsearch.archive.where.LEAST_SECONDS", 0.005)
    monkeypatch.setattr("athsearch.archive.where.SECONDS_A_CASE", 0.0)
    slow = " + ".join([f"length({LONG[:495]})"] * 15)
    with pytest.raises(ValueError, match=r"it takes more than 0\.005 s"):
        archive.search(archive.database().codes[:1], where=f"{slow} < 0")


FRAGMENTS = st.sampled_from(
    [
        *(
            "age",
            "label",
            "id",
            "source",
            "patient",
            "study",
            "record",
            "cases",
            "visible_cases",
            "(",
            ")",
            ",",
            "'",
            '"',
        ),
        *(
            "1",
            "-1",
            "1e999",
            "x'00'",
            "NULL",
            "=",
            "<",
            "IS",
            "NOT",
            "AND",
            "OR",
            "IN",
            "BETWEEN",
            "LIKE",
            "GLOB",
            "ESCAPE",
        ),
        *(
            "||",
            "+",
            "*",
            "/",
            "%",
            "&",
            "~",
            ">>",
            "CASE",
            "WHEN",
            "THEN",
            "ELSE",
            "END",
            "CAST",
            "AS",
            "TEXT",
            "COLLATE",
        ),
        *(
            "nocase",
            "SELECT",
            "FROM",
            "WHERE",
            "VALUES",
            "UNION",
            "WITH",
            "EXISTS",
            "GROUP BY",
            "HAVING",
            ";",
            "--",
            "/*",
        ),
        *(
            "*/",
            "?",
            "?1",
            ":a",
            "@b",
            "$c",
            "length",
            "substr",
            "max",
            "like",
            "glob",
            "date",
            "strftime",
            "json_extract",
        ),
        *("replace", "zeroblob", "printf", "'%'", "'$.age'", "'now'", "\x00", "é"),
    ]
)


@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    where=st.one_of(st.text(max_size=60), st.lists(FRAGMENTS, max_size=14).map(" ".join)),
    parameters=st.one_of(
        st.lists(st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=9)), max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(-9, 9)),
    ),
)
def test_any_expression_gives_cases_or_an_error_of_ours(archive: Archive, where: str, parameters: Any) -> None:
    try:
        ids = archive._catalogue.ids_where(where, parameters)
    except (ValueError, AthsearchError):
        return
    assert ids.dtype == np.int64
    assert set(ids.tolist()) <= set(range(1, N_CASES + 1))


def test_masks_of_filters_last_until_the_next_commit(tmp_path: Path) -> None:
    with Archive.create(tmp_path / "archive", bits=BITS) as archive:
        fill(archive, 50, 0)
        query = archive.database().codes[:1]
        calls = []
        ids_where = archive._catalogue.ids_where
        archive._catalogue.ids_where = lambda *given: calls.append(given) or ids_where(*given)  # type: ignore
        first = archive.search(query, where="age < ?", parameters=(40,))
        assert archive.search(query, where="age < ?", parameters=(40,)) == first
        assert archive.search(query, where="age < ?", parameters=(21,)) != first
        assert len(calls) == 2
        archive.delete([first[0].case.id])
        assert first[0] not in archive.search(query, where="age < ?", parameters=(40,))
        for _ in range(2):
            archive.search(query, where="date('now') > '2000-01-01'")
        assert len(calls) == 5


# ---- the same patient


def test_the_same_patient_is_left_out_on_every_road(tmp_path: Path, encoder: Encoder, source: Source, run: Run) -> None:
    """Case 1 and case 2 are of one patient."""
    with Archive.create(tmp_path / "archive", encoder) as archive:
        archive.add(source)
        image = source.root / "00.png"
        code = encoder.encode([image])
        strangers = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12}

        def ids(hits: list[Hit]) -> set[int]:
            return {hit.case.id for hit in hits}

        assert ids(archive.search_case(1, 12)) == strangers
        assert ids(archive.search_case(1, 12, exclude_same=())) == strangers | {2}
        for query in (image, code):
            assert ids(archive.search(query, 12, patient="Meier0")) == strangers
            assert ids(archive.search(query, 12)) == strangers | {1, 2}  # nobody said whose it is
    for asked in (("--id", 1), (image, "--patient", "Meier0"),
                  ("--code", code.to_bytes().tobytes().hex(), "--patient", "Meier0")):  # fmt: skip
        hits = run("query", tmp_path / "archive", *asked, "-k", 12, "--json").json()["hits"]  # type: ignore[index]
        assert {hit["id"] for hit in hits} == strangers
    hits = run("query", tmp_path / "archive", "--id", 1, "-k", 12, "--one-per", "patient", "--json").json()["hits"]  # type: ignore[index]
    assert len(hits) == len({hit["patient"] for hit in hits}) == 5
