"""What clear text looks like: guesses at names, dates and identifiers that should not be in an archive.

They are guesses. They miss a name that is written like a word, and take a class for a name that is written like one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .cases import Value

LEAST_ROWS = 20  # before it is told that each has a value of its own

_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d"
LOOKS: Mapping[str, re.Pattern[str]] = {
    "dates": re.compile(
        rf"(?<!\d)(?:{_YEAR}([-./_])(?:0\d|1[0-2])\1(?:[0-2]\d|3[01])|{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
        rf"|{_DAY}([./-]){_MONTH}\2{_YEAR})(?!\d)"
    ),
    "DICOM identifiers": re.compile(r"(?<![\d.])[0-2](?:\.\d+){6,}(?![\d.])"),
    "names of persons": re.compile(
        r"[^\W\d_]+\^[^\W\d_]+|\b[A-ZÀ-Þ][a-zß-ÿ]+, ?[A-ZÀ-Þ][a-zß-ÿ]+\b"
        r"|\b(?:Mr|Mrs|Ms|Dr|Herr|Frau)\.? ?[A-ZÀ-Þ][a-zß-ÿ]+"
    ),
    "patient numbers": re.compile(
        r"(?i:(?<![a-z])(?:mrn|pid|pat|patient|accession)[-_ #:.]*\d{3,})|(?<![\d.])[1-9]\d{6,11}(?![\d.])"
    ),
}
_NAMED = re.compile(
    r"name|patient|birth|geburt|(?<![a-z])(?:dob|mrn|ssn|pid|uid|mail|phone)|address|accession", re.IGNORECASE
)


def looks(column: str, values: Iterable[Value], n_values: int, may_be_one_each: bool) -> tuple[tuple[str, int], ...]:
    """(what, how many different values) for each look that some values of a column have.

    values: the different ones; n_values: how many rows have one. may_be_one_each: also tells where each row has a value
    of its own, which may be what names it.
    """
    texts = [str(value) for value in values if not isinstance(value, float)]
    found = [(look, sum(pattern.search(text) is not None for text in texts)) for look, pattern in LOOKS.items()]
    if _NAMED.search(column):
        found.append(("its name", len(texts)))
    if may_be_one_each and n_values >= LEAST_ROWS and len(texts) == n_values:
        found.append(("a value of its own in each row", len(texts)))
    return tuple((look, count) for look, count in found if count)
