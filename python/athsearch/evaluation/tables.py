"""An evaluation as text: for a terminal, and for LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

from .results import METRICS, Evaluation, Range, Scores, titles

MOST_COLUMNS, NAME_COLUMNS = 100, 32  # of the printed table, and of its classes' names
HEADLINE = ("precision", "average_precision", "reciprocal_rank")
IN_LATEX = ("precision", "average_precision", "ndcg", "reciprocal_rank")

# What LaTeX reads as commands, and what prints as such a character.
_ESCAPED = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # at the start of a row it would be an argument of what ended the one before, as would be a star
        "*": "{*}",
    }
)


def text_table(found: Evaluation) -> str:
    """See `Evaluation.table`."""
    return "\n".join([*_classes(found), *_all_scores(found), *_remarks(found)])


def _averages(found: Evaluation) -> dict[str, tuple[Scores, Range | None]]:
    """Rows that are no class, with their intervals."""
    intervals = found.intervals
    return {
        "macro": (found.macro, intervals.macro if intervals else None),
        "micro": (found.micro, intervals.micro if intervals else None),
        "chance, macro": (found.chance, None),
        "chance, micro": (found.chance_micro, None),
        "majority, macro": (found.majority, None),
        "majority, micro": (found.majority_micro, None),
    }


def _classes(found: Evaluation) -> list[str]:
    averages = _averages(found)
    with_intervals = found.intervals is not None
    precision, average_precision = f"P@{found.k}", f"AP@{found.k}"
    first, second = (max(9, len(title) + 2) for title in (precision, average_precision))
    interval_title = f"{'95 %':>15}" if with_intervals else ""
    head = f"{precision:>{first}}{interval_title}{average_precision:>{second}}{'MRR':>9}{'queries':>11}{'cases':>13}"
    width = max(0, min(NAME_COLUMNS, MOST_COLUMNS - len(head), max(map(len, [*averages, *found.per_class]))))
    head = f"{'':{width}}{head}"

    def line(name: str, scores: Scores, interval: Range | None, n_queries: int, n_cases: int) -> str:
        name = _printable(name)
        short = name if len(name) <= width else name[: width - 3] + "..."
        cells = f"{short:{width}}{scores.precision:>{first}.3f}"
        if with_intervals:
            cells += f"{_span(interval, 'precision'):>15}"
        cells += f"{scores.average_precision:>{second}.3f}"
        return f"{cells}{scores.reciprocal_rank:>9.3f}{n_queries:>11,}{n_cases:>13,}"

    rule = "-" * len(head)
    of_class = found.intervals.per_class if found.intervals else {}
    return [
        head,
        rule,
        *(line(name, *pair, found.n_queries, found.n_cases) for name, pair in averages.items()),
        rule,
        *(
            line(name, scores, of_class.get(name), scores.n_queries, scores.n_cases)
            for name, scores in found.per_class.items()
        ),
        rule,
    ]


def _all_scores(found: Evaluation) -> list[str]:
    names = titles(found.k)
    width = max(map(len, names.values()))
    head = (
        f"{'':{width}}{'macro':>8}{'95 %':>14}{'any tie order':>15}{'micro':>8}{'95 %':>14}{'chance':>8}{'majority':>9}"
    )
    lines = ["", head, "-" * len(head)]
    macro, micro = (span for _, span in list(_averages(found).values())[:2])
    for metric in METRICS:
        values = [getattr(scores, metric) for scores in (found.macro, found.micro, found.chance, found.majority)]
        lines.append(
            f"{names[metric]:{width}}{values[0]:>8.3f}{_span(macro, metric):>14}"
            f"{_span(found.macro_ties, metric):>15}{values[1]:>8.3f}{_span(micro, metric):>14}"
            f"{values[2]:>8.3f}{values[3]:>9.3f}".rstrip()
        )
    return [*lines, "-" * len(head)]


def _remarks(found: Evaluation) -> list[str]:
    k, health = found.k, found.health
    lines = [
        f"Means over all orders of tied cases. R: cases of the query's class. AP@{k} above: / min(k, R).",
        f"Distinct codes in the database: {health.n_distinct_codes:,}; cases of one code: {health.mean_bucket:.1f} "
        f"in the mean, {health.largest_bucket:,} at most.",
        f"Cases that share their code with another class: {health.n_colliding_cases:,} of {found.n_cases:,}.",
        f"Entropy: {health.code_entropy:.1f} bits a code, {health.bit_entropy:.2f} a bit; imbalance of bits "
        f"{health.bit_imbalance:.2f}; constant: {health.n_constant_bits} of {found.bits}.",
        f"Queries with a tie across place {k}: {health.tied_at_k:.0%}.",
        f"Queries without a case of their class: {health.n_without_relevant:,}.",
    ]
    if found.intervals:
        # A group is a patient or the copies of an image, where `evaluate_archive` made it.
        how = "" if found.intervals.n_units == found.n_queries else ", all of a patient or group together"
        lines.insert(
            1,
            f"95 %: bootstrap, {found.intervals.n_resamples:,} resamples of the {found.n_queries:,} queries{how}.",
        )
        if found.intervals.macro is None:
            n_alone = len(found.classes) - len(found.intervals.per_class)
            among = f"{n_alone:,} of {len(found.classes):,} classes"
            lines.insert(
                2, f"No interval of the macro mean: the queries of {among} are one patient's or group's, or one."
            )
    return lines


def _printable(name: str) -> str:
    """The name with a blank for each line break and control character, which a folder's name can have."""
    return "".join(character if character.isprintable() else " " for character in name)


def _span(interval: Range | None, metric: str) -> str:
    return "" if interval is None else f"{getattr(interval.low, metric):.3f}-{getattr(interval.high, metric):.3f}"


def latex_table(found: Evaluation) -> str:
    """See `Evaluation.latex`."""
    names, intervals = titles(found.k), found.intervals
    with_intervals = intervals is not None
    of_class = intervals.per_class if intervals else {}

    def row(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    def scores_row(name: str, scores: Scores, interval: Range | None, counts: Sequence[int]) -> str:
        cells = [" ".join(_printable(name).split()).translate(_ESCAPED)]
        for metric in IN_LATEX:
            cells.append(f"{getattr(scores, metric):.3f}")
            if with_intervals:
                span = _span(interval, metric).replace("-", "--")
                cells.append(span and f"[{span}]")
        # A thin space, for a comma is a decimal mark elsewhere.
        cells.extend(f"{count:,}".replace(",", r"\,") for count in counts)
        return row(cells)

    each = "rl" if with_intervals else "r"
    heads = [f"\\multicolumn{{{len(each)}}}{{c}}{{{names[metric].translate(_ESCAPED)}}}" for metric in IN_LATEX]
    lines = [
        "% Needs the package booktabs. Expectations over the orders of tied cases; "
        f"AP@{found.k} is divided by min({found.k}, R), R the cases of the query's class.",
    ]
    if intervals:
        lines.append(f"% In brackets: 95 % bootstrap intervals, {intervals.n_resamples} resamples.")
    lines += [
        f"\\begin{{tabular}}{{l{each * len(IN_LATEX)}rr}}",
        r"\toprule",
        row(["", *heads, "queries", "cases"]),
        r"\midrule",
        *(scores_row(name, *pair, (found.n_queries, found.n_cases)) for name, pair in _averages(found).items()),
        r"\midrule",
        *(
            scores_row(name, scores, of_class.get(name), (scores.n_queries, scores.n_cases))
            for name, scores in found.per_class.items()
        ),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
