"""An archive: a folder of cases that can be searched, and that grows.

    catalogue.sqlite      which segments and cases there are; what it does not list does not exist
    segments/*.npy        codes, one row a case
    indexes/*/*.npy       the codes once more, sorted, where an index is kept
    weights.safetensors   the copy of the weights that made them, and that queries are encoded with; an archive of
                          ready-made codes has none
    writer.lock           held by the one process that is writing

Patients and studies are stored as pseudonyms under a key that lies outside the folder, by default beside it as
FOLDER.key.
"""

from __future__ import annotations

import operator
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..codes import Codes, n_words_for
from ..data import Source, patient_of
from ..errors import ArchiveError, CatalogueError, ModelError, ModelMismatch
from ..index import Plan
from ..index.distinct import MAX_ADDED_SHARE
from ..index.reranking import DEFAULT_DEPTH
from ..index.sorted import MAX_SORTED
from ..types import Ids
from .cases import Case, NewCase, Value, record_name
from .catalogue import Catalogue
from .imports import checked_parts, sized
from .kept_index import KeptIndex, remove_unlisted, write_index
from .parts import Database, Part, read_database, read_part
from .pseudonym import PatientKey, default_key
from .query_log import LOG, LogReport, QueryLog
from .searching import Hit, Question, answer
from .segment import map_segment, write_segment
from .snapshot import Snapshot
from .where import Parameters
from .writing import write_empty, writing

if TYPE_CHECKING:  # a search by id needs neither the encoder nor what reads images, and starts faster without
    from ..encoder import Encoder, ImageLike
    from .audit import AuditReport
    from .compaction import CompactReport
    from .intake import AddReport, Queries
    from .places import Places
    from .repairing import RepairReport
    from .verifying import VerifyReport

PART_ROWS = 1 << 17


