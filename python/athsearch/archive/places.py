"""Where the images of an archive's cases lie now: those whose names are hidden are looked for under the key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..data import split_frame
from ..data.folder import names_below
from .cases import Case
from .pseudonym import HIDDEN

if TYPE_CHECKING:
    from .archive import Archive


class Places:
    """A function from a case to root and source of its image, as `data.read_pixels` takes them.

    images: the folder the sources are relative to, if it is not the one they were added from. The files below a folder
    are listed when the first hidden source is asked for; one that is not found keeps its pseudonym, and reading it says
    that there is no such file.
    """

    def __init__(self, archive: Archive, images: str | Path | None = None) -> None:
        self._archive = archive
        self._images = images
        self._names: dict[Path, dict[str, str]] = {}  # root -> pseudonym -> path

    def __call__(self, case: Case) -> tuple[Path, str]:
        """case: one with a source. Raises ArchiveError where its name is hidden and the key is missing."""
        root, source = Path(self._images or case.root or ""), case.source or ""
        if not source.startswith(HIDDEN):
            return root, source
        pseudonym, frame = split_frame(source)
        if root not in self._names:
            key = self._archive.patient_key()
            self._names[root] = {key.source(name): name for name in names_below(root)} if root.is_dir() else {}
        name = self._names[root].get(pseudonym, pseudonym)
        return root, name if frame is None else f"{name}#frame={frame}"
