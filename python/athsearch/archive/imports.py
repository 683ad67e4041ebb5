"""Ready-made codes on their way into an archive: no images, no cases, only codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from ..codes import Codes, check_same_model

PART_BYTES = 1 << 24  # written at a time


def sized(codes: Codes | Iterable[Codes], n_codes: int | None) -> tuple[Iterable[Codes], int]:
    """The parts of codes, and how many codes they are together. Raises TypeError where that is not known."""
    if isinstance(codes, Codes):
        codes = [codes]
    if n_codes is None and isinstance(codes, Sequence):
        n_codes = sum(checked_type(part).n_codes for part in codes)
    if isinstance(codes, np.ndarray) or not isinstance(codes, Iterable):
        checked_type(codes)
    if n_codes is None:
        raise TypeError(f"n_codes is needed with {type(codes).__name__}: how many codes there will be in all")
    return codes, n_codes


def checked_type(codes: object) -> Codes:
    """The same; TypeError for what is no Codes."""
    if not isinstance(codes, Codes):
        raise TypeError(f"expected Codes, got {type(codes).__name__}; Codes.from_bytes and its siblings make them")
    return codes


def checked_parts(
    parts: Iterable[Codes], n_codes: int, like: Codes, progress: Callable[[int, int], None] | None
) -> Iterator[Codes]:
    """The same codes, PART_BYTES at a time, so that mapped ones need little memory; tells progress of each.

    Raises ModelMismatch for codes of other bits or another model than `like`, TypeError for what is no Codes.
    """
    n_rows, n_done = max(1, PART_BYTES // (8 * like.n_words)), 0
    for part in parts:
        check_same_model(like, checked_type(part))
        for begin in range(0, part.n_codes, n_rows):
            piece = part[begin : begin + n_rows]
            yield piece
            n_done += piece.n_codes
            if progress:
                progress(n_done, n_codes)
