"""An archive: a folder of cases that can be searched, and that grows.

    catalogue.sqlite      which segments and cases there are; what it does not list does not exist
    segments/*.npy        codes, one row a case
    weights.safetensors   the copy of the weights that made them, and that queries are encoded with
    writer.lock           held by the one process that is writing

Patients are stored as pseudonyms under a key that lies outside the folder, by default beside it as FOLDER.key.
"""

from __future__ import annotations

import fcntl
import operator
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..codes import Codes, concatenate
from ..data import Item, Source
from ..errors import ArchiveError, ArchiveLocked, CatalogueError, ModelMismatch
from ..files import sync_folder
from ..index import FlatIndex
from ..types import Bools, Ids
from .catalogue import COLUMNS, Case, Catalogue, Value, record_name
from .pseudonym import PatientKey
from .segment import map_segment

if TYPE_CHECKING:  # a search by id needs neither the encoder nor what reads images, and starts faster without
    from ..encoder import Encoder, ImageLike
    from .intake import AddReport


@dataclass(frozen=True)
class Hit:
    """A case near a query, and how many bits of their codes differ."""

    case: Case
    distance: int


@dataclass(frozen=True)
class Database:
    """Everything that can be found in an archive, for evaluation. Row r is case ids[r].

    patients: pseudonyms, None where the patient is not known. contents: SHA-256 of the image, hexadecimal.
    """

    codes: Codes
    ids: Ids
    labels: tuple[str | None, ...]
    patients: tuple[str | None, ...]
    contents: tuple[str, ...]


