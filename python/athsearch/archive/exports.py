"""Cases on their way out of an archive, to be used elsewhere: codes, ids, and what is asked for of the records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..codes import concatenate
from ..errors import ArchiveError
from ..files import replacing
from ..index import write_faiss
from .segment import npy_header

if TYPE_CHECKING:
    from .archive import Archive

Progress = Callable[[int, int], None]
SAFE_COLUMNS = ("label", "split")  # what goes out unless other columns are asked for by name: nothing of a person


def export(
    archive: Archive,
    path: Path,
    kind: str,
    columns: Sequence[str] | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> tuple[list[Path], int]:
    """Writes all cases that can be found now, ids ascending, in one of EXPORTS. Returns the files, and how many cases.

    columns: of `Archive.columns`, for kinds that hold records; None: label and split. Memory is needed for some 100,000
    cases at a time. A file appears whole or not at all. progress: called with (done, all) now and then.
    Raises ArchiveError when a file is there and is not to be replaced, ValueError for an unknown kind or column.
    """
    if kind not in EXPORTS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(EXPORTS)}")
    return EXPORTS[kind](archive, path, columns, replace, progress or (lambda n_done, n_all: None))


def _export_npy(
    archive: Archive, path: Path, columns: Sequence[str] | None, replace: bool, progress: Progress
) -> tuple[list[Path], int]:
    """uint64 [n, n_words] in `path`, and beside it int64 [n] in NAME.ids.npy: the ids."""
    if columns:
        raise ValueError("npy files hold codes and ids; columns go with parquet")
    ids_path = path.with_suffix(".ids.npy")
    _check_places([path, ids_path], replace)
    n_done, n_all, n_words = 0, archive.n_cases, archive.n_words
    # The codes' file is the last to be renamed: where it is, its ids are.
    with (
        replacing(path) as codes_temporary,
        replacing(ids_path) as ids_temporary,
        codes_temporary.open("wb") as codes_file,
        ids_temporary.open("wb") as ids_file,
    ):
        codes_file.write(npy_header("<u8", (0, n_words)))
        ids_file.write(npy_header("<i8", (0,)))
        for part in archive.parts():
            codes_file.write(part.codes.words.astype("<u8", copy=False).data)
            ids_file.write(part.ids.astype("<i8", copy=False).data)
            n_done += len(part.ids)
            progress(n_done, n_all)
        for file in (codes_file, ids_file):  # now that it is known how many there are
            file.seek(0)
        codes_file.write(npy_header("<u8", (n_done, n_words)))
        ids_file.write(npy_header("<i8", (n_done,)))
    return [path, ids_path], n_done


def _export_parquet(
    archive: Archive, path: Path, columns: Sequence[str] | None, replace: bool, progress: Progress
) -> tuple[list[Path], int]:
    """A row a case: id, code (fixed-size binary, bit 0 lowest in the first byte), and the columns."""
    import pyarrow
    from pyarrow import parquet

    _check_places([path], replace)
    columns = [name for name in (SAFE_COLUMNS if columns is None else columns) if name != "id"]
    n_done, n_all = 0, archive.n_cases
    parts = archive.parts(columns)
    kinds = {name: archive.column_kind(name) for name in columns}
    arrow_types = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    code_type = pyarrow.binary((archive.bits + 7) // 8)
    fields = [("record_code" if name == "code" else name, arrow_types[kind]) for name, kind in kinds.items()]
    schema = pyarrow.schema(
        [("id", pyarrow.int64()), ("code", code_type), *fields],
        {"athsearch.bits": str(archive.bits), "athsearch.model_id": archive.model_id or ""},
    )
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for part in parts:
            packed = np.ascontiguousarray(part.codes.to_bytes())
            buffers = [None, pyarrow.py_buffer(packed)]
            arrays = [pyarrow.array(part.ids), pyarrow.Array.from_buffers(code_type, len(part.ids), buffers)]
            for name, kind in kinds.items():
                values = [None if value is None else kind(value) for value in part.columns[name]]
                arrays.append(pyarrow.array(values, arrow_types[kind]))
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            n_done += len(part.ids)
            progress(n_done, n_all)
    return [path], n_done


def _export_faiss(
    archive: Archive, path: Path, columns: Sequence[str] | None, replace: bool, progress: Progress
) -> tuple[list[Path], int]:
    """An IndexBinaryFlat in an IndexBinaryIDMap2, so that FAISS answers with our ids. Takes memory for all codes."""
    if columns:
        raise ValueError("FAISS files hold codes and ids; columns go with parquet")
    _check_places([path], replace)
    database_ids, parts, n_all = [], [], archive.n_cases
    for part in archive.parts():
        database_ids.append(part.ids)
        parts.append(part.codes)
        progress(sum(map(len, parts)), n_all)
    if not parts:
        raise ArchiveError(f"{archive.path}: it holds no code to export")
    codes = concatenate(parts)
    write_faiss(path, codes, np.concatenate(database_ids))
    return [path], len(codes)


# Kind -> what writes it.
EXPORTS: dict[str, Callable[[Archive, Path, Sequence[str] | None, bool, Progress], tuple[list[Path], int]]] = {
    "npy": _export_npy,
    "faiss": _export_faiss,
    "parquet": _export_parquet,
}


def _check_places(paths: Sequence[Path], replace: bool) -> None:
    for path in paths:
        if path.exists() and not replace:
            raise ArchiveError(f"{path}: exists already; --force replaces it")
