"""Models of timelines as files: the same answers over thousands of frames, in 8 bits too, and told costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.checkpoint import ModelFile, save_model
from pipeline.cli import main
from pipeline.config import DataConfig, InferenceConfig, SequenceConfig
from pipeline.datasets.formats import read_annotations
from pipeline.errors import UserError
from pipeline.export.files import export_onnx
from pipeline.export.pieces import Pieces, make_pieces
from pipeline.inference import Model, load_model
from pipeline.inference.onnx_file import CONTEXT, SCORES, STEP_FRAME, read_onnx
from pipeline.inference.onnx_runtime import initial_states, open_session
from pipeline.timeline_evaluation import evaluate_timelines
from tests.long_videos import make_long_videos
from tests.small import small_model

pytestmark = pytest.mark.usefixtures("one_torchlib")
LABELS = ("green", "red", "background")


def timeline_model(**model: Any) -> ModelFile:
    settings = {"heads": ("gru",), "refinement_stages": 2, **model}
    return replace(
        small_model(input="rgb+rgb_diff", **settings),
        labels=LABELS,
        task="timeline",
        sequence=SequenceConfig(delay_frames=3, sequence_frames=16),
    )


@pytest.fixture(scope="module")
def lively() -> ModelFile:
    """As lively as a trained one."""
    file = timeline_model()
    with torch.no_grad():
        for weight in file.recognizer.parameters():
            weight.mul_(3)
    return file


@pytest.fixture
def _lively_pieces(lively: ModelFile, lively_pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    """``export_onnx`` of that model finds its graphs made: torch.export takes seconds."""
    monkeypatch.setattr("pipeline.export.files.make_pieces", lambda file: lively_pieces)


@pytest.fixture(scope="module")
def lively_pieces(lively: ModelFile, one_torchlib: None) -> Pieces:
    return make_pieces(lively)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_long_videos(tmp_path_factory.mktemp("long"))


@pytest.mark.usefixtures("_lively_pieces")
def test_ten_thousand_steps_of_a_step_file_are_those_of_torch(lively: ModelFile, tmp_path: Path) -> None:
    """Nothing builds up: neither in the heads' states nor in those of the stages that refine."""
    file = lively
    export_onnx(file, tmp_path / "m")
    features = np.random.default_rng(0).normal(size=(10_000, file.recognizer.num_features)).astype(np.float32)
    scored = []
    for model in (Model(file), load_model(tmp_path / "m.step.onnx")):
        scorer = model.scorer(InferenceConfig())
        parts = [_as_read_by(model, part) for part in np.split(features, 10)]
        answers = [answer for part in parts for answer in scorer.push(part)] + scorer.finish()
        assert [answer.window.start for answer in answers] == list(range(1, 10_001))
        scored.append(np.stack([answer.probabilities for answer in answers]))
    assert np.abs(scored[0] - scored[1]).max() < 1e-4
    assert scored[0].std(axis=0).min() > 1e-2


def test_a_video_networks_step_carries_the_frames_that_it_looks_back_at(tmp_path: Path) -> None:
    """Both files answer on a stream what torch does; the step by itself, from the frames and its state alone, too."""
    file = replace(
        small_model(input_frames=4, heads=("gru",)), labels=LABELS, task="timeline", sequence=SequenceConfig()
    )
    export_onnx(file, tmp_path / "m")
    frames = np.random.default_rng(0).integers(0, 256, (9, 3, 40, 40), dtype=np.uint8)
    answers = [scores_of(Model(file), frames, [9])]
    answers += [scores_of(load_model(tmp_path / f"m.{kind}.onnx"), frames, [2, 3, 4]) for kind in ("clip", "step")]
    described, graph = read_onnx(tmp_path / "m.step.onnx")
    run, states = open_session(graph), initial_states(described.states, batch=1) | {CONTEXT: frames[None, :3]}
    steps = []
    for frame in frames[3:]:
        scores, *following = run([SCORES, *(f"next_{name}" for name in states)], {STEP_FRAME: frame[None], **states})
        states = dict(zip(states, following, strict=True))
        steps.append(scores[0])
    np.testing.assert_array_equal(states[CONTEXT], frames[None, -3:])
    for found in (*answers[1:], np.stack(steps)):
        np.testing.assert_allclose(found, answers[0], atol=1e-5)


def scores_of(model: Model, frames: Any, portions: list[int]) -> Any:
    embedder, scorer, found = model.embedder(), model.scorer(InferenceConfig()), []
    for portion in np.split(frames, np.cumsum(portions)[:-1]):
        features = embedder.push(portion)
        found += [] if features is None else scorer.push(features)
    assert [score.window.start for score in found] == list(range(3, len(frames)))
    return np.stack([score.probabilities for score in found])


def _as_read_by(model: Model, features: Any) -> Any:
    return torch.from_numpy(features) if isinstance(model.file, ModelFile) else features


@pytest.mark.usefixtures("_lively_pieces")
def test_int8_of_a_timeline_is_calibrated_on_sequences_and_judged_on_whole_videos(
    lively: ModelFile, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = lively
    save_model(tmp_path / "model.safetensors", file)
    data = ["--data.format", "manifest", "--data.root", str(root), "--data.num_workers", "0"]
    options = ["--int8", "--calibration_clips", "3", "--split", "test", "--quiet"]
    assert main(["export", str(tmp_path / "model.safetensors"), *data, *options]) == 0
    cost = json.loads(capsys.readouterr().out)["int8"]
    rows = read_annotations(DataConfig(format="manifest", root=str(root))).splits["test"]
    expected = evaluate_timelines(Model(file), rows).figures.figures
    assert cost["num_videos"] == 1
    for name in ("frame_accuracy", "f1_25"):
        assert cost[name] == pytest.approx(expected[name].value, abs=1e-6)
    assert 0 < cost["greatest_score_difference"] < 0.2
    assert cost["same_answer"] > 0.5
    for name in ("model.int8.step.onnx", "model.int8.clip.onnx"):
        found = evaluate_timelines(load_model(tmp_path / name), rows).figures.figures
        assert found["frame_accuracy"].value == pytest.approx(cost["frame_accuracy_int8"], abs=0.05)


def test_a_file_that_reads_both_ways_answers_by_windows(root: Path, tmp_path: Path) -> None:
    file = timeline_model(bidirectional=True, refinement_stages=1)
    file = replace(file, sampling=replace(file.sampling, num_frames=2))  # the exporter unrolls them
    export_onnx(file, tmp_path / "m")
    model, video = load_model(tmp_path / "m.clip.onnx"), root / "0.mp4"
    with pytest.raises(UserError, match=r"windows of 2 frames, not over whole videos; use --inference\.mode windows"):
        list(model.predict(video))
    windows = InferenceConfig(mode="windows")
    found, expected = (list(some.predict(video, config=windows)) for some in (model, Model(file)))
    np.testing.assert_allclose([p.score for p in found], [p.score for p in expected], atol=1e-5)
