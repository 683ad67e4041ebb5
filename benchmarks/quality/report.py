"""Tables and figures of the study, from results/quality.json into docs/quality.md and docs/quality-*.png.

python benchmarks/quality/report.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib.pyplot as plt
from runs import ABLATIONS, FEW_CLASSES, LONG_ABLATIONS, LOSS_METHODS, SETS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "quality.json"
RECIPES = RESULTS.with_name("recipes.json")
PAGE = ROOT / "docs" / "quality.md"
Line = dict[str, Any]
Value = Callable[[Line], float]


def main() -> None:
    """Writes every table between its marks in the page, and the figures."""
    lines: list[Line] = json.loads(RESULTS.read_text())["runs"]
    PAGE.write_text(filled(PAGE.read_text(), lines))
    losses_figure(chosen(lines, few=False, long=False, bits=32)).savefig(ROOT / "docs" / "quality-losses.png", dpi=150)


def filled(page: str, lines: list[Line]) -> str:
    """The page with its tables made anew."""
    for name, table in TABLES.items():
        body = "".join(f"{line}\n" for line in table(lines))
        start, end = page.index(f"<!-- {name} -->\n") + len(f"<!-- {name} -->\n"), f"<!-- end {name} -->"
        page = page[:start] + body + page[page.index(end) :]
    return page


def chosen(lines: Iterable[Line], **values: Any) -> list[Line]:
    """The runs with these values."""
    return [line for line in lines if all(line.get(name, False) == value for name, value in values.items())]


def hamming(line: Line) -> float:
    """Macro P@10 by Hamming distance, the headline."""
    return float(line["hamming"]["precision"])


def summary(lines: list[Line], value: Value = hamming) -> str:
    """Mean and, from two seeds on, standard deviation."""
    if not lines:
        return "-"
    values = [value(line) for line in lines]
    text = f"{mean(values):.3f}"
    return f"{text} ± {stdev(values):.3f}" if len(values) > 1 else text


def more(values: dict[int, float], ours: dict[int, float]) -> str:
    """The mean difference of values by seed, over the seeds of both, ± its standard error from two seeds on."""
    differences = [values[seed] - ours[seed] for seed in sorted(values.keys() & ours.keys())]
    if len(differences) < 2:
        return f"{differences[0]:+.3f}" if differences else "-"
    return f"{mean(differences):+.3f} ± {stdev(differences) / len(differences) ** 0.5:.3f}"


def by_seed(lines: list[Line], value: Value = hamming) -> dict[int, float]:
    """Of a method on one set."""
    return {line["seed"]: value(line) for line in lines}


def means_by_seed(of_sets: list[dict[int, float]]) -> dict[int, float]:
    """Means over the sets, of the seeds that all of them have."""
    return {seed: mean(values[seed] for values in of_sets) for seed in set.intersection(*map(set, of_sets))}


def table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def losses_table(lines: list[Line]) -> Iterator[str]:
    """Every method on every set: Hamming, and the other ways to rank in the mean over the sets."""
    lines = chosen(lines, few=False, long=False, bits=32)

    def of_sets(method: str) -> dict[int, float]:
        return means_by_seed([by_seed(chosen(lines, method=method, set=name)) for name in SETS])

    def rows() -> Iterator[list[str]]:
        for name in ("chance", "majority"):
            one_each = [chosen(lines, set=part)[:1] for part in SETS]
            yield [
                name,
                *(summary(one, lambda line, name=name: line[name]["precision"]) for one in one_each),
                *[""] * 6,
            ]
        ours = of_sets("ours")
        for method in LOSS_METHODS:
            mine = chosen(lines, method=method)
            by_set = [chosen(mine, set=name) for name in SETS]
            if not mine:
                continue
            means = [
                f"{mean(mean(value(line) for line in part) for part in by_set):.3f}" if all(by_set) else "-"
                for value in (hamming, lambda line: line["l2"], lambda line: line["asymmetric"])
            ]
            codes = " / ".join(
                str(round(mean(line["health"]["n_distinct_codes"] for line in part))) if part else "-"
                for part in by_set
            )
            seeds = "/".join(str(len(part)) for part in by_set)
            means.insert(1, "" if method == "ours" else more(of_sets(method), ours))
            yield [method, *(summary(part) for part in by_set), *means, codes, seeds]

    head = ["macro P@10", *SETS, "mean", "more than ours", "by float L2", "re-ranked", "distinct codes", "seeds"]
    return table(head, rows())


def few_table(lines: list[Line]) -> Iterator[str]:
    """Every method where four classes of rbc12 have ten training images."""
    lines = chosen(lines, few=True)

    def rare(line: Line) -> float:
        return float(mean(line["per_class"][label] for label in RAREST))

    rows = (
        [method, summary(mine, rare), summary(mine), str(len(mine))]
        for method in LOSS_METHODS
        if (mine := chosen(lines, method=method))
    )
    return table(["macro P@10", f"the {FEW_CLASSES} classes", "all 12 classes", "seeds"], rows)


ABLATION_SETS = ("rbc12", "fundus_eye4", "pneumoniamnist")  # the one that all ablations were tried on first
RAREST = ("teardrop", "microcyte", "macrocyte", "burr_cell")


def ablations_table(lines: list[Line]) -> Iterator[str]:
    """Ours with one thing changed, and by how much that is more than ours with the same seeds, set by set."""
    lines = chosen(lines, few=False, long=False, bits=32)

    def alone(line: Line) -> float:
        return float(line["without_mirror_images"])

    def row(name: str, method: str, value: Value = hamming) -> list[str]:
        mine = [chosen(lines, method=method, set=part) for part in ABLATION_SETS]
        ours = [by_seed(chosen(lines, method="ours", set=part)) for part in ABLATION_SETS]
        values = [by_seed(part, value) for part in mine]
        differences = map(more, values, ours)
        of_all = more(means_by_seed(values), means_by_seed(ours))
        return [name, summary(mine[0], value), *differences, of_all, "/".join(str(len(part)) for part in mine)]

    def rows() -> Iterator[list[str]]:
        ours = chosen(lines, method="ours", set=ABLATION_SETS[0])
        yield ["ours", summary(ours), *[""] * (1 + len(ABLATION_SETS)), str(len(ours))]
        yield row("codes without mirror images", "ours", alone)
        for method in ABLATIONS:
            yield row(method, method)

    more_than_ours = [f"more than ours: {name}" for name in ABLATION_SETS]
    return table(["macro P@10", ABLATION_SETS[0], *more_than_ours, "mean of the sets", "seeds"], rows())


def long_table(lines: list[Line]) -> Iterator[str]:
    """The default recipe with one thing changed."""
    lines = [
        *({**line, "method": "default", "hamming": line["macro"]} for line in json.loads(RECIPES.read_text())),
        *chosen(lines, long=True),
    ]
    default = [by_seed(chosen(lines, recipe="default", set=name)) for name in SETS]

    def rows() -> Iterator[list[str]]:
        yield ["default", *(f"{mean(values.values()):.3f}" for values in default), *[""] * (2 + len(SETS))]
        for method in LONG_ABLATIONS:
            mine = [by_seed(chosen(lines, method=method, set=name)) for name in SETS]
            means = (f"{mean(values.values()):.3f}" if values else "-" for values in mine)
            of_all = more(means_by_seed(mine), means_by_seed(default))
            yield [method, *means, *map(more, mine, default), of_all, "/".join(map(str, map(len, mine)))]

    more_than_default = [f"more than default: {name}" for name in SETS]
    return table(["macro P@10", *SETS, *more_than_default, "mean of the sets", "seeds"], rows())


def lengths_table(lines: list[Line]) -> Iterator[str]:
    """Four code lengths."""
    lines = chosen(lines, few=False, long=False)

    def rows() -> Iterator[list[str]]:
        for name in SETS:
            for method in ("ours", "paper", "GreedyHash"):
                by_length = [chosen(lines, set=name, method=method, bits=bits) for bits in (16, 32, 48, 64)]
                yield [name, method, *map(summary, by_length), "/".join(str(len(some)) for some in by_length)]

    return table(["set", "macro P@10", "16 bits", "32", "48", "64", "seeds"], rows())


def paper_table(lines: list[Line]) -> Iterator[str]:
    """What the published way to make and rank codes changes, for the paper's recipe."""
    lines = chosen(lines, few=False, long=False, bits=32, method="paper")

    def batch(kind: str, by: str) -> Value:
        return lambda line: float(line["batch_statistics"][kind][by])

    ways: dict[str, Value] = {
        "BatchNorm in eval mode, Hamming": hamming,
        "BatchNorm in eval mode, float L2": lambda line: line["l2"],
        "batches of ten, shuffled, float L2": batch("shuffled", "l2"),
        "batches of ten, sorted by class, float L2": batch("sorted by class", "l2"),
        "batches of ten, sorted by class, Hamming": batch("sorted by class", "hamming"),
    }
    rows = ([name, *(summary(chosen(lines, set=part), value) for part in SETS)] for name, value in ways.items())
    return table(["macro P@10", *SETS], rows)


