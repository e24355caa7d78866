"""The engine against the obvious way: cut every window out of the file and run the whole model on it."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import os
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from pipeline.calibration import Calibration
from pipeline.checkpoint import ModelFile
from pipeline.clip import Prediction
from pipeline.config import InferenceConfig
from pipeline.decode import open_video
from pipeline.errors import DecodeError, UserError
from pipeline.inference import Model, pick_device
from pipeline.sampling import grid_range, grid_seconds, lengthen, window_starts
from pipeline.timeline.scores import WindowScores
from pipeline.transforms.frames import ClipTransform, fit_frames
from tests.small import small_model


@pytest.fixture(scope="module")
def long_video(motion_root: Path) -> Path:
    (path,) = (motion_root / "untrimmed").glob("*.mp4")
    return path


def scores_of(model: Model, path: Path, **settings: object) -> list[WindowScores]:
    with open_video(path) as reader:
        return list(model.score_windows(reader, InferenceConfig(**settings)))


def window_by_window(file: ModelFile, path: Path, stride: int) -> list[tuple[int, np.ndarray]]:
    """Grid start and probabilities of each window, computed alone from its own frames."""
    transform = ClipTransform(file.transform, file.normalization)
    context, results = file.transform.lookback_frames, []
    with open_video(path) as reader, torch.inference_mode():
        grid = grid_range(file.sampling.sample_fps, 0.0, reader.info.duration_seconds)
        needed = file.sampling.num_frames + context
        frames = reader.at(grid_seconds(list(grid), file.sampling.sample_fps)).frames
        for start in window_starts(len(grid), needed, stride):
            places = lengthen(list(range(len(grid)))[start : start + needed], needed, file.sampling.short_video)
            clip = transform.evaluate(fit_frames(frames[places], file.transform)[None])
            results.append((start, file.recognizer(clip)[0].softmax(-1).numpy()))
    return results


@pytest.mark.parametrize("head", ["mean", "gru", "lstm", "convgru", "convlstm"])
@pytest.mark.parametrize("stride", [1, 3, 8])
def test_windows_score_as_if_each_were_computed_alone(long_video: Path, head: str, stride: int) -> None:
    file = small_model(heads=(head,), readout="mean" if stride == 3 else "last")
    got = scores_of(Model(file), long_video, stride_frames=stride, batch_size=7)
    expected = window_by_window(file, long_video, stride)
    assert [s.window.start for s in got] == [start for start, _ in expected]
    for ours, (_, theirs) in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs, atol=1e-5)


def test_windows_of_differences_and_of_bidirectional_heads(long_video: Path) -> None:
    file = small_model(heads=("gru",), bidirectional=True, input="rgb_diff")
    got = scores_of(Model(file), long_video, stride_frames=2, batch_size=5)
    expected = window_by_window(file, long_video, 2)
    assert [s.window.start for s in got] == [start for start, _ in expected]
    np.testing.assert_allclose([s.probabilities for s in got], [p for _, p in expected], atol=1e-5)


def test_the_batch_size_changes_nothing(long_video: Path) -> None:
    model = Model(small_model())
    whole = scores_of(model, long_video, batch_size=1000)
    for batch_size in (1, 4, 33):
        got = scores_of(model, long_video, batch_size=batch_size)
        np.testing.assert_allclose([s.probabilities for s in got], [s.probabilities for s in whole], atol=1e-5)


@pytest.fixture(scope="module")
def three_minutes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "three_minutes.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(1800):
            image = np.full((48, 64, 3), number % 251, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("stride", [1, 4, 16])
def test_each_frame_of_a_long_video_passes_the_backbone_once(three_minutes: Path, stride: int) -> None:
    file = small_model()
    file = replace(file, sampling=replace(file.sampling, num_frames=16))
    sizes: list[int] = []  # a list, since pieces of a batch run at the same time
    model = Model(file)
    model.embed.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    got = scores_of(model, three_minutes, stride_frames=stride)
    assert sum(sizes) == 900 == model.stats.frames_embedded == model.stats.frames_decoded  # 180 s, 5 a second
    starts = list(range(0, 885, stride))
    starts += [884] * (starts[-1] != 884)
    assert [scores.window.start for scores in got] == starts
    assert model.stats.windows == len(starts)
    # Every frame of a window that an earlier one has read, counted one by one.
    read, reused = 0, 0
    for start in starts:
        reused += max(0, read - start)
        read = start + 16
    assert model.stats.frames_reused == reused


def test_a_stream_of_a_file_is_the_sequence_scored_once(long_video: Path) -> None:
    for input in ("rgb", "rgb_diff", "rgb+rgb_diff"):
        file = small_model(input=input)
        model = Model(file)
        got = scores_of(model, long_video, mode="stream", batch_size=7)
        context = file.transform.lookback_frames
        with open_video(long_video) as reader, torch.inference_mode():
            grid = grid_range(file.sampling.sample_fps, 0.0, reader.info.duration_seconds)
            frames = reader.at(grid_seconds(list(grid), file.sampling.sample_fps)).frames
            clip = ClipTransform(file.transform, file.normalization).evaluate(fit_frames(frames, file.transform)[None])
            expected = file.recognizer.score(file.recognizer.embed(clip[0])[None])[0][0].softmax(-1)
        assert [s.window.start for s in got] == list(grid)[context:]
        np.testing.assert_allclose([s.probabilities for s in got], expected, atol=1e-5)
        assert model.stats.frames_embedded == model.stats.windows == len(grid) - context
        assert model.stats.frames_reused == 0


def test_the_stages_are_timed(long_video: Path) -> None:
    model = Model(small_model())
    scores_of(model, long_video)
    stats = model.stats
    assert min(stats.decode_seconds, stats.embed_seconds, stats.score_seconds) > 0


def test_a_run_given_up_half_way_leaves_no_thread(long_video: Path) -> None:
    model = Model(small_model())
    predictions = model.predict(long_video, config=InferenceConfig(batch_size=2))
    next(predictions)
    predictions.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "clipgru-decode"]


@pytest.mark.parametrize("policy", ["hold_last", "loop"])
def test_a_video_shorter_than_a_window_makes_one(motion_root: Path, policy: str) -> None:
    path = next((motion_root / "test" / "grows").iterdir())
    file = small_model()
    file = replace(file, sampling=replace(file.sampling, num_frames=20, short_video=policy))
    (got,) = scores_of(Model(file), path)
    ((_, expected),) = window_by_window(file, path, 1)
    np.testing.assert_allclose(got.probabilities, expected, atol=1e-5)
    (prediction,) = Model(file).predict(path)
    assert (prediction.start_seconds, prediction.end_seconds) == (0.0, 1.6)


def test_predictions_come_while_the_video_runs(long_video: Path) -> None:
    model = Model(small_model())
    predictions = model.predict(long_video, config=InferenceConfig(batch_size=4), top_k=2)
    first = next(predictions)
    assert model.stats.frames_decoded < 30
    assert (first.start_seconds, first.end_seconds) == (0.0, 0.8)
    assert first.top_k[0] == (first.label, first.score)
    assert first.top_k[0][1] >= first.top_k[1][1]
    predictions.close()


def test_segments_cover_the_video_in_order(long_video: Path) -> None:
    segments = list(Model(small_model()).segments(long_video))
    assert segments
    assert segments[0].start_seconds == 0.0
    assert all(a.end_seconds <= b.start_seconds for a, b in itertools.pairwise(segments))


def test_errors(tmp_path: Path) -> None:
    model = Model(small_model())
    with pytest.raises(DecodeError, match=r"absent\.mp4"):
        next(model.predict(tmp_path / "absent.mp4"))
    with pytest.raises(UserError, match=r"device 'gpu9': torch .* has cpu"):
        pick_device("gpu9")


@pytest.mark.parametrize(
    "source", [np.zeros((4, 48, 64, 3), np.uint8), torch.zeros(4, 3, 48, 64), ["a.mp4"], b"a.mp4", 0]
)
def test_what_is_no_path_is_told_when_it_is_handed_in(source: Any) -> None:
    model = Model(small_model())
    for use in (model.predict, model.segments):
        with pytest.raises(UserError, match=f"reads the path of one video file, not a {type(source).__name__}"):
            use(source)


def test_models_and_predictions_print_themselves() -> None:
    assert repr(Model(small_model(5))) == (
        "<Model of 5 labels: class 0, class 1, class 2, class 3, ...; 4 frames at 5 a second, 32 px>"
    )
    answer = Prediction("a.mp4", 12.0, 14.0, "wave", 0.934, (("wave", 0.934), ("clap", 0.04)), is_unknown=True)
    assert str(answer) == "12.0 to 14.0 s: wave 93 %, clap 4 % (unknown)"


def test_a_model_is_not_pickled(tmp_path: Path) -> None:
    for use in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="send the path of its file"):
            use(Model(small_model()))


def _predict_in_child(model: Model, video: Path, queue: multiprocessing.Queue[str]) -> None:
    for use in (lambda: next(model.predict(video)), lambda: model.embedder().push(np.zeros((1, 3, 40, 40), np.uint8))):
        with pytest.raises(UserError) as caught:
            use()
        queue.put(str(caught.value))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_model_is_refused_after_a_fork(long_video: Path) -> None:
    context, model = multiprocessing.get_context("fork"), Model(small_model())
    first = next(model.predict(long_video))  # its threads are at work, and not in the fork
    queue: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=_predict_in_child, args=(model, long_video, queue))
    child.start()
    said = [queue.get(timeout=60) for _ in range(2)]
    child.join()
    assert all("used in its fork" in words and "call load_model there" in words for words in said)
    assert next(model.predict(long_video)) == first


def test_scores_that_are_no_numbers_are_refused(long_video: Path) -> None:
    """Weights that are finite, and too large together."""
    file = replace(small_model(), calibration=Calibration(temperature=0.01))
    with torch.no_grad():
        file.recognizer.classifier.weight.fill_(3e38)
    for mode in ("windows", "stream"):
        with pytest.raises(UserError, match="scores are no finite numbers"):
            list(Model(file).predict(long_video, config=InferenceConfig(mode=mode)))
