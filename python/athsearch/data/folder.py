"""Folder trees: `class/file` or `split/class/file`."""

from __future__ import annotations

import os
from pathlib import Path

from .. import images
from ..errors import SourceError
from .source import SPLIT_OF_NAME, Item, Source

_NOT_TEXT = "its name is not UTF-8, which no catalogue or report can hold: rename it"


def read(root: Path) -> Source:
    """All images below a folder, labelled by where they lie, sorted by source. See `open_source`."""
    names, unnamed, skipped = _list(root)
    if not names and not unnamed:
        raise SourceError(f"{root}: no images ({' '.join(images.READERS)}) among {len(skipped)} other entries")
    tops = {name.split("/", 1)[0] for name in names if "/" in name}
    by_split = all(top.lower() in SPLIT_OF_NAME for top in tops)
    items = []
    for name, refusal in sorted([(name, "") for name in names] + [(name, _NOT_TEXT) for name in unnamed]):
        *folders, _ = name.split("/")
        split = None
        if by_split and folders and folders[0].lower() in SPLIT_OF_NAME:
            split = SPLIT_OF_NAME[folders.pop(0).lower()]
        items.append(Item(name, folders[0] if folders else None, None, split, refusal=refusal or None))
    return Source(root, tuple(items), tuple(sorted(skipped)))


def read_file(path: Path) -> Source:
    """A single image."""
    name = _escaped(path.name)
    return Source(path.parent, (Item(name, refusal=None if name == path.name else _NOT_TEXT),))


def names_below(root: Path) -> list[str]:
    """The sources of all image files below a folder. Raises SourceError where it cannot be listed."""
    return _list(root)[0]


def _list(root: Path) -> tuple[list[str], list[str], list[str]]:
    """The image files below a folder, those whose names are not text, and all else. Paths relative to it; what is not
    text is escaped, and a skipped folder ends with "/".
    """
    names: list[str] = []
    unnamed: list[str] = []
    skipped: list[str] = []
    unread: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]  # a folder, and those it lies in
    while unread:
        folder, above = unread.pop()
        try:
            status = os.stat(root / folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:  # a link back up: following it would never end
                skipped.append(_escaped(folder))
                continue
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = folder + entry.name
                    hidden = entry.name.startswith(".")
                    if _is_folder(entry):
                        if hidden:
                            skipped.append(_escaped(name) + "/")
                        else:
                            unread.append((name + "/", above | {identity}))
                    elif hidden or not _is_file(entry) or not (images.is_image(name) or images.is_dicom(root / name)):
                        skipped.append(_escaped(name))
                    else:
                        escaped = _escaped(name)
                        (names if escaped == name else unnamed).append(escaped)
        except OSError as error:
            raise SourceError(f"{root / _escaped(folder)}: cannot be listed: {error.strerror}") from error
    return names, unnamed, skipped


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Neither pipe nor socket, which are never read to an end. A broken link counts: reading it will tell."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def _escaped(name: str) -> str:
    """As no manifest, catalogue or report could hold it otherwise: bytes that are not UTF-8 as in "\\xff.png"."""
    return os.fsencode(name).decode(errors="backslashreplace")
