"""What a program does to an archive, one durable step after the other, and what the archive must then hold."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from athsearch import Archive, Codes, Encoder, open_source
from athsearch.data import Item, Source
from athsearch.demo.phantoms import write_phantoms

BITS = 36
WEIGHTS = Path(__file__).parent.parent / "golden" / "format-1" / "archive" / "weights.safetensors"


@dataclass(frozen=True)
class Expected:
    """A case that must be found. item: the image it came from, None for a ready-made code."""

    words: tuple[int, ...]
    item: Item | None = None


@dataclass(frozen=True)
class State:
    """What an archive holds. known: sources that were ever added; changed: those of them whose file changed since.

    next_id: the id that comes next. is_compact: whether nothing else may lie in its folder. n_lines: of the query log;
    is_logged: whether each answer adds one.
    """

    exists: bool = False
    cases: Mapping[int, Expected] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    next_id: int = 1
    is_compact: bool = False
    n_lines: int = 0
    is_logged: bool = False

    def with_added(self, added: list[Expected]) -> State:
        """The state when these cases were added."""
        known = self.known | {expected.item.source for expected in added if expected.item is not None}
        cases = {**self.cases, **dict(enumerate(added, self.next_id))}
        return replace(self, cases=cases, known=known, next_id=self.next_id + len(added), is_compact=False)


@dataclass(frozen=True)
class World:
    """What steps are made of: an encoder, labelled images of patients, and the codes of each, also when it was changed.

    source: its files are copies of those in the folder "first" beside it, or of the changed ones in "second".
    """

    encoder: Encoder
    source: Source
    words: Mapping[tuple[str, str], tuple[int, ...]]

    @classmethod
    def make(cls, folder: Path) -> World:
        """Draws the images below `folder`."""
        encoder = Encoder.load(WEIGHTS, "cpu")
        source = open_source(write_phantoms(folder / "source", n_images=40, seed=1, size=64))
        shutil.copytree(folder / "source", folder / "first")
        words = {}
        for item in source.items:
            second = folder / "second" / item.source
            second.parent.mkdir(parents=True, exist_ok=True)
            ImageOps.invert(Image.open(folder / "first" / item.source).convert("RGB")).save(second)
            for version in ("first", "second"):
                words[item.source, version] = tuple(encoder.encode(folder / version / item.source).words[0].tolist())
        return cls(encoder, source, words)

    def items(self, begin: int, end: int, version: str) -> Source:
        """Some of the images, as they are in the folder `version`."""
        for item in self.source.items[begin:end]:
            shutil.copyfile(self.source.root.parent / version / item.source, self.source.root / item.source)
        return replace(self.source, items=self.source.items[begin:end])


@dataclass(frozen=True)
class Step:
    """One call. name: of what; begin and end: which images or codes; ids: of cases; kind: of index."""

    name: str
    begin: int = 0
    end: int = 0
    ids: tuple[int, ...] = ()
    kind: str = "flat"

    def play(self, world: World, path: Path) -> None:
        """Does it to the archive at `path`."""
        if self.name == "create":
            Archive.create(path, world.encoder).close()
            return
        with Archive.open(path, device="cpu") as archive:
            if self.name == "add":
                archive.add(world.items(self.begin, self.end, "first"))
            elif self.name == "change":
                archive.add(world.items(self.begin, self.end, "second"))
            elif self.name == "add_codes":
                archive.add_codes(made_codes(self.begin, self.end))
            elif self.name == "delete":
                archive.delete(self.ids)
            elif self.name == "build_index":
                archive.build_index(self.kind)
            elif self.name == "compact":
                archive.compact()
            elif self.name == "ask":
                archive.search(Codes(made_codes(self.begin, self.end).words, BITS, archive.model_id), user="x" * 300)
            elif self.name in ("start_log", "stop_log"):
                archive.set_query_log(self.name == "start_log")
            else:
                raise ValueError(self.name)

    def after(self, world: World, state: State) -> State:
        """What the archive holds when it is done, given what it held."""
        if self.name == "create":
            return replace(state, exists=True)
        if self.name == "add":
            items = [item for item in world.source.items[self.begin : self.end] if item.source not in state.known]
            return state.with_added([Expected(world.words[item.source, "first"], item) for item in items])
        if self.name == "change":
            items = [item for item in world.source.items[self.begin : self.end] if item.source not in state.changed]
            sources = {item.source for item in items}
            left = {id: case for id, case in state.cases.items() if not case.item or case.item.source not in sources}
            state = replace(state, cases=left, changed=state.changed | sources)
            return state.with_added([Expected(world.words[item.source, "second"], item) for item in items])
        if self.name == "add_codes":
            words = made_codes(self.begin, self.end).words.tolist()
            return state.with_added([Expected(tuple(code)) for code in words])
        if self.name == "ask":
            return replace(state, n_lines=state.n_lines + state.is_logged)
        if self.name in ("start_log", "stop_log"):
            return replace(state, n_lines=state.n_lines + 1, is_logged=self.name == "start_log")
        cases = {id: case for id, case in state.cases.items() if id not in self.ids}
        return replace(state, cases=cases, is_compact=self.name == "compact")


# Each way of writing an archive once or twice; the second add_codes makes the index be built anew, and a line of the
# query log takes two sectors.
SCENARIO = (
    Step("create"),
    Step("add", 0, 6),
    Step("add_codes", 0, 40),
    Step("delete", ids=(2, 9)),
    Step("build_index", kind="distinct"),
    Step("add_codes", 40, 60),
    Step("add", 4, 9),
    Step("delete", ids=(1, 12)),
    Step("compact"),
    Step("change", 5, 8),
    Step("build_index", kind="mih"),
    Step("compact"),
    Step("build_index", kind="flat"),
    Step("start_log"),
    Step("ask", 3, 4),
    Step("ask", 4, 5),
    Step("stop_log"),
)


def made_codes(begin: int, end: int) -> Codes:
    """Codes, each other than the one before, that are told by their numbers."""
    numbers = np.arange(begin, end, dtype=np.uint64)
    mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return Codes((mixed >> np.uint64(64 - BITS))[:, None], BITS)


def random_step(rng: random.Random, world: World, state: State) -> Step:
    """Something to do to an archive that holds `state`."""
    if not state.exists:
        return Step("create")
    name = rng.choice(("add", "add_codes", "add_codes", "delete", "delete", "build_index", "change", "compact", "log"))
    if name == "log":
        begin = rng.randrange(1 << 20)
        return Step(rng.choice(("ask", "stop_log")), begin, begin + 1) if state.is_logged else Step("start_log")
    if name in ("add", "change"):  # of each image twice, its second form comes after its first
        begin = rng.randrange(0, 36, 4)
        return Step("change" if world.source.items[begin].source in state.known else "add", begin, begin + 4)
    if name == "compact":
        return Step("compact")
    if name == "add_codes":
        begin = rng.randrange(1 << 20)
        return Step("add_codes", begin, begin + rng.choice((1, 30, 300)))
    if name == "delete":
        alive = sorted(state.cases)
        return Step("delete", ids=tuple(rng.sample(alive, min(len(alive), rng.randint(1, 20)))))
    return Step("build_index", kind=rng.choice(("distinct", "mih", "flat", "auto")))
