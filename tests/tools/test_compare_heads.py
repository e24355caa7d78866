"""The comparison of heads: its arithmetic, a small run that is stopped and goes on, and the answers to the claims."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline.models.temporal.stack import TEMPORAL_HEADS
from tests.small import small_experiment

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(autouse=True)
def tools_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TOOLS)


def test_every_head_and_a_stack_is_compared() -> None:
    import compare_heads

    named = {head for heads in compare_heads.HEADS.values() for head in heads}
    assert named == set(TEMPORAL_HEADS) - {"none"}  # of a clip it would read the last frame alone
    assert ("gru", "lstm") in compare_heads.HEADS.values()


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_intervals_are_students(count: int) -> None:
    from compare_heads import interval

    values = np.random.default_rng(0).normal(70, 3, count)
    _, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert interval(values.tolist()) == pytest.approx(high - values.mean(), rel=1e-3)
    assert np.isnan(interval([70.0]))


def test_lines_of_code_leave_comments_and_docstrings_out() -> None:
    from benchmarks.claims import lines_of_code

    class Example:
        """Text
        of two lines."""

        size = 1  # a comment

        def double(self) -> int:
            """Text."""
            # another
            return 2 * self.size

    assert lines_of_code(Example) == 4


def test_the_marks_of_the_length_test_are_where_the_labels_say() -> None:
    import torch
    from benchmarks.claims import _marks

    x, labels = _marks(12, 200, torch.Generator().manual_seed(0))
    first, second = x[:, :, 0].argmax(dim=1), x[:, :, 1].argmax(dim=1)
    told_apart = (x[:, :, :2].amax(dim=1) > 1.5).all(dim=1)  # the noise is now and then as high as a mark
    assert told_apart.sum() > 150
    assert ((first > second).long() == labels)[told_apart].float().mean() > 0.95


def test_a_small_comparison_goes_on_where_it_was_stopped(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import compare_heads

    from benchmarks import claims

    experiment = small_experiment(motion_root, tmp_path, epochs=1)
    task = compare_heads.Task(replace(experiment, data=replace(experiment.data, batch_size=4)), limit=8)
    monkeypatch.setattr(compare_heads, "tasks", lambda arguments: {"small": task})
    monkeypatch.setattr(claims, "_TRAINING_STEPS", 2)
    monkeypatch.setattr(claims, "_LENGTHS", (16, 4))
    monkeypatch.setattr(claims, "_LONG", (4,))
    options = ["--heads", "gru", "convgru, gru", "--seeds", "2", "--rounds", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["compare_heads.py", *options])
    assert compare_heads.main() == 0
    record = json.loads((tmp_path / "compare_heads.json").read_text())
    runs = record["runs"]["small"]
    assert sorted(runs) == ["convgru, gru/0", "convgru, gru/1", "gru/0", "gru/1"]
    (table,) = [table for table in record["tables"] if table["title"] == "small"]
    assert table["rows"]["gru"]["accuracy, %"] == pytest.approx(50 * (runs["gru/0"]["top1"] + runs["gru/1"]["top1"]))
    assert (tmp_path / "compare_heads.png").stat().st_size > 1000
    assert (tmp_path / "compare_heads_length.png").stat().st_size > 1000
    page = (tmp_path / "compare_heads.md").read_text()
    assert all(f"## {claim}?" in page for claim in ("Readable", "Extensible", "Flexible", "Parallel"))

    last = record["runs"]["small"].pop("gru/1")
    record["runs"]["small"]["gru/0"]["top1"] = 0.25  # a kept run is not run again
    (tmp_path / "compare_heads.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert compare_heads.main() == 0
    assert capsys.readouterr().err.count("small, ") == 1
    again = json.loads((tmp_path / "compare_heads.json").read_text())["runs"]["small"]
    assert again["gru/0"]["top1"] == 0.25
    assert again["gru/1"] == last  # the seed decides everything
