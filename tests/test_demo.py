"""The demo from end to end on a small motion set, and why the frame average cannot win."""

from __future__ import annotations

import csv
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import demo
from pipeline.checkpoint import read_description
from pipeline.cli import main
from pipeline.config import Experiment
from pipeline.datasets.motion import BACKGROUND, PARTNER, MotionSetConfig
from pipeline.evaluation import Evaluation, VideoResult
from pipeline.options import DemoOptions
from pipeline.terminal import PlainConsole
from tests.stopping import signal_in_batch


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small set of small pictures, a small head, and an epoch of each training."""
    small = MotionSetConfig(num_train_clips=3, num_val_clips=1, num_test_clips=1, size_px=32, num_untrimmed=1)
    monkeypatch.setattr("pipeline.datasets.motion.MotionSetConfig", lambda: small)
    experiment = demo.motion_experiment()
    transform = replace(experiment.transform, fit_size_px=32, input_size_px=32)
    model, training = replace(experiment.model, hidden_channels=8), replace(experiment.training, epochs=1)
    quick = replace(experiment, transform=transform, model=model, training=training)
    monkeypatch.setattr(demo, "motion_experiment", lambda: quick)
    often = {"min_action_seconds": 0.6, "max_action_seconds": 0.8, "min_rest_seconds": 0.3, "max_rest_seconds": 0.5}
    long = replace(demo.long_videos(), size_px=32, num_untrimmed=8, untrimmed_seconds=20.0, **often)
    monkeypatch.setattr(demo, "long_videos", lambda: long)
    stream_experiment = demo._stream_experiment

    def one_epoch(*given: Any) -> Experiment:
        stream = stream_experiment(*given)
        return replace(stream, training=replace(stream.training, epochs=1))

    monkeypatch.setattr(demo, "_stream_experiment", one_epoch)


@pytest.mark.usefixtures("quick")
def test_a_signal_ends_it_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signal_in_batch(monkeypatch, 1, signal.SIGTERM)
    assert main(["demo", "--output_dir", str(tmp_path / "demo")]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.endswith("clipgru demo: stopped by SIGTERM; the same command begins again\n")


@pytest.mark.usefixtures("quick")
def test_the_demo_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = demo.run_demo(DemoOptions(output_dir=str(tmp_path / "demo")), PlainConsole())
    folder = tmp_path / "demo"
    assert json.loads((folder / "summary.json").read_text()) == summary
    timeline = {f"timeline_{name}" for name in ("f1_10", "f1_25", "f1_50", "edit", "frame_accuracy")}
    assert set(summary) == {"accuracy_convgru", "accuracy_mean", "seconds"} | timeline
    assert 0 <= summary["timeline_f1_50"] <= summary["timeline_f1_25"] <= summary["timeline_f1_10"] <= 1
    assert summary["accuracy_mean"] <= 0.5
    with (folder / "stream" / "evaluation_test" / "segments.csv").open() as stream:
        videos = {row["path"] for row in csv.DictReader(stream)}
    with (folder / "long_videos" / "untrimmed" / "manifest.csv").open() as stream:
        assert videos < {row["path"] for row in csv.DictReader(stream)}
    described = read_description(folder / "stream" / "model.safetensors")
    assert described["task"] == "timeline"
    assert described["provenance"]["initial_model"], "it goes on from the model of clips"
    printed = "".join(capsys.readouterr().err.split())
    for path in (
        "summary.json",
        "stream/model.safetensors",
        "stream/report.html",
        "convgru/model.safetensors",
        "mean/model.safetensors",
        "convgru/report.html",
    ):
        assert "".join(str(folder / path).split()) in printed
        assert (folder / path).exists()


def test_an_order_blind_model_gets_one_clip_of_each_pair_at_most() -> None:
    """Whatever it answers, it answers the same for a clip and its reversal, which has another label."""
    for answer in PARTNER:
        results = [VideoResult(f"{label}/0.mp4", label, answer, ()) for label in PARTNER]
        results += [VideoResult("background/0.mp4", BACKGROUND, answer, ())]
        evaluation = demo.paired(Evaluation((*sorted(PARTNER), BACKGROUND), tuple(results)))
        assert evaluation.num_videos == len(PARTNER)
        for label, partner in PARTNER.items():
            assert sum(r.predicted == r.label for r in evaluation.results if r.label in (label, partner)) <= 1