TABLES: dict[str, Callable[[list[Line]], Iterator[str]]] = {
    "losses": losses_table,
    "few": few_table,
    "ablations": ablations_table,
    "long": long_table,
    "lengths": lengths_table,
    "paper": paper_table,
}


def losses_figure(lines: list[Line]) -> Any:
    """A dot a run, a bar a mean; methods from worst to best in the mean over the sets; chance as a line."""
    methods = [method for method in LOSS_METHODS if chosen(lines, method=method)]
    methods.sort(key=lambda method: mean(map(hamming, chosen(lines, method=method))))
    sets = [name for name in SETS if chosen(lines, set=name)]
    size = 2.5 + 3 * len(sets), 0.5 + 0.35 * max(4, len(methods))
    figure, axes = plt.subplots(1, len(sets), figsize=size, sharey=True, constrained_layout=True, squeeze=False)
    for axis, name in zip(axes[0], sets, strict=True):
        here = chosen(lines, set=name)
        for place, method in enumerate(methods):
            values = [hamming(line) for line in chosen(here, method=method)]
            colour = "#d55e00" if method == "ours" else "#56b4e9"
            if values:
                axis.barh(place, mean(values), color=colour, height=0.7)
                axis.plot(values, [place] * len(values), "o", color="black", markersize=3)
        axis.axvline(here[0]["chance"]["precision"], color="black", linestyle=":", linewidth=1)
        axis.set_title(name)
        axis.set_xlabel("macro P@10, Hamming, 32 bits")
    axes[0][0].set_yticks(range(len(methods)), methods)
    return figure


if __name__ == "__main__":
    main()