class Archive:
    """An open archive. Searches see the newest commit of any process; one process at a time may write.

    Several threads may use one Archive: its searches take turns, each using all processors.
    """

    def __init__(self, path: Path, key_path: Path, device: str) -> None:
        """Use `Archive.create` or `Archive.open`."""
        self.path = path
        self._key_path = key_path
        self._device = device
        self._catalogue = Catalogue(path / "catalogue.sqlite")
        properties = self._catalogue.properties()
        try:
            self.bits, self.model_id = int(properties["bits"]), properties["model_id"] or None
            self._like = Codes.from_bits(np.zeros((0, self.bits), np.bool_), self.model_id)
        except (KeyError, ValueError) as error:
            self._catalogue.close()
            raise CatalogueError(f"{path}: damaged: its catalogue does not say which model made its codes") from error
        self._encoder: Encoder | None = None
        self._snapshot: Snapshot | None = None
        self._lock = threading.RLock()

    @classmethod
    def create(
        cls,
        path: str | Path,
        encoder: Encoder | None = None,
        key_path: str | Path | None = None,
        *,
        bits: int | None = None,
    ) -> Archive:
        """A new, empty archive that holds a copy of the encoder's weights. Appears whole or not at all.

        bits: instead of an encoder, for ready-made codes of this length and no known network; it cannot encode images.
        key_path: the file of the key for patients' pseudonyms; made with the first patient, if it is not there.
        Raises ArchiveError when `path` exists, ValueError for impossible bits.
        """
        if encoder is not None and bits is None:
            properties = {"bits": str(encoder.bits), "model_id": encoder.model_id}
        elif encoder is None and bits is not None:
            n_words_for(operator.index(bits))  # raises where no code can be that long
            properties = {"bits": str(operator.index(bits)), "model_id": ""}
        else:
            raise TypeError("give an encoder, or the bits of ready-made codes")
        path = Path(os.path.abspath(path))
        if path.exists():
            raise ArchiveError(f"{path}: exists already")
        write_empty(path, properties, encoder)
        return cls.open(path, key_path, "auto" if encoder is None else encoder.device)

    @classmethod
    def open(cls, path: str | Path, key_path: str | Path | None = None, device: str = "auto") -> Archive:
        """An existing archive. device: where queries and new images are encoded, as for `Encoder`.

        Raises ArchiveError when there is none at `path`; CatalogueError, FormatVersion or SegmentCorrupt when there is
        one that cannot be used. Opening checks the structure, not every byte.
        """
        path = Path(os.path.abspath(path))
        if not (path / "catalogue.sqlite").is_file():
            reason = "no such folder" if not path.exists() else "not an archive: it has no catalogue.sqlite"
            raise ArchiveError(f"{path}: {reason}")
        key = Path(os.path.abspath(key_path)) if key_path else default_key(path)
        archive = cls(path, key, device)
        try:
            with archive._reading():
                return archive
        except BaseException:
            archive.close()
            raise

    def close(self) -> None:
        """Ends the connection to the catalogue. An archive is also a context manager."""
        self._catalogue.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def encoder(self) -> Encoder:
        """The archive's own encoder, loaded when first asked for.

        Raises CheckpointError or ModelMismatch; ModelError for an archive of ready-made codes, which has none.
        """
        if self.model_id is None:
            raise ModelError(
                f"{self.path}: it holds ready-made codes of no known network and cannot encode images; "
                "search it by code or by id"
            )
        if self._encoder is None:
            from ..encoder import Encoder

            encoder = Encoder.load(self.path / "weights.safetensors", self._device)
            if encoder.model_id != self.model_id:
                raise ModelMismatch(
                    f"{self.path}: its codes are of model {self.model_id}, its weights file is {encoder.model_id}"
                )
            self._encoder = encoder
        return self._encoder

    @property
    def n_cases(self) -> int:
        """How many cases can be found."""
        with self._reading() as snapshot:
            return snapshot.n_alive

    @property
    def n_deleted(self) -> int:
        """How many cases were deleted."""
        with self._reading() as snapshot:
            return len(snapshot.deleted_rows)

    @property
    def format(self) -> int:
        """The format of the archive on disk: see docs/format.md."""
        return self._catalogue.format

    @property
    def n_codes_alone(self) -> int:
        """How many of the cases that can be found have only a code and an id, no record."""
        with self._reading() as snapshot:
            return snapshot.n_alone

    @property
    def n_words(self) -> int:
        """uint64 words a code takes."""
        return self._like.n_words

    @property
    def n_segments(self) -> int:
        """How many files the codes lie in."""
        with self._reading() as snapshot:
            return len(snapshot.segments)

    @property
    def columns(self) -> list[str]:
        """What `where` and `exclude_same` may name."""
        return self._catalogue.columns()

    def counts(self) -> dict[str | None, int]:
        """How many cases of each label can be found."""
        with self._reading() as snapshot:
            counts = self._catalogue.counts()
            return {None: counts.pop(None, 0) + snapshot.n_alone, **counts} if snapshot.n_alone else counts

    def case(self, id: int) -> Case:
        """One case. Raises KeyError when there is none of that id, or it was deleted."""
        id = _checked_id(id)
        with self._reading() as snapshot:
            return self._case(snapshot, id)

    def database(self) -> Database:
        """Codes, labels and patients of all cases that can be found, in the order of their ids."""
        with self._reading() as snapshot:
            return read_database(snapshot, self._catalogue)

    def parts(self, columns: Sequence[str] = (), n_rows: int = PART_ROWS) -> Iterator[Part]:
        """All cases that can be found now, in the order of their ids, at most n_rows at a time.

        columns: those of `columns` to read. Raises ValueError for others. A writer need not wait for the last part.
        """
        with self._reading() as snapshot:
            n_codes = snapshot.n_codes

        def read() -> Iterator[Part]:
            for begin in range(0, n_codes, n_rows):
                with self._lock, self._catalogue.transaction():
                    part = read_part(snapshot, self._catalogue, columns, begin, min(begin + n_rows, n_codes))
                yield part

        return read()

    def column_kind(self, column: str) -> type[Value]:
        """int, float or str: what can hold all values of one of `columns`."""
        return self._catalogue.kind_of(column)

    def encode_queries(self, source: Source, progress: Callable[[int, int], None] | None = None) -> Queries:
        """Encodes a source's images as queries, with the archive's weights, to score its answers.

        Raises ArchiveError when patients, studies or hidden names are here and in the archive, and the key is missing.
        """
        from .intake import encode_queries

        _check_source(source)
        # In an archive without pseudonyms a key of the moment still tells which queries are of one patient.
        key = PatientKey.passing()
        if "key_fingerprint" in self._catalogue.properties() and _needs_key(source):
            key = self.patient_key()
        return encode_queries(self.encoder, source, key, progress)

    def search(
        self,
        query: ImageLike | Codes,
        k: int = 10,
        where: str | None = None,
        patient: str | None = None,
        exclude_same: Sequence[str] = ("patient",),
        record: Mapping[str, Value] | None = None,
        kind: str | None = None,
        rerank: str | None = None,
        depth: int = DEFAULT_DEPTH,
        *,
        parameters: Parameters = (),
        one_per: str | None = None,
        user: str | None = None,
    ) -> list[Hit]:
        """The k nearest cases, or all if there are fewer, ordered by (distance, id).

        query: an image (path or pixels), encoded with the archive's weights, or one code. where: an SQL expression over
        `columns` that cases must meet, such as "label = 'glaucoma' AND age < ?"; ready-made codes, without a record,
        meet none. parameters: the values of its ? in order, or of its :names by name. exclude_same: columns whose value
        must differ from the query's; a query's values come from `patient` (as it stands in the sources, not the
        pseudonym; None: the one that a DICOM file names) and `record`, and a column the query has no value for excludes
        nothing. kind: of index, see `open_index`; None: the one the archive keeps, or else a scan. Another is built for
        the first search. rerank="asymmetric": orders the nearest max(k, depth) cases anew by the image's logits, see
        `FlatIndex.search`, and returns the first k with their scores; a code has no logits. one_per: a column, such as
        "patient" or "study", of each of whose values only the nearest case counts, before any re-ranking; cases without
        a value count each for itself. user: who asks, for the query log; where that is on (`set_query_log`), there is
        no answer without its line.
        Raises ImageError when the image cannot be used, ModelMismatch for a code of another model, ValueError for a
        `where` or column that does not fit, an unknown `rerank` or one of a code, TypeError for parameters of another
        type, ArchiveError when the key is needed and missing, or the query log cannot be written.
        """
        if isinstance(query, Codes):
            _refuse_reranking(rerank)
            codes, logits = query, None
        else:
            if patient is None and isinstance(query, str | Path):
                patient = patient_of(query)
            logits = self.encoder.logits([query])
            codes = Codes.from_logits(logits, self.encoder.model_id)
        if codes.n_codes != 1:
            raise ValueError(f"one query at a time, got {codes.n_codes} codes")
        values: dict[str, Value | None] = {record_name(name): value for name, value in (record or {}).items()}
        if patient is not None and "patient" in exclude_same:
            values["patient"] = self._known_pseudonym(patient)
        excluded = {name: values.get(name) for name in exclude_same}
        wanted = None if rerank is None else logits
        question = Question(codes, k, where, parameters, excluded, one_per, kind, wanted, rerank, depth)
        self._open_index(kind)
        with self._reading() as snapshot:
            hits = answer(snapshot, self._catalogue, question)
        return self._logged(snapshot, question, hits, user)

    def search_case(
        self,
        id: int,
        k: int = 10,
        where: str | None = None,
        exclude_same: Sequence[str] = ("patient",),
        kind: str | None = None,
        rerank: str | None = None,
        *,
        parameters: Parameters = (),
        one_per: str | None = None,
        user: str | None = None,
    ) -> list[Hit]:
        """The k cases nearest to one of the archive, itself left out. Needs no image and no torch.

        Parameters and errors as for `search`; KeyError when there is no such case. Only its code is stored, so any
        `rerank` is a ValueError.
        """
        _refuse_reranking(rerank)
        id = _checked_id(id)
        self._open_index(kind)
        with self._reading() as snapshot:
            case = self._case(snapshot, id)
            codes = snapshot.code(id)
            excluded = {"id": id, **{name: case.value(name) for name in exclude_same}}
            question = Question(codes, k, where, parameters, excluded, one_per, kind)
            hits = answer(snapshot, self._catalogue, question)
        return self._logged(snapshot, question, hits, user)

    def add(
        self,
        source: Source,
        progress: Callable[[int, int], None] | None = None,
        *,
        recheck: bool = False,
        update_records: bool = False,
    ) -> AddReport:
        """Adds the source's images as cases, in its order, and says what became of each.

        An image whose source and content are there already is passed over, so an interrupted run goes on where it
        stopped and ends with the same cases and codes. A file that has another content than when it was added from the
        same root becomes a new case that retires the former one in the same commit. An image that cannot be used
        becomes a line of the report, and of `unreadable`, and never a code. Commits every few thousand cases or 20
        seconds; Ctrl-C keeps what was encoded. progress: called with (done, all) after each batch.
        recheck: reads files, too, whose size and times are as they were. update_records: where an image that is there
        now comes with another label, patient, study, split or record, that is stored in the place of what was; what the
        source does not say stays, but a record is stored as a whole.
        Sources that hide their names are stored as pseudonyms; the report has them as they are.
        Raises SourceError when records cannot be stored beside those there are, or names of DICOM files come hidden and
        are there in clear, or the other way round; ArchiveLocked when another process is writing, ModelMismatch when
        this machine encodes differently, ArchiveError when patients are known and the key is not this archive's,
        OSError where writing is impossible.
        """
        from .intake import add_images, check_names, check_records
        from .recognition import forgotten

        _check_source(source)
        self.encoder.check_probes()
        with writing(self.path) as catalogue:
            catalogue.upgrade()
            check_records(source, catalogue.columns())
            check_names(source, catalogue)
            hidden, key = self._under_key(source, catalogue)
            if key is None and forgotten(catalogue):
                key = self.patient_key()
            report = add_images(
                self.path / "segments", catalogue, self.encoder, hidden, key, progress, recheck, update_records
            )
            if index := self._renewed_index(catalogue):
                catalogue.keep_index(index)
            clear = {item.source: item.path or item.source for item in hidden.items}
            return replace(report, failed=tuple((clear.get(name, name), reason) for name, reason in report.failed))

    def add_codes(
        self,
        codes: Codes | Iterable[Codes],
        progress: Callable[[int, int], None] | None = None,
        n_codes: int | None = None,
        cases: Source | None = None,
    ) -> range:
        """Adds ready-made codes, all or none, and returns their ids.

        codes: one array or parts of it, in order; they may be mapped from disk, and parts may be made as they are asked
        for. Memory is needed for one part. n_codes: how many there will be in all; needed where `codes` is neither
        Codes nor a sequence. progress: called with (done, all) now and then. cases: what is known of each code, an item
        a code in the same order; no image is read. Without it they are cases of which nothing else is known. Either
        way nothing tells that a code is there already: added twice, it is there twice.
        Raises ModelMismatch for codes of other bits or another model, ValueError when n_codes or the number of cases is
        wrong, what `add` raises for cases that cannot be stored, ArchiveLocked, OSError where writing is impossible.
        Whatever is raised, Ctrl-C included, the archive is as it was.
        """
        parts, n_codes = sized(codes, n_codes)
        if cases is not None:
            _check_source(cases)
            if len(cases) != n_codes:
                raise ValueError(f"{n_codes:,} codes, but {len(cases):,} cases")
        with writing(self.path) as catalogue:
            new_cases: Iterable[NewCase] = ()
            if cases is not None:
                from .intake import check_names, check_records, new_case

                check_records(cases, catalogue.columns())
                check_names(cases, catalogue)
                cases, key = self._under_key(cases, catalogue)
                new_cases = (new_case(item, b"", key) for item in cases.items)
            first_id = catalogue.next_id()
            pieces = checked_parts(parts, n_codes, self._like, progress)
            if n_codes:
                folder = self.path / "segments"
                segment = write_segment(folder, pieces, n_codes, self.bits, first_id, has_cases=cases is not None)
                index = self._renewed_index(catalogue, map_segment(folder, segment, self._like))
                if cases is None:
                    catalogue.add_codes(segment, index)
                else:
                    catalogue.add(str(cases.root.resolve()), segment, new_cases, index)
            elif any(map(len, pieces)):
                raise ValueError("0 codes were announced, and some came")
        return range(first_id, first_id + n_codes)

    def build_index(self, kind: str = "auto", progress: Callable[[str], None] | None = None) -> Plan:
        """Keeps an index of all codes beside the segments, in the place of the one there was.

        Searches then look at fewer codes, with the same answers, and open it in milliseconds. Cases added later are
        scanned beside it until they are more than a sixteenth of it; the call that adds them then builds it anew, of
        the same kind. kind: "distinct", "mih", "auto" to let the codes decide, or "flat" to keep none. progress: told
        what is being done. Returns what was chosen and why. A RuntimeWarning tells when it could not be renewed.
        Raises ValueError for another kind, ArchiveLocked, OSError where writing is impossible. Whatever is raised,
        Ctrl-C included, an index is kept whole: the old one or the new one.
        """
        with writing(self.path) as catalogue:
            codes = Snapshot(self.path, catalogue, self._like, self._snapshot).codes
            index, plan = write_index(self.path, codes, kind, progress or (lambda _: None))
            catalogue.keep_index(index)
            remove_unlisted(self.path, index)
            return plan

    def _renewed_index(self, catalogue: Catalogue, added: Codes | None = None) -> KeptIndex | None:
        """An index to keep in the place of the one there is, where too many codes, `added` too, came since."""
        kept = catalogue.kept_index()
        if kept is None or not kept.is_usable:
            return None
        codes = Snapshot(self.path, catalogue, self._like, self._snapshot).codes + ([] if added is None else [added])
        n_codes = sum(map(len, codes))
        if n_codes - kept.n_rows <= MAX_ADDED_SHARE * kept.n_rows or n_codes > MAX_SORTED:
            return None
        try:
            index = write_index(self.path, codes, kept.kind, lambda _: None)[0]
        except OSError as error:
            message = (
                f"{self.path}: its index could not be renewed ({error}); more and more codes are scanned beside it"
            )
            warnings.warn(message, RuntimeWarning, stacklevel=3)
            return None
        return index and replace(index, reason=kept.reason)

    @property
    def index_plan(self) -> Plan:
        """Which kind of index is kept, and why."""
        with self._reading() as snapshot:
            kept = snapshot.kept_index
            return Plan("flat", "none is kept", {}) if kept is None else Plan(kept.kind, kept.reason, {})

    def find(
        self,
        ids: Iterable[int] | None = None,
        *,
        where: str | None = None,
        parameters: Parameters = (),
        patient: str | None = None,
    ) -> Ids:
        """int64, ascending: the cases that can be found among these ids, meet an expression, or are of a patient.

        where, parameters: as for `search`. patient: as it stands in the sources, not the pseudonym.
        Raises KeyError for an id that is not there, TypeError for what is no id or where not just one of the three is
        given, ValueError for a `where` that does not fit, ArchiveError when the key is needed and missing.
        """
        with self._reading() as snapshot:
            return self._chosen(snapshot, self._catalogue, ids, where, parameters, patient)

    def delete(
        self,
        ids: Iterable[int] | None = None,
        *,
        where: str | None = None,
        parameters: Parameters = (),
        patient: str | None = None,
    ) -> int:
        """Takes cases out of every search from now on, all or none. Their ids never return, nor do their images when
        they are added again by the same `Item.source`. Their codes and records stay in the files, marked as deleted,
        until `compact`.

        Which: as for `find`, with its errors. Returns how many. Raises ArchiveLocked, too.
        """
        with writing(self.path) as catalogue:
            snapshot = Snapshot(self.path, catalogue, self._like, self._snapshot)
            chosen = self._chosen(snapshot, catalogue, ids, where, parameters, patient)
            return catalogue.delete(chosen.tolist(), snapshot.alone(chosen).tolist()) if len(chosen) else 0

    def compact(self, progress: Callable[[str], None] | None = None) -> CompactReport:
        """Writes the archive's files anew without what was deleted or retired, of which no byte is left in any of them,
        and merges small segments. Ids stay as they are, and those of deleted cases never return.

        So that a deleted image does not come back when it is added again, a digest of it is kept, under the key of the
        pseudonyms, without which it says nothing. Searches go on meanwhile. Needs the space of the archive once more.
        progress: told what is being done.
        Raises ArchiveError when images were deleted and the key is missing, ArchiveLocked, CatalogueError or OSError
        where writing is impossible. Whatever is raised, Ctrl-C included, the archive is the old one or the new one, and
        the next call ends what was begun.
        """
        from .compaction import compact

        with writing(self.path) as catalogue:
            catalogue.upgrade()
            key = partial(self.patient_key, create=True)
            return compact(self.path, catalogue, self._like, key, progress or (lambda _: None))

    @property
    def unreadable(self) -> list[tuple[str, str, str]]:
        """(root, source, reason) of the images that could not be used when they were last looked at."""
        return self._catalogue.unreadable()

    def _chosen(
        self,
        snapshot: Snapshot,
        catalogue: Catalogue,
        ids: Iterable[int] | None,
        where: str | None,
        parameters: Parameters,
        patient: str | None,
    ) -> Ids:
        if sum(given is not None for given in (ids, where, patient)) != 1:
            raise TypeError("give ids, where or patient, and one of them only")
        if parameters and where is None:
            raise TypeError("parameters are those of where")
        if isinstance(ids, str | bytes):
            raise TypeError(f"expected ids, got {type(ids).__name__}")
        if ids is not None:
            wanted = np.array(sorted({_checked_id(id) for id in ids}), np.int64)
        elif where is not None:
            wanted = catalogue.ids_where(where, parameters)
        else:
            pseudonym = self._known_pseudonym(str(patient))
            wanted = np.zeros(0, np.int64) if pseudonym is None else catalogue.ids_of("patient", pseudonym)
        found = snapshot.found(wanted)
        if ids is not None and len(found) < len(wanted):
            raise KeyError(int(np.setdiff1d(wanted, found)[0]))
        return found

    def verify(self, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """Checks every byte against what was written. See `verifying.verify`, which needs no archive that opens."""
        from .verifying import verify

        return verify(self.path, self._key_path, progress)

    def repair(self, into: str | Path, progress: Callable[[int, int], None] | None = None) -> RepairReport:
        """Makes a new archive of all that is sound. See `repairing.repair`, which needs no archive that opens."""
        from .repairing import repair

        return repair(self.path, Path(into), self._key_path, progress)

    def patient_key(self, create: bool = False) -> PatientKey:
        """The key of this archive's pseudonyms. create: makes one if the archive has none yet.

        Raises ArchiveError when the key file is missing or is another archive's.
        """
        fingerprint = self._catalogue.properties().get("key_fingerprint")
        return PatientKey.of_archive(self._key_path, self.path, fingerprint, create)

    def _case(self, snapshot: Snapshot, id: int) -> Case:
        return self._catalogue.cases([id], snapshot.alone(np.array([id], np.int64)).tolist())[0]

    def places(self, images: str | Path | None = None) -> Places:
        """A function that says where a case's image lies: below `images`, or the folder it was added from."""
        from .places import Places

        return Places(self, images)

    def _under_key(self, source: Source, catalogue: Catalogue) -> tuple[Source, PatientKey | None]:
        """The source with pseudonyms for names that it hides, and the key that these, patients and studies need."""
        if not _needs_key(source):
            return source, None
        key = self.patient_key(create=True)
        if "key_fingerprint" not in catalogue.properties():
            catalogue.set_property("key_fingerprint", key.fingerprint)
        return source.under_key(key.source), key

    def set_query_log(self, is_on: bool, user: str | None = None) -> None:
        """From now on, or no more, every search by image, code or id leaves a line in the archive's query log, whatever
        process it comes from; see `query_log`. The change itself is a line of it. user: who changes it.

        Raises ArchiveLocked, ArchiveError where the key or the log cannot be used.
        """
        with writing(self.path) as catalogue:
            if is_on:
                key = self.patient_key(create=True)
                catalogue.set_property("key_fingerprint", key.fingerprint)
                QueryLog(self.path, key).start(user, is_first="query_log" not in catalogue.properties())
            elif "query_log" in catalogue.properties():
                self.query_log().append({"user": user, "event": "stopped"})
            catalogue.set_property("query_log", "on" if is_on else "off")

    @property
    def logs_queries(self) -> bool:
        """Whether every search leaves a line in the query log."""
        with self._reading() as snapshot:
            return snapshot.is_logged

    def query_log(self) -> QueryLog:
        """The query log. Raises ArchiveError when the key is needed and missing."""
        return QueryLog(self.path, self.patient_key())

    def check_query_log(self) -> LogReport | None:
        """Goes over the query log's chain; None where there never was one. Raises ArchiveError when the key or the
        log's head is missing, OSError when the log is.
        """
        state = self._catalogue.properties().get("query_log")
        if state is None and not (self.path / LOG).exists():
            return None
        return self.query_log().check_with(state)

    def audit(self) -> AuditReport:
        """What this archive stores, what of it is clear text, and whether anything is in it that is not known."""
        from .audit import audit

        with self._reading() as snapshot:
            return audit(snapshot, self._catalogue)

    def _logged(self, snapshot: Snapshot, question: Question, hits: list[Hit], user: str | None) -> list[Hit]:
        """The hits, once the query log, if it is on, has its line."""
        if snapshot.is_logged:
            self.query_log().note(snapshot.version, question, hits, user)
        return hits

    def _known_pseudonym(self, patient: str) -> str | None:
        """None in an archive without patients, where nobody can be the same."""
        if "key_fingerprint" not in self._catalogue.properties():
            return None
        return self.patient_key().pseudonym(patient)

    def _open_index(self, kind: str | None) -> None:
        """Builds an index that is not kept, if it is not there yet: before the catalogue is read, lest writers wait."""
        if kind is not None:
            with self._reading() as snapshot:
                kept = snapshot.kept_index
            if kept is None or kind not in ("auto", kept.kind):  # its files may be gone once the commit is
                snapshot.index(kind)

    @contextmanager
    def _reading(self) -> Iterator[Snapshot]:
        """The newest commit; the catalogue shows the same one until the block ends."""
        with self._lock, self._catalogue.transaction():
            if self._snapshot is None or self._snapshot.data_version != self._catalogue.data_version:
                self._snapshot = Snapshot(self.path, self._catalogue, self._like, self._snapshot)
            yield self._snapshot


def _checked_id(id: int) -> int:
    """The id as a plain int. Raises TypeError where it is no whole number, KeyError where there can be none such."""
    number = operator.index(id)
    if not 0 < number < 2**63:
        raise KeyError(number)
    return number


def _refuse_reranking(rerank: str | None) -> None:
    if rerank is not None:
        raise ValueError("re-ranking needs an image: a code has only bits and no logits, a stored case's too")


def _needs_key(source: Source) -> bool:
    return any(item.hides_name or (item.patient or item.study) is not None for item in source.items)


def _check_source(source: object) -> None:
    if not isinstance(source, Source):
        raise TypeError(f"expected a Source, got {type(source).__name__}; open_source makes one")
