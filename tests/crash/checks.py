"""Whether an archive is one that no crash has harmed: nothing lost, nothing that was never added, and work goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from steps import BITS, Expected, State, World

from athsearch import Archive, Codes
from athsearch.archive.kept_index import FOLDER
from athsearch.archive.pseudonym import PatientKey
from athsearch.archive.query_log import LOG


class Harmed(Exception):
    """What is wrong with an archive after a crash."""


def check(world: World, path: Path, possible: list[State]) -> State:
    """Opens an archive after a crash, as a user would, and returns in which of the possible states it is.

    Raises Harmed where it is in none of them, a byte of it is not what its checksums say, it answers wrongly, or the
    next writer does not go on; the errors of athsearch where it does not even open. Adds one code to the archive.
    """
    if not path.exists():
        return _one_of(possible, State())
    with Archive.open(path, device="cpu") as archive:
        found = _state_of(world, archive)
        wanted = possible[-1].is_logged
        if len(possible) > 1 and found.is_logged != wanted:  # whose command was cut off gives it once more
            archive.set_query_log(wanted)
            n_before, found = found.n_lines, _state_of(world, archive)
            if n_before in {state.n_lines for state in possible}:  # it may have been cut off after its line
                found = replace(found, n_lines=possible[-1].n_lines)
        state = _one_of(possible, found)
        _verify(archive)
        if state.is_compact and len(possible) == 1:
            _check_files(archive)
        archive.encoder.check_probes()
        _search(archive, state)
        if archive.add_codes(Codes.from_bits(np.ones((1, BITS), np.bool_))) != range(state.next_id, state.next_id + 1):
            raise Harmed(f"the next id should have been {state.next_id}")
        new = Expected((2**BITS - 1,))
        _search(archive, state.with_added([new]))
        archive.delete([state.next_id])
        if _unlisted(archive):  # what a killed compaction left, the next one removes
            archive.compact()
            _check_files(archive)
        n_lines = _n_lines(archive)
    return replace(state, next_id=state.next_id + 1, is_compact=False, n_lines=n_lines)


def _one_of(possible: list[State], found: State) -> State:
    for state in possible:
        if replace(found, known=state.known, changed=state.changed, next_id=state.next_id) == replace(
            state, is_compact=False
        ):
            return state
    wanted = possible[0].cases
    lost = [id for id, case in wanted.items() if found.cases.get(id) != case]
    added = [id for id in found.cases if id not in wanted]
    raise Harmed(
        f"exists: {found.exists}; lost or changed: {lost[:5]} of {len(lost)}; more: {added[:5]} of {len(added)}; "
        f"{found.n_lines} lines of the log, {'on' if found.is_logged else 'off'}, not {possible[0].n_lines}"
    )


def _state_of(world: World, archive: Archive) -> State:
    """What the archive holds, each case compared with the image it says it is of."""
    database, cases = archive.database(), {}
    items = {item.source: item for item in world.source.items}
    ids = database.ids.tolist()
    with archive._reading() as snapshot:  # one by one, it would take long
        records = archive._catalogue.cases(ids, snapshot.alone(database.ids).tolist())
    for id, words, case in zip(ids, database.codes.words.tolist(), records, strict=True):
        item = None
        if case.source is not None:
            item = items[case.source]
            pseudonym = PatientKey.read(archive.path.with_name(f"{archive.path.name}.key")).pseudonym(str(item.patient))
            said = (case.root, case.label, case.patient, case.split, case.record)
            if said != (str(world.source.root.resolve()), item.label, pseudonym, item.split, item.record):
                raise Harmed(f"the record of case {id} is not that of {item.source}: {said}")
        cases[id] = Expected(tuple(words), item)
    is_logged = archive._catalogue.properties().get("query_log") == "on"
    return State(True, cases, n_lines=_n_lines(archive), is_logged=is_logged)


def _n_lines(archive: Archive) -> int:
    """Of the query log, those whose chain holds."""
    has_lines = (archive.path / LOG).exists() and (archive.path / LOG).stat().st_size
    return archive.query_log().check().head.n_lines if has_lines else 0


def _verify(archive: Archive) -> None:
    """Every byte and row that has a checksum, and SQLite's own check of the catalogue."""
    if problems := archive.verify().problems:
        raise Harmed(f"verify: {'; '.join(map(str, problems))}")


def _search(archive: Archive, state: State) -> None:
    """The answers to a few codes, by the index that is kept and by a scan, are those that the cases' codes give."""
    ids = np.array(sorted(state.cases), np.int64)
    words = np.array([state.cases[id].words[0] for id in ids.tolist()], np.uint64)
    for place in range(0, len(ids), max(1, len(ids) // 3)):
        distances = np.bitwise_count(words ^ words[place])
        wanted = sorted(zip(distances.tolist(), ids.tolist(), strict=True))[:10]
        query = Codes(words[place : place + 1, None], BITS, archive.model_id)
        for kind in (None, "flat"):
            found = [(hit.distance, hit.case.id) for hit in archive.search(query, k=10, kind=kind)]
            if found != wanted:
                raise Harmed(f"kind {kind}: case {ids[place]} finds {found}, not {wanted}")


def _check_files(archive: Archive) -> None:
    if unlisted := _unlisted(archive):
        raise Harmed(f"left behind: {unlisted}")


def _unlisted(archive: Archive) -> list[str]:
    """Files of segments and indexes that the catalogue does not list."""
    with archive._reading() as snapshot:
        listed = {archive.path / "segments" / segment.file for segment in snapshot.segments}
        if snapshot.kept_index:
            listed.add(archive.path / FOLDER / snapshot.kept_index.folder)
    found = {*(archive.path / "segments").iterdir(), *(archive.path / FOLDER).glob("*")}
    return sorted(str(file.relative_to(archive.path)) for file in found - listed)