@dataclass(frozen=True)
class Queries:
    """Images encoded to ask an archive. Row r is items[r]; patients and contents as in `Database`.

    failed: (source, reason) of images that could not be used.
    """

    codes: Codes
    items: tuple[Item, ...]
    patients: tuple[str | None, ...]
    contents: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Snapshot:
    """One commit's codes. is_alive: bool [n_codes], False for deleted cases."""

    data_version: int
    codes: tuple[Codes, ...]
    index: FlatIndex
    is_alive: Bools


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
            self.bits, self.model_id = int(properties["bits"]), properties["model_id"]
            self._no_codes()
        except (KeyError, ValueError) as error:
            self._catalogue.close()
            raise CatalogueError(f"{path}: damaged: its catalogue does not say which model made its codes") from error
        self._encoder: Encoder | None = None
        self._snapshot: _Snapshot | None = None
        self._lock = threading.RLock()

    @classmethod
    def create(cls, path: str | Path, encoder: Encoder, key_path: str | Path | None = None) -> Archive:
        """A new, empty archive that holds a copy of the encoder's weights. Appears whole or not at all.

        key_path: the file of the key for patients' pseudonyms; made with the first patient, if it is not there.
        Raises ArchiveError when `path` exists.
        """
        path = Path(os.path.abspath(path))
        if path.exists():
            raise ArchiveError(f"{path}: exists already")
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            (unfinished / "segments").mkdir(parents=True)
            (unfinished / "writer.lock").touch()
            encoder.save(unfinished / "weights.safetensors")
            properties = {"bits": str(encoder.bits), "model_id": encoder.model_id}
            Catalogue.create(unfinished / "catalogue.sqlite", properties)
            sync_folder(unfinished)
            os.rename(unfinished, path)
            sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return cls.open(path, key_path, encoder.device)

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
        key = Path(os.path.abspath(key_path)) if key_path else path.with_name(f"{path.name}.key")
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
        """The archive's own encoder, loaded when first asked for. Raises CheckpointError or ModelMismatch."""
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
            return int(np.count_nonzero(snapshot.is_alive))

    @property
    def n_deleted(self) -> int:
        """How many cases were deleted."""
        with self._reading() as snapshot:
            return int(np.count_nonzero(~snapshot.is_alive))

    @property
    def n_segments(self) -> int:
        """How many files the codes lie in."""
        with self._reading() as snapshot:
            return len(snapshot.codes)

    @property
    def columns(self) -> list[str]:
        """What `where` and `exclude_same` may name."""
        return self._catalogue.columns()

    def counts(self) -> dict[str | None, int]:
        """How many cases of each label can be found."""
        return self._catalogue.counts()

    def case(self, id: int) -> Case:
        """One case. Raises KeyError when there is none of that id, or it was deleted."""
        return self._catalogue.cases([_checked_id(id)])[0]

    def database(self) -> Database:
        """Codes, labels and patients of all cases that can be found, in the order of their ids."""
        with self._reading() as snapshot:
            ids = snapshot.index.ids[snapshot.is_alive]
            codes = concatenate(snapshot.codes)[snapshot.is_alive] if snapshot.codes else self._no_codes()
            rows = self._catalogue.evaluation_rows()
        if len(rows) != len(ids):
            raise CatalogueError(f"{self.path}: damaged: {len(ids)} codes, but {len(rows)} cases")
        labels, patients, contents = zip(*rows, strict=True) if rows else ((), (), ())
        return Database(codes, ids, labels, patients, contents)

    def encode_queries(self, source: Source, progress: Callable[[int, int], None] | None = None) -> Queries:
        """Encodes a source's images as queries, with the archive's weights, to score its answers.

        Raises ArchiveError when patients are known here and in the archive, and the key is missing.
        """
        from .intake import encoded_batches

        _check_source(source)
        # In an archive without patients a key of the moment still tells which queries are of one patient.
        key = PatientKey.passing()
        if "key_fingerprint" in self._catalogue.properties() and any(item.patient for item in source.items):
            key = self.patient_key()
        codes, items, patients, contents, failed = [self._no_codes()], [], [], [], []
        n_done = 0
        for batch, batch_codes in encoded_batches(self.encoder, source):
            codes.append(batch_codes)
            for image in batch:
                if image.error:
                    failed.append((image.item.source, image.error.reason))
                    continue
                patient = image.item.patient
                items.append(image.item)
                patients.append(None if patient is None else key.pseudonym(patient))
                contents.append(image.content.hex())
            n_done += len(batch)
            if progress:
                progress(n_done, len(source))
        return Queries(concatenate(codes), tuple(items), tuple(patients), tuple(contents), tuple(failed))

    def search(
        self,
        query: ImageLike | Codes,
        k: int = 10,
        where: str | None = None,
        patient: str | None = None,
        exclude_same: Sequence[str] = ("patient",),
        record: Mapping[str, Value] | None = None,
    ) -> list[Hit]:
        """The k nearest cases, or all if there are fewer, ordered by (distance, id).

        query: an image (path or pixels), encoded with the archive's weights, or one code. where: an SQL expression over
        `columns` that cases must meet, such as "label = 'glaucoma' AND age < 60". exclude_same: columns whose value
        must differ from the query's; a query's values come from `patient` (as it stands in the sources, not the
        pseudonym) and `record`, and a column the query has no value for excludes nothing.
        Raises ImageError when the image cannot be used, ModelMismatch for a code of another model, ValueError for a
        `where` or column that does not fit, ArchiveError when the key is needed and missing.
        """
        codes = query if isinstance(query, Codes) else self.encoder.encode([query])
        if codes.n_codes != 1:
            raise ValueError(f"one query at a time, got {codes.n_codes} codes")
        values: dict[str, Value | None] = {record_name(name): value for name, value in (record or {}).items()}
        if patient is not None and "patient" in exclude_same:
            values["patient"] = self._known_pseudonym(patient)
        with self._reading() as snapshot:
            return self._search(snapshot, codes, k, where, {name: values.get(name) for name in exclude_same})

    def search_case(
        self, id: int, k: int = 10, where: str | None = None, exclude_same: Sequence[str] = ("patient",)
    ) -> list[Hit]:
        """The k cases nearest to one of the archive, itself left out. Needs no image and no torch.

        Parameters and errors as for `search`; KeyError when there is no such case.
        """
        id = _checked_id(id)
        with self._reading() as snapshot:
            case = self.case(id)
            row = int(np.searchsorted(snapshot.index.ids, id))
            first_row = 0
            for segment in snapshot.codes:
                if row < first_row + segment.n_codes:
                    codes = segment[row - first_row : row - first_row + 1]
                    break
                first_row += segment.n_codes
            return self._search(snapshot, codes, k, where, {"id": id, **{n: case.value(n) for n in exclude_same}})

    def add(self, source: Source, progress: Callable[[int, int], None] | None = None) -> AddReport:
        """Adds the source's images as cases, in its order, and says what became of each.

        An image whose source and content are there already is passed over, so an interrupted run goes on where it
        stopped and ends with the same cases and codes. An image that cannot be used becomes a line of the report and
        never a code. Commits every few thousand cases or 20 seconds; Ctrl-C keeps what was encoded. progress: called
        with (done, all) after each batch.
        Raises SourceError when records cannot be stored beside those there are, ArchiveLocked when another process is
        writing, ModelMismatch when this machine encodes differently,
        ArchiveError when patients are known and the key is not this archive's, OSError where writing is impossible.
        """
        from .intake import add_images, check_records

        _check_source(source)
        self.encoder.check_probes()
        with self._writing() as catalogue:
            check_records(source, catalogue.columns()[len(COLUMNS) :])
            key = None
            if any(item.patient is not None for item in source.items):
                key = self.patient_key(create=True)
                catalogue.set_property("key_fingerprint", key.fingerprint)
            return add_images(self.path / "segments", catalogue, self.encoder, source, key, progress)

    def delete(self, ids: Iterable[int]) -> int:
        """Takes cases out of every search from now on, all or none. Their ids never return, nor do their images when
        they are added again. Their codes and records stay in the files, marked as deleted.

        Returns how many. Raises KeyError for an id that is not there, TypeError for what is no id, ArchiveLocked.
        """
        if isinstance(ids, str | bytes):
            raise TypeError(f"expected ids, got {type(ids).__name__}")
        wanted = [_checked_id(id) for id in ids]
        with self._writing() as catalogue:
            return catalogue.delete(wanted)

    def patient_key(self, create: bool = False) -> PatientKey:
        """The key of this archive's pseudonyms. create: makes one if the archive has none yet.

        Raises ArchiveError when the key file is missing or is another archive's.
        """
        fingerprint = self._catalogue.properties().get("key_fingerprint")
        if fingerprint is None and create and not self._key_path.exists():
            return PatientKey.create(self._key_path)
        key = PatientKey.read(self._key_path)
        if fingerprint not in (None, key.fingerprint):
            raise ArchiveError(
                f"{self._key_path}: the key of another archive; {self.path} needs the one it was made with"
            )
        return key

    def _known_pseudonym(self, patient: str) -> str | None:
        """None in an archive without patients, where nobody can be the same."""
        if "key_fingerprint" not in self._catalogue.properties():
            return None
        return self.patient_key().pseudonym(patient)

    def _search(
        self, snapshot: _Snapshot, codes: Codes, k: int, where: str | None, exclude: Mapping[str, Value | None]
    ) -> list[Hit]:
        allowed, ids = snapshot.is_alive.copy(), snapshot.index.ids
        if where is not None:
            allowed &= np.isin(ids, self._catalogue.ids_where(where), assume_unique=True)
        for column, value in exclude.items():
            if column not in self._catalogue.columns():
                raise ValueError(f"no column {column!r}; columns: {', '.join(self._catalogue.columns())}")
            if value is not None:
                allowed &= ~np.isin(ids, self._catalogue.ids_of(column, value), assume_unique=True)
        found = snapshot.index.search(codes, k, mask=None if allowed.all() else allowed)[0]
        try:
            cases = self._catalogue.cases([neighbour.id for neighbour in found])
        except KeyError as error:
            raise CatalogueError(f"{self.path}: damaged: there is a code of case {error}, but no such case") from error
        return [Hit(case, neighbour.distance) for case, neighbour in zip(cases, found, strict=True)]

    @contextmanager
    def _reading(self) -> Iterator[_Snapshot]:
        """The newest commit; the catalogue shows the same one until the block ends."""
        with self._lock, self._catalogue.transaction():
            data_version = self._catalogue.data_version
            if self._snapshot is None or self._snapshot.data_version != data_version:
                self._snapshot = self._load_snapshot(data_version)
            yield self._snapshot

    def _load_snapshot(self, data_version: int) -> _Snapshot:
        segments = self._catalogue.segments()
        mapped = tuple(map_segment(self.path / "segments", part, self.bits, self.model_id) for part in segments)
        ranges = [np.arange(part.first_id, part.first_id + part.n_codes, dtype=np.int64) for part in segments]
        ids = np.concatenate([np.zeros(0, np.int64), *ranges])
        is_alive = ~np.isin(ids, self._catalogue.deleted_ids(), assume_unique=True)
        return _Snapshot(data_version, mapped, FlatIndex(mapped or self._no_codes(), ids), is_alive)

    def _no_codes(self) -> Codes:
        return Codes.from_bits(np.zeros((0, self.bits), np.bool_), self.model_id)

    @contextmanager
    def _writing(self) -> Iterator[Catalogue]:
        # The system drops the lock when its process ends, however that happens: a lock is never stale.
        with (self.path / "writer.lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = lock.read().strip() or "unknown"
                raise ArchiveLocked(
                    f"{self.path}: another process is writing to it (process {holder}); try again when it is done"
                ) from error
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            catalogue = Catalogue(self.path / "catalogue.sqlite", writable=True)
            try:
                yield catalogue
            finally:
                catalogue.close()


def _checked_id(id: int) -> int:
    """The id as a plain int. Raises TypeError where it is no whole number, KeyError where there can be none such."""
    number = operator.index(id)
    if not 0 < number < 2**63:
        raise KeyError(number)
    return number


def _check_source(source: object) -> None:
    if not isinstance(source, Source):
        raise TypeError(f"expected a Source, got {type(source).__name__}; open_source makes one")
