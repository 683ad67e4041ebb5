"""The demonstration's report: one HTML file that needs no other file and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from ..evaluation import Evaluation, Scores
from ..files import replacing

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
.lead { font-size: 1.1rem; } .note { color: #666; font-size: .9rem; }
img { max-width: 100%; border: 1px solid #ddd; border-radius: 6px; margin: .4rem 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0; }
th, td { padding: .25rem .9rem; border-bottom: 1px solid #e5e5e5; }
td { text-align: right; font-variant-numeric: tabular-nums; } td:first-child, th:first-child { text-align: left; }
tr.main td { font-weight: 600; background: #f2f7f2; } tr.floor td { color: #777; }
pre { background: #f5f5f5; padding: .8rem 1rem; border-radius: 6px; overflow-x: auto; }
"""


@dataclass(frozen=True)
class Report:
    """What the report shows.

    subject: what the images are. sheets: contact sheets by caption. curves: PNG of the training curves, or None.
    timings: seconds by step. facts: further figures by name. commands: how to go on. failed: (source, reason) of images
    that could not be indexed or asked with; the page itself has their number alone, among the facts.
    """

    subject: str
    sheets: Mapping[str, Image.Image]
    curves: Path | None
    evaluation: Evaluation
    timings: Mapping[str, float]
    facts: Mapping[str, str]
    commands: Sequence[str]
    failed: Sequence[tuple[str, str]]


def write_report(path: Path, report: Report) -> None:
    """Writes the report, whole or not at all."""
    scores = report.evaluation
    k = scores.k
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>athsearch: the demonstration</title><style>{_STYLE}</style>",
        "<h1>athsearch</h1><p class=note>case-based medical image retrieval: "
        "given this image, show me the most similar past cases</p>",
        f"<p class=lead>{escape(report.subject)}. Of the {k} nearest cases, "
        f"<b>{scores.macro.precision:.0%}</b> have the query's class (mean over classes); a random order would give "
        f"{scores.chance.precision:.0%}.</p>",
        "<h2>What came back</h2><p class=note>Left: the query. Right: the nearest cases by Hamming distance; "
        "below each image, which places made its code (yellow). Green labels are the query's class.</p>",
        *(f"<h3>{escape(caption)}</h3>{_image(_png(sheet), caption)}" for caption, sheet in report.sheets.items()),
        "<h2>How well</h2>",
        _scores_table(scores),
        f"<p class=note>P@{k}: share of right cases among the first {k}. AP@{k}: average precision, divided by "
        f"min({k}, cases of the class). MRR: mean of 1 / rank of the first right case. Means over all orders of "
        "equally distant cases. The grey rows say what knowing nothing scores.</p>",
        "<h2>How it was learned</h2>",
        _image(report.curves.read_bytes(), "training curves") if report.curves else "",
        _plain_table({**report.facts, **{name: _duration(seconds) for name, seconds in report.timings.items()}}),
        f"<h2>With your own images</h2><pre>{escape(chr(10).join(report.commands))}</pre>",
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def _scores_table(scores: Evaluation) -> str:
    k = scores.k
    rows = [
        _row("macro (mean over classes)", scores.macro, scores.n_queries, "main"),
        _row("micro (mean over queries)", scores.micro, scores.n_queries, ""),
        _row("chance, macro", scores.chance, None, "floor"),
        _row("majority, macro", scores.majority, None, "floor"),
        *(_row(name, values, values.n_queries, "") for name, values in scores.per_class.items()),
    ]
    return f"<table><tr><th><th>P@{k}<th>AP@{k}<th>MRR<th>queries</tr>{''.join(rows)}</table>"


def _row(name: str, scores: Scores, n_queries: int | None, kind: str) -> str:
    values = (scores.precision, scores.average_precision, scores.reciprocal_rank)
    cells = "".join(f"<td>{value:.3f}" for value in values)
    return f"<tr class='{kind}'><td>{escape(name)}{cells}<td>{'' if n_queries is None else f'{n_queries:,}'}</tr>"


def _plain_table(values: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><td>{escape(name)}<td>{escape(value)}</tr>" for name, value in values.items())
    return f"<table>{rows}</table>"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _image(png: bytes, caption: str) -> str:
    return f"<img alt='{escape(caption, quote=True)}' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
