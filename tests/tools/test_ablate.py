"""The ablation: its variants are settings that exist, and a small run is written and goes on where it was stopped."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import to_yaml
from tests.small import small_experiment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def tools_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")


ALREADY_THERE = {
    "fights": {
        "changes four times as large",
        "frame average",
        "frozen backbone",
        "other videos first",
    },
    "ut_interaction": {
        "changes as they are",
        "outputs not normalised",
        "label smoothing",
        "whole backbone learns",
        "other videos first",
    },
}


@pytest.mark.parametrize("config", list(ALREADY_THERE))
def test_each_variant_changes_the_recipe_in_its_own_way(config: str) -> None:
    from ablate import VARIANTS, WHOLE, changing, variant

    class Arguments:
        root, budget, config, first = "somewhere", "--training.epochs 2", Path(), None

    Arguments.config = ROOT / "configs" / f"{config}.yaml"
    found = [variant(words, Arguments) for words in VARIANTS.values()]  # type: ignore[arg-type]
    assert all(experiment.training.epochs == 2 for experiment in found)
    names = changing(list(VARIANTS), Arguments)  # type: ignore[arg-type]
    left_out = {name for name, experiment in zip(VARIANTS, found, strict=True) if experiment == found[0]}
    assert left_out == set(VARIANTS) - set(names)
    assert left_out == {WHOLE} | ALREADY_THERE[config]
    settings = [to_yaml(experiment) for name, experiment in zip(VARIANTS, found, strict=True) if name in names]
    assert len(set(settings)) == len(settings)


def test_a_small_ablation(motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ablate

    experiment = small_experiment(motion_root, tmp_path, epochs=1)
    experiment = replace(experiment, data=replace(experiment.data, val_fraction=0.0))
    (tmp_path / "small.yaml").write_text(to_yaml(experiment))
    words = ["--config", str(tmp_path / "small.yaml"), "--root", str(motion_root), "--seeds", "2"]
    words += ["--variants", ablate.WHOLE, "frame average", "--protocol", "own_split", "--mirror"]
    words += ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path), "--budget", "--sampling.num_frames 3"]
    monkeypatch.setattr(sys, "argv", ["ablate.py", *words])
    assert ablate.main() == 0
    rows = json.loads((tmp_path / "ablation_small.json").read_text())["rows"]
    assert list(rows) == [ablate.WHOLE, "frame average"]
    difference = rows["frame average"]["right, %"] - rows[ablate.WHOLE]["right, %"]
    assert rows["frame average"]["difference from the recipe"] == pytest.approx(difference)
    assert "| frame average |" in (tmp_path / "ablation_small.md").read_text()
    again = "pipeline.protocols.running.train"
    monkeypatch.setattr(again, lambda *args, **options: pytest.fail("a fold was trained again"))
    assert ablate.main() == 0
