"""A model of timelines on frozen features of a video network, whole: trained, kept, and run over files and streams."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.checkpoint import load_model_file
from pipeline.cli import main
from pipeline.config import Experiment, InferenceConfig
from pipeline.errors import UserError
from pipeline.inference import Model
from pipeline.models.backbones import BACKBONES
from pipeline.sampling import grid_range, grid_seconds
from pipeline.training.fit import train
from tests.long_videos import frame_experiment, make_long_videos
from tests.small import small_experiment, tiny_of_clips

NUM_FRAMES = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_long_videos(tmp_path_factory.mktemp("long"), num_train=3)


def video_experiment(root: Path, folder: Path) -> Experiment:
    """r3d_18, frozen with random weights; its features are made once."""
    base = frame_experiment(root, folder, backbone_lr_scale=0.0, train_frames=None, epochs=12, learning_rate=0.03)
    return replace(
        base,
        data=replace(base.data, cache="features", cache_dir=str(folder / "cache")),
        model=replace(base.model, backbone="r3d_18", dropout=0.0),
        transform=replace(base.transform, fit_size_px=32, input_frames=NUM_FRAMES),
        sequence=replace(base.sequence, delay_frames=0),
    )


def test_a_timeline_is_learnt_and_a_stream_answers_as_the_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small network stands in for r3d_18: it tells colours apart all the same."""
    monkeypatch.setitem(BACKBONES, "r3d_18", partial(tiny_of_clips, NUM_FRAMES))
    result = train(video_experiment(root, tmp_path), quiet=True)
    file = load_model_file(result.model_path)
    assert (file.transform.input_frames, file.recognizer.backbone.num_frames) == (NUM_FRAMES, NUM_FRAMES)
    model, path = Model(file), str(root / "0.mp4")
    predictions = list(model.predict(path, config=InferenceConfig(batch_size=5)))
    starts = [round(p.start_seconds * file.sampling.sample_fps) for p in predictions]
    assert starts == list(range(NUM_FRAMES - 1, NUM_FRAMES - 1 + len(predictions)))
    check_stream(model, path, predictions)
    truth = {float(second): label for second, label in labels_of(root, "0.mp4")}
    right = [p.label == truth.get(float(int(p.start_seconds)), "background") for p in predictions]
    assert np.mean(right) > 0.6  # one label of three


def labels_of(root: Path, name: str) -> list[tuple[str, str]]:
    lines = [line.split(",") for line in (root / "manifest.csv").read_text().splitlines()[1:]]
    return [(start, label) for path, label, start, *_ in lines if path == name]


def check_stream(model: Model, path: str, predictions: list[Any]) -> None:
    """Frame by frame, as from a camera."""
    with model.opener.open(path) as reader:
        times = grid_seconds(grid_range(model.file.sampling.sample_fps, 0.0, reader.info.duration_seconds), 5.0)
        frames = reader.at(times).frames
    embedder, scorer = model.embedder(), model.scorer(InferenceConfig(mode="stream"))
    fitted = [model.fit(frame.permute(1, 2, 0).numpy(), 1) for frame in frames]  # [3, H, W] -> [H, W, 3]
    features = [embedder.push(torch.from_numpy(frame)[None]) for frame in fitted]
    assert [some is None for some in features[:NUM_FRAMES]] == [True] * (NUM_FRAMES - 1) + [False]
    scored = list(itertools.chain.from_iterable(scorer.push(some) for some in features if some is not None))
    expected = [dict(p.top_k) for p in predictions]
    for ours, theirs in zip(scored, expected, strict=True):
        np.testing.assert_allclose(ours.probabilities, [theirs[label] for label in model.labels], atol=1e-5)


CLIPS = ["--transform.input_frames", "4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.backbone", "r3d_18"], "model.backbone r3d_18 reads clips, and transform.input_frames is 1: set"),
        (CLIPS, "model.backbone tiny reads single pictures, and transform.input_frames is 4: set"),
        ([*CLIPS, "--transform.input", "rgb_diff"], "transform.input rgb_diff and transform.input_frames 4: a video"),
        ([*CLIPS, "--sampling.mode", "uniform"], "sampling.mode uniform and transform.input_frames 4: a video"),
        (["--transform.input_frames", "0"], "transform.input_frames must be between 1 and 256, got 0"),
    ],
)
def test_settings_that_do_not_agree_are_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    given = ["--model.backbone", "tiny", "--model.weights", "none", "--training.freeze_batch_norm", "false"]
    assert main(["train", "--data.root", str(tmp_path), *given, *options]) == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.split())
    assert "Traceback" not in said


def test_features_of_scattered_frames_are_not_cached() -> None:
    experiment = small_experiment(Path("videos"), Path("runs"), backbone_lr_scale=0.0)
    with pytest.raises(UserError, match=r"set sampling\.mode dense and sampling\.short_video hold_last"):
        replace(
            experiment,
            data=replace(experiment.data, cache="features"),
            model=replace(experiment.model, backbone="r3d_18"),
            sampling=replace(experiment.sampling, short_video="loop"),
            transform=replace(experiment.transform, input_frames=4),
        )
