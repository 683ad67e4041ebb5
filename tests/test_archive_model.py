"""An archive against a plain dict of cases: whatever is done to it, in whatever order, both say the same.

ATHSEARCH_MODEL_EXAMPLES=200 tries that many histories, new ones each time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from PIL import Image

from athsearch.archive import archive as archive_module
from athsearch.archive.archive import Archive
from athsearch.archive.kept_index import KINDS
from athsearch.codes import Codes, concatenate
from athsearch.data import Item, Source
from athsearch.data import source as source_module
from athsearch.encoder import Encoder
from conftest import draw_image

N_EXAMPLES = int(os.environ.get("ATHSEARCH_MODEL_EXAMPLES", "0"))
SEEDS = st.integers(0, 11)  # each an image
NAMES = ("a.png", "b.png", "c.png", "d.png", "e.png")
PATIENTS = st.sampled_from([None, "Meier", "Schulz", "Vogel"])
AGES = st.integers(40, 49)
Write: TypeAlias = tuple[int | None, str | None, int]  # seed (None: no image), patient, age
WRITES = st.tuples(st.integers(-1, 11).map(lambda seed: None if seed < 0 else seed), PATIENTS, AGES) | st.none()


@dataclass(frozen=True)
class Known:
    """A case as the model knows it. A ready-made code has no source."""

    seed: int
    source: str | None = None
    patient: str | None = None
    age: int | None = None


class ArchiveModel(RuleBasedStateMachine):
    encoder: Encoder
    codes: Codes  # [12], by seed
    seen: Counter[str]  # what happened at all

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.archive = Archive.create(self.folder / "archive", self.encoder)
        self.files: dict[str, tuple[int | None, Item]] = {}
        self.cases: dict[int, Known] = {}
        self.deleted: set[tuple[str | None, int]] = set()
        self.next_id = 1

    def teardown(self) -> None:
        self.archive.close()
        shutil.rmtree(self.folder)

    @initialize(writes=st.fixed_dictionaries({name: WRITES for name in NAMES}))
    def first_night(self, writes: dict[str, Write | None]) -> None:
        self.night(writes, False, False)

    @rule(writes=st.dictionaries(st.sampled_from(NAMES), WRITES), recheck=st.booleans(), update_records=st.booleans())
    def next_night(self, writes: dict[str, Write | None], recheck: bool, update_records: bool) -> None:
        self.night(writes, recheck, update_records)

    def night(self, writes: dict[str, Write | None], recheck: bool, update_records: bool) -> None:
        for name, write in writes.items():
            (self.folder / name).unlink(missing_ok=True)
            self.files.pop(name, None)
            if write is not None:
                seed, patient, age = write
                if seed is None:
                    (self.folder / name).write_text("no image")
                else:
                    Image.fromarray(draw_image(seed)).save(self.folder / name)
                self.files[name] = seed, Item(name, patient=patient, record={"age": age})
        n_added = n_changed = n_present = n_differing = n_deleted = 0
        failed = []
        for name, (seed, item) in sorted(self.files.items()):
            id, case = next(((id, case) for id, case in self.cases.items() if case.source == name), (None, None))
            if seed is None:
                failed.append(name)
            elif id is not None and case is not None and case.seed == seed:
                now = Known(seed, name, item.patient or case.patient, int(item.record["age"]))
                n_present += 1
                n_differing += now != case
                if update_records:
                    self.cases[id] = now
            elif (name, seed) in self.deleted:
                n_deleted += 1
            else:
                if id is not None:
                    del self.cases[id]
                n_changed += id is not None
                n_added += id is None
                self.cases[self.next_id] = Known(seed, name, item.patient, int(item.record["age"]))
                self.next_id += 1
        source = Source(self.folder, tuple(item for _, (_, item) in sorted(self.files.items())))
        report = self.archive.add(source, recheck=recheck, update_records=update_records)
        assert (report.n_added, report.n_changed, report.n_present) == (n_added, n_changed, n_present)
        assert (report.n_differing, report.n_deleted) == (n_differing, n_deleted)
        assert [name for name, _ in report.failed] == failed
        assert [name for _, name, _ in self.archive.unreadable] == failed
        counts = {"changed": n_changed, "differing": n_differing, "deleted": n_deleted, "failed": len(failed)}
        self.seen.update(counts)

    @rule(seeds=st.lists(SEEDS, max_size=4))
    def add_codes(self, seeds: list[int]) -> None:
        ids = self.archive.add_codes([self.codes[seed : seed + 1] for seed in seeds])
        assert ids == range(self.next_id, self.next_id + len(seeds))
        self.cases.update(zip(ids, map(Known, seeds), strict=True))
        self.next_id += len(seeds)

    @rule(places=st.lists(st.integers(0, 100), min_size=1, max_size=3))
    def delete_by_id(self, places: list[int]) -> None:
        there = sorted(self.cases)
        ids = {there[place % len(there)] for place in places} if there else set()
        assert self.archive.delete(ids) == len(ids)
        self.forget(ids)
        for id in {*ids, self.next_id}:
            with pytest.raises(KeyError):
                self.archive.delete([id])

    @rule(age=AGES)
    def delete_where(self, age: int) -> None:
        ids = {id for id, case in self.cases.items() if case.age is not None and case.age < age - 5}
        assert self.archive.delete(where=f"age < {age - 5}" if self.has_ages else "0") == len(ids)
        self.forget(ids)

    @rule(patient=st.sampled_from(["Meier", "Vogel"]))
    def delete_patient(self, patient: str) -> None:
        ids = {id for id, case in self.cases.items() if case.patient == patient}
        assert self.archive.delete(patient=patient) == len(ids)
        self.forget(ids)

    def forget(self, ids: set[int]) -> None:
        self.deleted |= {(case.source, case.seed) for case in map(self.cases.pop, ids) if case.source}

    @rule()
    def compact(self) -> None:
        self.seen["removed"] += self.archive.compact().n_removed
        assert self.archive.n_deleted == 0
        assert self.archive.n_segments <= 1 + 2 * len(self.cases)

    @rule()
    def reopen(self) -> None:
        self.archive.close()
        self.archive = Archive.open(self.folder / "archive", device="cpu")

    @rule(kind=st.sampled_from(KINDS))
    def build_index(self, kind: str) -> None:
        self.archive.build_index(kind)

    @property
    def has_ages(self) -> bool:
        return "age" in self.archive.columns

    @rule(seed=SEEDS, k=st.integers(1, 12), patient=PATIENTS, age=AGES | st.none())
    def search(self, seed: int, k: int, patient: str | None, age: int | None) -> None:
        where = None if age is None or not self.has_ages else f"age >= {age}"
        hits = self.archive.search(self.codes[seed : seed + 1], k, where=where, patient=patient)
        assert [(hit.distance, hit.case.id) for hit in hits] == self.nearest(seed, patient, age if where else None)[:k]
        self.seen["hits"] += len(hits)
        for hit in hits:
            known = self.cases[hit.case.id]
            assert (hit.case.source, hit.case.record.get("age")) == (known.source, known.age)

    @rule(place=st.integers(0, 100))
    def search_case(self, place: int) -> None:
        if self.cases:
            id = sorted(self.cases)[place % len(self.cases)]
            hits = self.archive.search_case(id, 50)
            nearest = self.nearest(self.cases[id].seed, self.cases[id].patient, None)
            assert [(hit.distance, hit.case.id) for hit in hits] == [pair for pair in nearest if pair[1] != id]

    def nearest(self, seed: int, patient: str | None, age: int | None) -> list[tuple[int, int]]:
        """(distance, id) of the cases that may be returned, the slow and obvious way."""
        words = self.codes.words
        return sorted(
            (int(np.bitwise_count(words[seed] ^ words[case.seed]).sum()), id)
            for id, case in self.cases.items()
            if (patient is None or case.patient != patient)
            and (age is None or (case.age is not None and case.age >= age))
        )

    @invariant()
    def both_hold_the_same(self) -> None:
        database = self.archive.database()
        assert database.ids.tolist() == sorted(self.cases)
        seeds = [self.cases[id].seed for id in sorted(self.cases)]
        assert database.codes == concatenate([self.codes[:0], *(self.codes[seed : seed + 1] for seed in seeds)])
        patients: dict[str | None, str | None] = {}
        for id, pseudonym in zip(database.ids.tolist(), database.patients, strict=True):
            assert patients.setdefault(self.cases[id].patient, pseudonym) == pseudonym
        assert len(set(patients.values())) == len(patients)


def test_an_archive_is_a_dict_of_cases(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "QUIET_S", 0.05)  # so that some files need not be read again
    monkeypatch.setattr(archive_module, "MAX_ADDED_SHARE", 2)  # so that an index stays while cases come
    ArchiveModel.encoder, ArchiveModel.seen = encoder, Counter()
    ArchiveModel.codes = encoder.encode([draw_image(seed) for seed in range(12)])
    assert len(np.unique(ArchiveModel.codes.words)) > 8
    # A history by hand, in which everything happens; what hypothesis draws need not hold it all.
    model = ArchiveModel()
    drawn: dict[str, Write | None] = {name: (seed, "Meier", 40) for seed, name in enumerate(NAMES)}
    model.night(drawn | {"a.png": (None, None, 40)}, False, False)
    model.night({"b.png": (1, "Vogel", 49), "c.png": (9, "Schulz", 41)}, False, True)
    model.night({"e.png": (4, None, 45)}, False, True)
    model.delete_patient("Meier")
    model.compact()
    model.night({}, True, False)
    model.search(1, 5, None, None)
    model.add_codes([4, 5])
    model.build_index("distinct")
    model.add_codes([1, 2, 3])
    model.compact()
    model.search(1, 5, None, None)
    model.both_hold_the_same()
    model.teardown()
    for event in ("changed", "differing", "deleted", "failed", "removed", "hits"):
        assert ArchiveModel.seen[event], event
    chosen = settings(
        max_examples=N_EXAMPLES or 8,
        stateful_step_count=40,
        deadline=None,
        derandomize=not N_EXAMPLES,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(ArchiveModel, settings=chosen)  # type: ignore[no-untyped-call]
