"""Codes to FAISS's binary indexes and back, in memory and as files."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..codes import Codes
from ..errors import FaissFileError
from ..files import replacing
from ..types import Ids
from .base import check_type

if TYPE_CHECKING:
    import faiss

Packed = NDArray[np.uint8]  # [n_codes, ceil(bits / 8)], as Codes.to_bytes gives it


def import_faiss(extra: str = "faiss") -> Any:
    """The module faiss. Raises ModuleNotFoundError, saying what to install, where there is none."""
    try:
        import faiss
    except ModuleNotFoundError as error:
        message = f"FAISS's indexes and files need faiss: pip install 'athsearch[{extra}]'"
        raise ModuleNotFoundError(message, name="faiss") from error
    return faiss


def packed_for_faiss(codes: Codes) -> Packed:
    """uint8 [n_codes, ceil(bits / 8)], contiguous: FAISS wants whole bytes, and zero bits more change no distance."""
    return np.ascontiguousarray(codes.to_bytes())


def build(kind: str, codes: Codes, ids: Ids | None = None, **options: Any) -> faiss.IndexBinary:
    """FAISS's index of this kind over `codes`; see `Codes.to_faiss`. With ids: inside an IndexBinaryIDMap2."""
    if kind not in KINDS:
        raise ValueError(f"unknown FAISS kind {kind!r}; known: {', '.join(KINDS)}")
    faiss = import_faiss()
    index = KINDS[kind](faiss, codes.bits, codes.n_codes, **options)
    if ids is not None:
        index = faiss.IndexBinaryIDMap2(index)
    if not codes.n_codes:
        return index
    packed = packed_for_faiss(codes)
    index.train(packed)
    if ids is None:
        index.add(packed)
    else:
        index.add_with_ids(packed, ids)
    return index


def _flat(faiss: Any, bits: int, n_codes: int) -> Any:
    return faiss.IndexBinaryFlat(_whole_bytes(bits))


