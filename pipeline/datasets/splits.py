"""Splits and folds that never have one source video on both sides. Pure: no file is touched.

Everything here is a function of the set of rows and the seed; the order in which rows come does not matter.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from pipeline.datasets.annotations import VideoRow, name_some
from pipeline.errors import UserError

Rows = tuple[VideoRow, ...]

_NUM_ORDERS = 32
"""Orders of the groups that are tried; the best balanced outcome is kept."""
_MAX_PLACEMENTS = 200_000
"""Fewer orders are tried where there are so many groups that this many placements are not enough for all."""


def check_split(
    train: Iterable[VideoRow],
    test: Iterable[VideoRow],
    labels: Iterable[str],
    *,
    may_share_groups: bool = False,
    test_may_lack_classes: bool = False,
) -> None:
    """Refuses a split whose figures would mean nothing.

    Args:
        train: rows to learn from.
        test: rows held out.
        labels: every class.
        may_share_groups: for a published split that is taken as it is (``Annotations.may_share_groups``).
        test_may_lack_classes: for folds, of which only all together have every class.

    Raises:
        UserError: a source is on both sides, or a class has no row on one. Names them.
    """
    train, test = tuple(train), tuple(test)
    shared = {row.group for row in train} & {row.group for row in test}
    if shared and not may_share_groups:
        raise UserError(
            f"the split has clips of one source video on both sides, so a model could score by recognising the scene. "
            f"Sources {name_some(sorted(shared))}. Put all clips of a source on one side"
        )
    sides = {"training": train} if test_may_lack_classes else {"training": train, "held-out": test}
    for side, rows in sides.items():
        lacking = set(labels) - {row.label for row in rows}
        if lacking:
            raise UserError(
                f"the {side} side of the split has no video of some classes. {name_some(sorted(lacking))}. "
                "Add videos of them, or leave these classes out"
            )


def split_by_group(
    rows: Iterable[VideoRow], fraction: float, seed: int, what: str = "a split into two sides"
) -> tuple[Rows, Rows]:
    """Holds out about ``fraction`` of each class, whole groups at a time.

    Args:
        rows: all rows, at least two groups of each class.
        fraction: share of the rows to hold out, between 0 and 1, both excluded.
        seed: another seed, another split.
        what: the split's name, for errors.

    Returns:
        ``(rest, held_out)``, each with every class, no group in both, sorted by path.

    Raises:
        UserError: a class has one group only, or no split of the groups gives every class to both sides.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the share to hold out must be between 0 and 1, got {fraction}")
    rest, held_out = _divide(rows, (1 - fraction, fraction), seed, what)
    return rest, held_out


def group_folds(rows: Iterable[VideoRow], num_folds: int, seed: int) -> list[tuple[Rows, Rows]]:
    """Cross-validation folds, as equal in size and classes as whole groups allow.

    Returns:
        ``num_folds`` times ``(train, test)``, each with every class; every row is in one test part.

    Raises:
        UserError: a class has fewer groups than there are folds, or no such folds were found.
    """
    if num_folds < 2:
        raise UserError(f"cross-validation needs at least 2 folds, got {num_folds}")
    parts = _divide(rows, [1 / num_folds] * num_folds, seed, f"{num_folds} folds")
    return [(_merged(parts[:k] + parts[k + 1 :]), part) for k, part in enumerate(parts)]


