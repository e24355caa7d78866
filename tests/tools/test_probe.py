"""Probes of frozen features: a small run, and that no test video of a fold is looked at for that fold."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import Experiment, to_yaml
from pipeline.protocols.folds import PROTOCOLS
from tests.small import small_experiment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def tools_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")


@pytest.fixture
def words(motion_root: Path, tmp_path: Path) -> list[str]:
    """Of a run that asks for a table."""
    experiment = small_experiment(motion_root, tmp_path, backbone_lr_scale=0.0)
    data = replace(experiment.data, cache="features", cache_dir=str(tmp_path / "cache"))
    (tmp_path / "small.yaml").write_text(to_yaml(replace(experiment, data=data)))
    found = ["--config", str(tmp_path / "small.yaml"), "--root", str(motion_root), "--protocol", "group_5_fold"]
    return [*found, "--seeds", "1", "--output", str(tmp_path), "--variants", "pictures", "changes"]


def test_a_table_is_written(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import probe

    monkeypatch.setattr(sys, "argv", ["probe.py", *words])
    assert probe.main() == 0
    text = (tmp_path / "probes_small.md").read_text()
    assert "| changes |" in text
    assert "part 5" in text


def test_part_k_never_sees_the_test_videos_of_fold_k(
    words: list[str], tmp_path: Path, motion_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features that are the label on training videos and noise on the test videos of fold 1: part 1 stays perfect."""
    import probe

    def of_rows(experiment: Experiment, rows: Any, labels: tuple[str, ...]) -> Any:
        hidden = {row.path for row in PROTOCOLS["group_5_fold"](experiment)[0].test}
        rng = np.random.default_rng(0)
        known = np.eye(len(labels))[[labels.index(row.label) for row in rows]]
        noise = rng.normal(size=known.shape)
        found = np.where([[row.path in hidden] for row in rows], noise, known)
        return found.repeat(200, axis=1).astype(np.float32)  # as many as the regularisation is made for

    class Arguments:
        config, root, protocol, seeds = tmp_path / "small.yaml", str(motion_root), "group_5_fold", 1

    monkeypatch.setattr(probe, "summaries", of_rows)
    first, *others = probe.inside(probe.experiment_of("", Arguments), Arguments)
    assert first == 100.0
    assert max(others) < 100.0
