"""Folder trees: `class/file` or `split/class/file`."""

from __future__ import annotations

import os
from pathlib import Path

from .. import images
from ..errors import SourceError
from .source import SPLIT_OF_NAME, Item, Source


def read(root: Path) -> Source:
    """All images below a folder, labelled by where they lie, sorted by source. See `open_source`."""
    names, skipped = _list(root)
    if not names:
        raise SourceError(f"{root}: no images ({' '.join(images.READERS)}) among {len(skipped)} other entries")
    tops = {name.split("/", 1)[0] for name in names if "/" in name}
    by_split = all(top.lower() in SPLIT_OF_NAME for top in tops)
    items = []
    for name in sorted(names):
        *folders, _ = name.split("/")
        split = SPLIT_OF_NAME[folders.pop(0).lower()] if by_split and folders else None
        items.append(Item(name, folders[0] if folders else None, None, split))
    return Source(root, tuple(items), tuple(sorted(skipped)))


def names_below(root: Path) -> list[str]:
    """The sources of all image files below a folder. Raises SourceError where it cannot be listed."""
    return _list(root)[0]


def _list(root: Path) -> tuple[list[str], list[str]]:
    """The image files below a folder, and all else. Paths relative to it; a skipped folder ends with "/"."""
    names: list[str] = []
    skipped: list[str] = []
    unread: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]  # a folder, and those it lies in
    while unread:
        folder, above = unread.pop()
        try:
            status = os.stat(root / folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:  # a link back up: following it would never end
                skipped.append(folder)
                continue
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = folder + entry.name
                    hidden = entry.name.startswith(".")
                    if not _is_text(name):  # no manifest, catalogue or report could hold such a name
                        skipped.append(os.fsencode(name).decode(errors="backslashreplace"))
                    elif _is_folder(entry):
                        if hidden:
                            skipped.append(name + "/")
                        else:
                            unread.append((name + "/", above | {identity}))
                    elif hidden or not (images.is_image(name) or images.is_dicom(root / name)):
                        skipped.append(name)
                    elif entry.is_symlink() or entry.is_file():  # a broken link stays: reading it will tell
                        names.append(name)
                    else:  # a pipe or socket
                        skipped.append(name)
        except OSError as error:
            raise SourceError(f"{root / folder}: cannot be listed: {error.strerror}") from error
    return names, skipped


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