def leave_one_group_out(rows: Iterable[VideoRow]) -> list[tuple[Rows, Rows]]:
    """One fold for each group, by name: train on the others, test on it. A test part may lack classes.

    Raises:
        UserError: fewer than two groups, or a class that lives in one group only.
    """
    by_group: dict[str, list[VideoRow]] = defaultdict(list)
    for row in _in_order(rows):
        by_group[row.group].append(row)
    _require_groups(_groups_of_classes(by_group), 2, "leaving one group out")
    return [
        (_merged(by_group[other] for other in by_group if other != group), tuple(by_group[group]))
        for group in sorted(by_group, key=_natural)
    ]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``g2`` before ``g10``."""
    return [(int(text), "") if text.isdigit() else (-1, text) for text in re.split(r"([0-9]+)", name)]


def _row_order(row: VideoRow) -> tuple[str, float, float, str]:
    return row.path.as_posix(), row.start_seconds, row.end_seconds or 0.0, row.label


def _in_order(rows: Iterable[VideoRow]) -> list[VideoRow]:
    return sorted(rows, key=_row_order)


def _merged(parts: Iterable[Iterable[VideoRow]]) -> Rows:
    return tuple(_in_order(row for part in parts for row in part))


def _groups_of_classes(by_group: Mapping[str, Iterable[VideoRow]]) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = defaultdict(set)
    for group, rows in by_group.items():
        for row in rows:
            if row.label:  # without one it is no class
                groups[row.label].add(group)
    return groups


def _require_groups(groups: Mapping[str, set[str]], needed: int, what: str) -> None:
    if not groups:
        raise UserError(f"{what} needs videos, and there are none")
    short = [f"{label} ({name_some(sorted(found))})" for label, found in sorted(groups.items()) if len(found) < needed]
    if short:
        raise UserError(
            f"{what} needs at least {needed} source videos of each class. Classes with fewer are {name_some(short)}. "
            "Add videos from other sources, or leave these classes out"
        )


def _divide(rows: Iterable[VideoRow], shares: Sequence[float], seed: int, what: str) -> list[Rows]:
    """Rows by part: ``shares`` of each class as near as whole groups allow, every class in every part."""
    by_group: dict[str, list[VideoRow]] = defaultdict(list)
    for row in rows:
        by_group[row.group].append(row)
    _require_groups(_groups_of_classes(by_group), len(shares), what)
    counts = {group: Counter(row.label for row in members) for group, members in by_group.items()}
    num_orders = max(1, min(_NUM_ORDERS, _MAX_PLACEMENTS // len(counts)))
    outcomes = [_Division.fill(counts, shares, f"{seed}/{order}") for order in range(num_orders)]
    best = min(outcomes, key=lambda outcome: (outcome.num_lacking, outcome.imbalance))
    if best.num_lacking:
        raise UserError(
            f"no way was found to give every class to each part of {what}: some sources hold several classes. "
            f"Still lacking {name_some(best.lacking())}. Add videos from other sources, or use fewer parts"
        )
    return [_merged(by_group[group] for group in part) for part in best.parts]


@dataclass
class _Division:
    """Groups dealt to parts one by one, each to the part that lacks its classes most."""

    totals: Counter[str]
    shares: Sequence[float]
    parts: list[list[str]] = field(default_factory=list)
    have: list[Counter[str]] = field(default_factory=list)

    @classmethod
    def fill(cls, counts: Mapping[str, Counter[str]], shares: Sequence[float], salt: str) -> _Division:
        totals: Counter[str] = Counter()
        for count in counts.values():
            totals.update(count)
        division = cls(totals, shares, [[] for _ in shares], [Counter() for _ in shares])
        groups_left = Counter(label for count in counts.values() for label in count)
        # Hashing the name, not shuffling a list: the order of the rows must not matter.
        for group in sorted(counts, key=lambda name: (blake2b(f"{salt}/{name}".encode()).digest(), name)):
            division._place(group, counts[group], groups_left)
            groups_left.subtract(counts[group].keys())
        return division

    def _place(self, group: str, count: Counter[str], groups_left: Counter[str]) -> None:
        """To the part whose need is greatest; first of all to one that would otherwise go without a class."""
        lacking = {label: sum(not have[label] for have in self.have) for label in count}
        scarce = [label for label in count if label and groups_left[label] <= lacking[label]]

        def need(part: int) -> tuple[int, float, int]:
            have = self.have[part]
            shortfall = sum(n * self._shortfall(part, label) / self.totals[label] for label, n in count.items())
            return sum(not have[label] for label in scarce), shortfall, -part

        chosen = max(range(len(self.shares)), key=need)
        self.parts[chosen].append(group)
        self.have[chosen].update(count)

    def _shortfall(self, part: int, label: str) -> float:
        return self.shares[part] * self.totals[label] - self.have[part][label]

    @property
    def imbalance(self) -> float:
        """Sum over parts and classes of the squared error of a class's share."""
        return sum(
            (self._shortfall(part, label) / total) ** 2
            for part in range(len(self.shares))
            for label, total in self.totals.items()
        )

    def lacking(self) -> list[str]:
        """Each class that some part has not got, once for each such part."""
        return sorted(label for have in self.have for label in self.totals if label and not have[label])

    @property
    def num_lacking(self) -> int:
        return len(self.lacking())
