"""A protocol of timelines: folds without sight of their test videos, means over them, intervals over videos."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.checkpoint import load_model_file
from pipeline.cli import main
from pipeline.config import DataConfig, Experiment
from pipeline.errors import UserError
from pipeline.protocols import running
from pipeline.protocols.folds import PROTOCOLS
from pipeline.protocols.running import MODEL
from pipeline.protocols.timelines import (
    FRAME_BY_FRAME,
    WINDOWS,
    TimelineFold,
    TimelineProtocol,
    frame_by_frame,
)
from pipeline.timeline.metrics.figures import resample_videos
from tests.runs import made_timelines
from tests.sandbox import furnish_ms_tcn
from tests.test_timeline_results import explained_keys

GROUPS = ("mon", "tue", "wed")


def furnish_groups(root: Path) -> None:
    """Features of two videos a day, and one of Tuesday in which nothing happens."""
    rng, lines = np.random.default_rng(0), ["path,label,start_seconds,end_seconds,group"]
    for number in range(7):
        np.save(root / f"{number}.npy", rng.normal(size=(40, 4)).astype(np.float32))
        if number == 6:
            lines.append("6.npy,background,0,1,tue")
            continue
        for label, start in (("cut", 2), ("mix", 9)):
            lines.append(f"{number}.npy,{label},{start + number % 2},{start + 5},{GROUPS[number // 2]}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")


def words_for(root: Path, output: Path) -> list[str]:
    words = f"""--protocol leave_one_group_out --task timeline --data.format manifest --data.root {root}
        --data.features_fps 2 --data.val_fraction 0 --sampling.sample_fps 2 --sampling.num_frames 8
        --model.backbone features --model.heads [gru] --model.hidden_channels 4 --training.epochs 1
        --training.backbone_lr_scale 0 --training.precision fp32 --output_dir {output} --name days"""
    return ["evaluate", *words.split()]


def test_folds_by_group_and_what_stands_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish_groups(tmp_path)
    words = words_for(tmp_path, tmp_path / "runs")
    assert main(words) == 0
    told, folder = json.loads(capsys.readouterr().out), tmp_path / "runs" / "days"
    accuracies: dict[str, list[float]] = {}
    for number, group in enumerate(GROUPS, start=1):
        for kind in (MODEL, FRAME_BY_FRAME):
            fold = folder / kind / "seed_0" / f"fold_{number:02}"
            known = load_model_file(fold / "model.safetensors").videos
            tested = {result["name"] for result in json.loads((fold / "results.json").read_text())["own"]["results"]}
            assert tested == {f"{2 * number - 2}.npy", f"{2 * number - 1}.npy"} | (
                {"6.npy"} if group == "tue" else set()
            )
            assert {video.name for video in known.train} == {f"{k}.npy" for k in range(7)} - tested
    lines = [line.split(",") for line in (folder / "evaluation" / "folds.csv").read_text().splitlines()[1:]]
    for kind, *_, accuracy in lines:
        accuracies.setdefault(kind, []).append(float(accuracy))
    assert {kind: len(values) for kind, values in accuracies.items()} == {MODEL: 3, WINDOWS: 3, FRAME_BY_FRAME: 3}
    summary = json.loads((folder / "evaluation" / "summary.json").read_text())
    assert summary["on_grid"]["frame_accuracy"] == pytest.approx(np.mean(accuracies[MODEL]), abs=1e-4)
    for kind in (WINDOWS, FRAME_BY_FRAME):
        beside = summary["beside"][kind]
        assert beside["on_grid"]["frame_accuracy"] == pytest.approx(np.mean(accuracies[kind]), abs=1e-4)
        gain = summary["on_grid"]["edit"] - beside["on_grid"]["edit"]
        assert beside["gain_on_grid"]["edit"][0] == pytest.approx(gain)
    assert not [key for key in {**summary, **beside} if re.sub(r"[0-9.]+", "N", key) not in explained_keys()]
    assert told["num_videos"] == 7
    assert (folder / "report.html").stat().st_size > 0

    monkeypatch.setattr(running, "train", lambda *args, **kwargs: pytest.fail("a finished fold is trained again"))
    assert main([*words, "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == told
    assert main([*words, "--timeline.min_seconds", "2"]) == 2
    assert "folds of other settings" in capsys.readouterr().err


def test_the_baseline_has_no_time(tmp_path: Path) -> None:
    furnish_groups(tmp_path)
    base = Experiment()
    several = replace(base, model=replace(base.model, heads=("gru", "gru"), bidirectional=True, refinement_stages=2))
    found = frame_by_frame(replace(several, sequence=replace(several.sequence, delay_frames=3)))
    assert (found.model.heads, found.model.refinement_stages, found.sequence.delay_frames) == (("none",), 0, 0)
    assert found.training == base.training


def test_official_splits_of_ms_tcn_are_counted(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        furnish_ms_tcn(tmp_path / f"split{number}")
    data = DataConfig(format="ms_tcn", root=str(tmp_path / "split{split}"), features_fps=2.0)
    folds = PROTOCOLS["official_splits"](Experiment(data=data))
    assert [fold.split for fold in folds] == [1, 2, 3]
    assert folds[2].test[0].path == tmp_path / "split3" / "features" / "d.npy"
    one = replace(data, root=str(tmp_path / "split1"))  # a single numbered list
    assert len(PROTOCOLS["official_splits"](Experiment(data=one))) == 1
    with pytest.raises(UserError, match="no numbered splits"):
        PROTOCOLS["official_splits"](Experiment(data=replace(data, root=str(tmp_path / "absent{split}"))))


def folds_of(sizes: tuple[int, ...]) -> TimelineProtocol:
    """Made-up answers to so many videos in each fold, with names of their own."""
    folds = []
    for number, size in enumerate(sizes, start=1):
        made = made_timelines(size + 1, Path("v.mp4"), seed=number)
        results = tuple(replace(result, name=f"{number}/{result.name}") for result in made.results[:size])
        folds.append(TimelineFold(MODEL, 0, number, replace(made, results=results)))
    return TimelineProtocol(tuple(folds))


def test_the_mean_is_over_folds_and_the_interval_over_videos() -> None:
    unequal = folds_of((2, 5))
    means = [fold.evaluation.figures.figures["f1_25"].value for fold in unequal.folds]
    figure = unequal.figures()["f1_25"]
    assert figure.value == pytest.approx(np.mean(means))
    assert figure.low < figure.value < figure.high

    single = folds_of((1,) * 8)  # then it is the plain bootstrap of a mean
    edits = np.array([fold.evaluation.figures.figures["edit"].value for fold in single.folds])
    resampled = [np.average(edits, weights=draw) for draw in resample_videos(8, 1000)]
    figure = single.figures()["edit"]
    assert (figure.low, figure.high) == pytest.approx(tuple(np.percentile(resampled, [2.5, 97.5])))
    assert single.summary()["num_folds"] == 8
