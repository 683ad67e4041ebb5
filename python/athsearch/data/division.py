"""Dividing groups among splits, class by class, the same way every time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping


def divide(members: Iterable[tuple[str | None, str]], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Give every group one split.

    members: the label and the group of each item. shares: split -> share of the items; their order settles ties.
    Returns group -> split. The order of members does not matter, nor does the machine.

    Classes take turns, those with the fewest groups first. Within a class, groups come in the order of a hash of seed
    and name, each to the split that lacks most items of the class; when no more groups wait than splits are empty, only
    those are chosen from. So if every group holds one label, then
    - a class with at least as many groups as there are splits stands in each, one with n fewer groups in n splits;
    - no split exceeds its share of a class by as many items as the class's largest group has.
    Groups of several labels were placed for the rarest of them, which may leave another class less well divided.
    """
    n_items: dict[str | None, Counter[str]] = {}  # label -> group -> items
    for label, group in members:
        n_items.setdefault(label, Counter())[group] += 1

    def shuffled(group: str) -> bytes:
        return hashlib.sha256(f"{seed} {group}".encode()).digest()

    side: dict[str, str] = {}
    for _, groups in sorted(n_items.items(), key=lambda entry: (len(entry[1]), entry[0] is None, entry[0] or "")):
        lacking = {split: share * groups.total() for split, share in shares.items()}
        n_groups = dict.fromkeys(shares, 0)
        placed = groups.keys() & side.keys()
        for group in placed:
            lacking[side[group]] -= groups[group]
            n_groups[side[group]] += 1
        waiting = sorted(groups.keys() - placed, key=shuffled)
        for n_done, group in enumerate(waiting):
            empty = [split for split, n in n_groups.items() if n == 0]
            split = max(empty if len(waiting) - n_done <= len(empty) else shares, key=lacking.__getitem__)
            side[group] = split
            lacking[split] -= groups[group]
            n_groups[split] += 1
    return side