def _ivf(faiss: Any, bits: int, n_codes: int, nlist: int | None = None, nprobe: int | None = None) -> Any:
    if nlist is None:  # FAISS advises four times as many, which train four times as long, and 39 codes a list
        nlist = max(1, min(round(n_codes**0.5), n_codes // 39))
    nlist = _checked("nlist", nlist, 1, max(n_codes, 1))
    d = _whole_bytes(bits)
    index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(d), d, nlist)
    index.nprobe = _checked("nprobe", min(16, nlist) if nprobe is None else nprobe, 1, nlist)
    index.cp.min_points_per_centroid = 1  # it would print a warning
    return index


def _hnsw(faiss: Any, bits: int, n_codes: int, M: int = 32, efConstruction: int = 40, efSearch: int = 64) -> Any:
    index = faiss.IndexBinaryHNSW(_whole_bytes(bits), _checked("M", M, 2, 1024))
    index.hnsw.efConstruction = _checked("efConstruction", efConstruction, 1)
    index.hnsw.efSearch = _checked("efSearch", efSearch, 1)
    return index


def _hash(faiss: Any, bits: int, n_codes: int, b: int | None = None, nflip: int | None = None) -> Any:
    b = _hash_bits(b, bits, n_codes)
    index = faiss.IndexBinaryHash(_whole_bytes(bits), b)
    index.nflip = _checked("nflip", min(2, b) if nflip is None else nflip, 0, b)
    return index


def _multihash(
    faiss: Any, bits: int, n_codes: int, nhash: int | None = None, b: int | None = None, nflip: int = 1
) -> Any:
    b = _hash_bits(b, bits, n_codes)
    nhash = _checked("nhash", min(8, bits // b) if nhash is None else nhash, 1, bits // b)
    index = faiss.IndexBinaryMultiHash(_whole_bytes(bits), nhash, b)
    index.nflip = _checked("nflip", nflip, 0, b)
    return index


KINDS: dict[str, Callable[..., faiss.IndexBinary]] = {
    "flat": _flat,
    "ivf": _ivf,
    "hnsw": _hnsw,
    "hash": _hash,
    "multihash": _multihash,
}


def _whole_bytes(bits: int) -> int:
    return (bits + 7) // 8 * 8


def _hash_bits(b: int | None, bits: int, n_codes: int) -> int:
    """As many bits as tell the codes apart, if the codes are that long."""
    return _checked("b", min(bits, max(n_codes, 2).bit_length() - 1) if b is None else b, 1, min(bits, 62))


def _checked(name: str, value: int, lowest: int, highest: int = 2**31 - 1) -> int:
    value = operator.index(value)
    if not lowest <= value <= highest:
        raise ValueError(f"{name} must be from {lowest} to {highest} here, got {value}")
    return value


def write_faiss(
    path: str | os.PathLike[str], codes: Codes, ids: Ids | None = None, kind: str = "flat", **options: Any
) -> None:
    """Writes `codes` as a file that faiss.read_index_binary reads; it appears whole or not at all.

    ids: int64 [n_codes], any: stored in an IndexBinaryIDMap2, so that FAISS answers with them; None: row numbers.
    kind, options: as for `Codes.to_faiss`. FAISS's files know neither a model nor a length that is no multiple of 8.
    """
    check_type(codes)
    ids = None if ids is None else np.asarray(ids)
    if ids is not None and (ids.dtype != np.int64 or ids.shape != (codes.n_codes,)):
        raise TypeError(f"ids must be int64 [{codes.n_codes}], got {ids.dtype} {list(ids.shape)}")
    index = build(kind, codes, ids, **options)
    path = Path(path)
    faiss = import_faiss()
    with replacing(path) as temporary, temporary.open("wb") as file:  # ours, for FAISS's take no name that is not UTF-8
        try:
            faiss.write_index_binary(index, faiss.PyCallbackIOWriter(file.write))
        except RuntimeError as error:
            raise OSError(f"{path}: {_reason(error)}") from error


def read_faiss(
    source: faiss.IndexBinary | str | os.PathLike[str], bits: int | None = None, model_id: str | None = None
) -> tuple[Codes, Ids]:
    """The codes of a FAISS binary index, or of a file of one, and their ids, both in ascending order of the ids.

    bits: the codes' length, where FAISS's is larger because it counts whole bytes (a ValueError if it does not fit, or
    if bits past it are set); None: FAISS's. ids: int64 [n_codes], those of an IndexBinaryIDMap or of an IVF index,
    otherwise the rows. FAISS allows an id twice, our indexes do not.

    Read are flat, IVF, HNSW and multi-hash indexes, alone or inside an ID map; a hash index gives its codes to nobody
    (ValueError). A file that is damaged, or of another kind, raises FaissFileError; FAISS keeps no checksum, so a
    changed code cannot be noticed. While a file is read, what FAISS may allocate is limited, in the whole process, to
    the size of the file.
    """
    faiss = import_faiss()
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        with path.open("rb") as file, _limits_of(faiss, path, file):
            try:
                index = faiss.read_index_binary(faiss.PyCallbackIOReader(file.read))
                packed, ids = _stored(faiss, index)
            except (RuntimeError, ValueError) as error:
                raise FaissFileError(f"{path}: {_reason(error)}") from error
    elif isinstance(source, faiss.IndexBinary):
        index = source
        packed, ids = _stored(faiss, index)
    else:
        raise TypeError(f"expected a faiss.IndexBinary or the path of a file, got {type(source).__name__}")
    bits = index.d if bits is None else bits
    if _whole_bytes(bits) != index.d:
        raise ValueError(f"codes of {bits} bits take {_whole_bytes(bits)} bits in FAISS, these take {index.d}")
    packed, ids = _in_order(packed, ids)
    return Codes.from_bytes(packed, bits, model_id), ids


def _in_order(packed: Packed, ids: Ids) -> tuple[Packed, Ids]:
    if (ids[1:] >= ids[:-1]).all():
        return packed, ids
    order = np.argsort(ids, kind="stable")
    return packed[order], ids[order]


def _stored(faiss: Any, index: Any) -> tuple[Packed, Ids]:
    """Codes and ids as they lie in an index. Raises ValueError for a kind that shows no codes, or a contradiction."""
    index = faiss.downcast_IndexBinary(index)
    n_codes, code_bytes = index.ntotal, index.code_size
    if isinstance(index, faiss.IndexBinaryIDMap):
        packed, places = _in_order(*_stored(faiss, index.index))
        ids = faiss.vector_to_array(index.id_map)
        if not np.array_equal(places, np.arange(len(ids))):
            raise ValueError(f"an ID map of {len(ids)} ids does not fit its {len(packed)} codes")
    elif isinstance(index, faiss.IndexBinaryHNSW | faiss.IndexBinaryMultiHash):
        packed, ids = _stored(faiss, index.storage)
    elif isinstance(index, faiss.IndexBinaryIVF):
        packed, ids = _listed(faiss, index.invlists)
    elif isinstance(index, faiss.IndexBinaryFlat):
        packed, ids = faiss.vector_to_array(index.xb), np.arange(n_codes)
    else:
        raise ValueError(f"FAISS does not give back the codes of a {type(index).__name__}")
    if index.d != 8 * code_bytes or packed.size != n_codes * code_bytes or len(ids) != n_codes:
        raise ValueError(f"{packed.size} bytes of codes are not {n_codes} codes of {index.d} bits")
    return packed.reshape(n_codes, code_bytes), ids


def _listed(faiss: Any, lists: Any) -> tuple[Packed, Ids]:
    if lists is None:
        raise ValueError("an IVF index without its inverted lists holds no codes")
    sizes = [lists.list_size(number) for number in range(lists.nlist)]
    packed, ids = np.empty((sum(sizes), lists.code_size), np.uint8), np.empty(sum(sizes), np.int64)
    end = 0
    for number, size in enumerate(sizes):
        if size:
            begin, end = end, end + size
            packed[begin:end] = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size).reshape(size, -1)
            ids[begin:end] = faiss.rev_swig_ptr(lists.get_ids(number), size)
    return packed, ids


_limits = Lock()


@contextmanager
def _limits_of(faiss: Any, path: Path, file: BinaryIO) -> Iterator[None]:
    """No vector longer than the file: a length that damage made huge would be allocated, and the process killed."""
    if file.read(2) != b"IB":
        raise FaissFileError(f"{path}: not a file of a FAISS binary index")
    file.seek(0)
    n_bytes = os.fstat(file.fileno()).st_size
    with _limits:
        before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
        faiss.set_deserialization_vector_byte_limit(n_bytes)
        faiss.set_deserialization_loop_limit(n_bytes)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before[0])
            faiss.set_deserialization_loop_limit(before[1])


def _reason(error: Exception) -> str:
    """FAISS's message without the place in its source."""
    return str(error).strip().rpartition("\n")[2].rpartition("failed: ")[2]
