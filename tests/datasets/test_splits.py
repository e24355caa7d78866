"""Splits and folds: what must hold for any rows, on rows that hypothesis makes up."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import DataConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.splits import Rows, check_split, group_folds, leave_one_group_out, split_by_group
from pipeline.errors import UserError

PAIRS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=60)


def make_rows(pairs: Iterable[tuple[str, object]]) -> list[VideoRow]:
    """A row for each ``(label, group)``."""
    return [
        VideoRow(Path(f"/v/{i}.mp4"), label, f"g{group}", name=f"{i}.mp4") for i, (label, group) in enumerate(pairs)
    ]


def labels_of(rows: Iterable[VideoRow]) -> set[str]:
    return {row.label for row in rows}


def groups_of(rows: Iterable[VideoRow]) -> set[str]:
    return {row.group for row in rows}


def fewest_groups(rows: Iterable[VideoRow]) -> int:
    found = defaultdict(set)
    for row in rows:
        found[row.label].add(row.group)
    return min(len(groups) for groups in found.values())


def assert_sound(sides: tuple[Rows, Rows], rows: list[VideoRow]) -> None:
    """No shared group, nothing lost or doubled, every class on both sides."""
    assert not groups_of(sides[0]) & groups_of(sides[1])
    assert sorted([*sides[0], *sides[1]], key=lambda row: row.name) == sorted(rows, key=lambda row: row.name)
    assert labels_of(sides[0]) == labels_of(sides[1]) == labels_of(rows)


@settings(deadline=None)
@given(PAIRS, st.floats(0.1, 0.9), st.integers(0, 99))
def test_a_split_is_sound_or_refused(pairs: list[tuple[str, int]], fraction: float, seed: int) -> None:
    rows = make_rows(pairs)
    try:
        sides = split_by_group(rows, fraction, seed)
    except UserError:
        return
    assert_sound(sides, rows)
    check_split(*sides, labels_of(rows))


@settings(deadline=None)
@given(PAIRS, st.integers(2, 4), st.integers(0, 99))
def test_rows_with_one_class_a_source_are_refused_only_when_impossible(
    pairs: list[tuple[str, int]], num_folds: int, seed: int
) -> None:
    rows = make_rows((label, f"{label}{group}") for label, group in pairs)
    if fewest_groups(rows) < num_folds:
        with pytest.raises(UserError, match=f"at least {num_folds} source videos"):
            group_folds(rows, num_folds, seed)
        return
    folds = group_folds(rows, num_folds, seed)
    for sides in folds:
        assert_sound(sides, rows)
    assert sorted(row.name for _, test in folds for row in test) == sorted(row.name for row in rows)


@settings(deadline=None)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(pairs: list[tuple[str, int]], chance: random.Random) -> None:
    rows = make_rows((label, f"{label}{group}") for label, group in pairs)
    if fewest_groups(rows) < 2:
        return
    shuffled = chance.sample(rows, len(rows))
    assert split_by_group(shuffled, 0.3, 1) == split_by_group(rows, 0.3, 1)
    assert group_folds(shuffled, 2, 1) == group_folds(rows, 2, 1)
    assert leave_one_group_out(shuffled) == leave_one_group_out(rows)


@settings(deadline=None)
@given(PAIRS)
def test_leaving_one_group_out_takes_each_once(pairs: list[tuple[str, int]]) -> None:
    rows = make_rows(pairs)
    if fewest_groups(rows) < 2:
        with pytest.raises(UserError, match="at least 2 source videos"):
            leave_one_group_out(rows)
        return
    folds = leave_one_group_out(rows)
    assert [groups_of(test) for _, test in folds] == [{group} for group in sorted(groups_of(rows))]
    for train, test in folds:
        check_split(train, test, labels_of(rows), test_may_lack_classes=True)
        assert len(train) + len(test) == len(rows)


def test_sources_with_several_classes_are_split_too() -> None:
    rows = make_rows((label, group) for group in range(10) for label in "abcdef" if (group + ord(label)) % 3)
    for seed in range(20):
        rest, held_out = split_by_group(rows, 0.2, seed)
        assert_sound((rest, held_out), rows)
        assert len(groups_of(held_out)) in (2, 3)


def test_shares_come_out_as_asked() -> None:
    rows = make_rows((label, f"{label}{i // 4}") for label in "abcde" for i in range(100))
    for seed in range(5):
        _, held_out = split_by_group(rows, 0.2, seed)
        counts = [sum(row.label == label for row in held_out) for label in "abcde"]
        assert all(abs(count - 20) <= 4 for count in counts)


def test_the_seed_changes_the_split_and_nothing_else_does() -> None:
    rows = make_rows(("ab"[i % 2], i // 2) for i in range(80))
    assert split_by_group(rows, 0.25, 3) == split_by_group(rows, 0.25, 3)
    assert len({split_by_group(rows, 0.25, seed)[1] for seed in range(10)}) > 5


def test_real_clips_fall_into_even_folds(shared_data: Path) -> None:
    found = read_annotations(DataConfig(format="folder", root=str(shared_data / "surv_fight")))
    folds = group_folds(found.splits["all"], 5, 0)
    for train, test in folds:
        check_split(train, test, found.labels)
        for label in found.labels:
            assert 25 <= sum(row.label == label for row in test) <= 35


def test_real_sequences_are_left_out_in_order(shared_data: Path) -> None:
    found = read_annotations(DataConfig(format="ut_interaction", root=str(shared_data / "ut_interaction")))
    folds = leave_one_group_out(found.splits["all"])
    assert [test[0].group for _, test in folds] == [f"sequence_{number:02d}" for number in range(1, 11)]
    for train, test in folds:  # sequence 6 has no punch
        check_split(train, test, found.labels, test_may_lack_classes=True)


def test_a_shared_source_is_named() -> None:
    train, test = make_rows([("a", 1), ("b", 2), ("a", 3)]), make_rows([("a", 3), ("b", 2)])
    with pytest.raises(UserError, match="Sources 2: g2, g3"):
        check_split(train, test, "ab")
    check_split(train, test, "ab", may_share_groups=True)


def test_a_lacking_class_is_named() -> None:
    with pytest.raises(UserError, match=r"training side .* 1: b"):
        check_split(make_rows([("a", 1)]), make_rows([("a", 2), ("b", 3)]), "ab")
    with pytest.raises(UserError, match=r"held-out side .* 2: b, c"):
        check_split(make_rows([("a", 1), ("b", 3), ("c", 4)]), make_rows([("a", 2)]), "abc")
    with pytest.raises(UserError, match=r"held-out side"):
        check_split(make_rows([("a", 1)]), [], "a")


def test_a_class_with_one_source_is_named() -> None:
    with pytest.raises(UserError, match=r"b \(1: g7\)"):
        split_by_group(make_rows([("a", 1), ("a", 2), ("b", 7), ("b", 7)]), 0.5, 0)


def test_what_no_split_can_do_is_refused() -> None:
    # Each class has two sources; c needs g1 and g2 apart, but so do all pairs of three sources: one side has one.
    rows = make_rows([("a", 1), ("a", 2), ("b", 2), ("b", 3), ("c", 1), ("c", 3)])
    with pytest.raises(UserError, match="some sources hold several classes"):
        split_by_group(rows, 0.5, 0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_share_is_between_0_and_1(fraction: float) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        split_by_group(make_rows([("a", 1), ("a", 2)]), fraction, 0)


def test_nothing_cannot_be_split() -> None:
    with pytest.raises(UserError, match="there are none"):
        split_by_group([], 0.5, 0)
    with pytest.raises(UserError, match="at least 2 folds"):
        group_folds(make_rows([("a", 1)]), 1, 0)
