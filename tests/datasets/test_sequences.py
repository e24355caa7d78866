"""Targets, walks and training of timelines: each grid frame has the label of its stretch, each frame is walked over
once an epoch, and a state that is carried on is that of the frames before."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoint import load_model_file, save_model
from pipeline.cli import main
from pipeline.config import DataConfig, Experiment, InferenceConfig, SequenceConfig, TimelineConfig, TimelineNumbers
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.motion import read_motion_segments
from pipeline.datasets.motion_timelines import TIMELINE_SETS, TimelineSet
from pipeline.datasets.sequence_features import Sequences
from pipeline.datasets.sequences import IGNORED, delayed, frame_targets, timeline_labels, timeline_videos
from pipeline.datasets.walks import walk
from pipeline.errors import UserError
from pipeline.export.files import export_onnx
from pipeline.inference import Model, load_model
from pipeline.sampling import Window
from pipeline.timeline.scores import WindowScores
from pipeline.timeline_evaluation import evaluate_timelines
from pipeline.training.fit import train
from pipeline.training.timelines import TimelineLearner
from tests.sandbox import furnish_ms_tcn
from tests.small import small_model
from tests.timelines import LABELS, timeline_experiment
from tests.training.test_training import assert_same, weights_of


def row(label: str, start: float, end: float | None, path: str = "a.mp4") -> VideoRow:
    return VideoRow(Path(path), label, path, start, end)


def targets_of(rows: list[VideoRow], num_frames: int = 10, **config: Any) -> torch.Tensor:
    (video,) = timeline_videos(rows)
    settings = SequenceConfig(**config)
    return frame_targets(video, num_frames, 2.0, timeline_labels(LABELS, settings), settings)


def test_each_grid_frame_has_the_label_of_its_stretch() -> None:
    rows = [row("run", 3.0, None), row("jump", 0.5, 1.6), row("unlabelled", 1.6, 2.1), row("", 0.0, None)]
    assert targets_of(rows).tolist() == [2, 0, 0, 0, IGNORED, 2, 1, 1, 1, 1]
    several = targets_of([row("run", 0.5, 2.0), row("jump", 1.0, None)], 5, labels="several")
    assert several.tolist() == [[0, 0], [0, 1], [1, 1], [1, 1], [1, 0]]
    partly = targets_of([row("unlabelled", 0.0, 1.0), row("run", 0.5, 2.0)], 4, labels="several")
    assert partly[0].isnan().all()
    assert partly[1:].tolist() == [[0, 1], [0, 1], [0, 1]]


def test_overlapping_stretches_need_several_labels() -> None:
    with pytest.raises(UserError, match=r"jump until 2.0 s and run from 1.0 s overlap; set sequence.labels several"):
        targets_of([row("jump", 0.0, 2.0), row("run", 1.0, 3.0)])


def test_a_delayed_answer_is_the_label_of_so_many_frames_before() -> None:
    """The last frame is held for as long."""
    targets = delayed(torch.tensor([5, 6, 7, 8]), 2)
    assert targets.tolist() == [IGNORED, IGNORED, 5, 6, 7, 8]
    dataset = Sequences([[(torch.arange(4.0)[:, None], targets)]], 1, 5, seed=0)
    first, last = (dataset[0, step] for step in range(len(dataset)))
    assert first.features[0, :, 0].tolist() == [0, 1, 2, 3, 3]
    assert last.features[0, :, 0].tolist() == [3]
    assert last.targets.tolist() == [[8]]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 5), st.integers(0, 12), st.integers(0, 10**6)
)
def test_a_walk_passes_every_frame_once_and_in_order(lengths: list[int], lanes: int, longest: int, seed: int) -> None:
    steps = walk(lengths, lanes, longest, (seed,))
    assert len(steps) == len(walk(lengths, lanes, longest, (seed + 1,)))
    for lane in zip(*steps, strict=True):
        pieces = [piece for piece in lane if piece.stop]
        for before, piece in zip([None, *pieces], pieces, strict=False):
            assert piece.stop - piece.start <= (longest or max(lengths))
            goes_on = before is not None and before.video == piece.video
            assert piece.start == (before.stop if goes_on and before else 0)
            assert goes_on or before is None or before.stop == lengths[before.video]
    passed = sorted(
        (piece.video, frame) for step in steps for piece in step for frame in range(piece.start, piece.stop)
    )
    assert passed == [(video, frame) for video, length in enumerate(lengths) for frame in range(length)]


def learner_of(experiment: Experiment) -> TimelineLearner:
    torch.manual_seed(0)
    model = replace(experiment.model, num_features=4, features_fps=2.0)
    return TimelineLearner(replace(experiment, model=model), 3)


@pytest.mark.parametrize("heads", [("gru",), ("lstm",), ("change", "mingru"), ("mean",), ("none",)])
@pytest.mark.parametrize("stages", [0, 2])
def test_scores_in_sequences_are_those_of_the_whole_video(tmp_path: Path, heads: Any, stages: int) -> None:
    experiment = timeline_experiment(tmp_path)
    experiment = replace(experiment, model=replace(experiment.model, heads=heads, refinement_stages=stages))
    learner = learner_of(experiment).eval()
    videos = [torch.randn(n, 4) for n in (21, 8, 13)]
    targets = [torch.zeros(len(video), dtype=torch.int64) for video in videos]
    dataset, seen = Sequences([[pair] for pair in zip(videos, targets, strict=True)], 2, 8, seed=3), {}
    with torch.no_grad():
        for step, pieces in enumerate(dataset.walk.steps(0)):
            batch = dataset[0, step]
            state = learner._begin(batch)
            scores, learner._state = learner.recognizer.score(batch.features, state)
            for lane, piece in enumerate(pieces):
                seen.setdefault(piece.video, []).append(scores[lane, : piece.stop - piece.start])
        for number, video in enumerate(videos):
            expected, _ = learner.recognizer.score(video[None])
            found = torch.cat([part for part in seen[number] if len(part)])
            torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=1e-5)


def test_the_loss_is_cross_entropy_over_known_frames_and_the_smoothing_term(tmp_path: Path) -> None:
    learner = learner_of(timeline_experiment(tmp_path, smoothing_weight=0.5))
    scores, targets = torch.randn(2, 5, 3), torch.tensor([[0, 1, 2, IGNORED, 1], [IGNORED, 0, 0, 1, 2]])
    fit, change = [], []
    logs = scores.double().log_softmax(dim=-1)
    for lane in range(2):
        for step in range(5):
            if targets[lane, step] == IGNORED:
                continue
            fit.append(-logs[lane, step, targets[lane, step]])
            if step:
                change += [min(abs(float(d)), 4.0) ** 2 for d in logs[lane, step] - logs[lane, step - 1]]
    expected = float(torch.stack(fit).mean()) + 0.5 * float(np.mean(change))
    assert float(learner.stage_loss(scores, targets)) == pytest.approx(expected, rel=1e-5)


def test_several_labels_are_learnt_each_by_itself(tmp_path: Path) -> None:
    learner = learner_of(timeline_experiment(tmp_path, labels="several", smoothing_weight=0.0))
    scores, targets = torch.randn(1, 3, 3), torch.tensor([[[1.0, 0, 1], [torch.nan] * 3, [0, 0, 1]]])
    logs = [
        -torch.log(
            scores[0, step, label].sigmoid() if targets[0, step, label] else 1 - scores[0, step, label].sigmoid()
        )
        for step in (0, 2)
        for label in range(3)
    ]
    assert float(learner.stage_loss(scores, targets)) == pytest.approx(float(torch.stack(logs).mean()), rel=1e-5)


@pytest.mark.parametrize("delay", [0, 1])
def test_a_trained_timeline_streams_and_its_delay_pays(tmp_path: Path, delay: int) -> None:
    """The features tell a label one frame late: an answer one frame late can be right everywhere."""
    result = train(timeline_experiment(tmp_path, delay_frames=delay), quiet=True)
    model = Model(result.model)
    assert model.mode(InferenceConfig()) == "stream"
    rows = [row for row in _rows(tmp_path) if row.path.name == "7.npy"]
    found = evaluate_timelines(model, rows).on_grid.figures
    assert found["frame_accuracy"].value > (0.9 if delay else 0.7)
    if not delay:
        assert found["frame_accuracy"].value < 0.89  # the first frame of each stretch cannot be known
    scores = [s.window.start for s in model.score_windows(model.opener.open(tmp_path / "7.npy"))]
    assert scores == list(range(39))


def _rows(folder: Path) -> list[VideoRow]:
    found = read_annotations(DataConfig(format="manifest", root=str(folder)))
    return [row for rows in found.splits.values() for row in rows]


def _three_epochs(folder: Path) -> Experiment:
    """Of ten steps each."""
    experiment = timeline_experiment(folder)
    return replace(experiment, seed=4, training=replace(experiment.training, epochs=3))


def test_a_resumed_timeline_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = weights_of(_three_epochs(tmp_path / "whole"))
    experiment = _three_epochs(tmp_path / "cut")
    step, calls = TimelineLearner.training_step, []

    def stop_in_mid_epoch(self: TimelineLearner, batch: Any, index: int) -> Any:
        calls.append(index)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return step(self, batch, index)

    from pipeline.training import callbacks

    def save_first(self: Any, trainer: Any, *args: Any) -> None:
        trainer.save_checkpoint(Path(experiment.run_dir) / "checkpoints" / "last.ckpt")

    with monkeypatch.context() as patch:
        patch.setattr(TimelineLearner, "training_step", stop_in_mid_epoch)
        patch.setattr(callbacks.StopOnSignal, "on_train_batch_end", save_first)
        with pytest.raises(KeyboardInterrupt):
            train(experiment, quiet=True)
    assert_same(weights_of(experiment, resume=True), whole)


def test_a_bidirectional_model_answers_once_the_whole_video_is_read() -> None:
    file = small_model(heads=("gru",), bidirectional=True, refinement_stages=1)
    model = Model(replace(file, task="timeline", labels=("a", "b", "background")))
    assert model.mode(InferenceConfig()) == "whole"
    frames = np.random.default_rng(0).integers(0, 256, (11, 3, 40, 40), dtype=np.uint8)
    scorer, features = model.scorer(InferenceConfig()), model.embedder().push(frames)
    assert scorer.push(features[:4]) == []
    assert scorer.push(features[4:]) == []
    scored = scorer.finish()
    with torch.inference_mode():
        expected, _ = file.recognizer.score_projected(features[None])
    np.testing.assert_allclose(
        [s.probabilities for s in scored], file.calibration.probabilities(expected)[0].numpy(), atol=1e-6
    )


@pytest.mark.usefixtures("one_torchlib")
@pytest.mark.parametrize("labels", ["one", "several"])
def test_a_delayed_model_streams_the_same_from_an_exported_file(tmp_path: Path, motion_root: Path, labels: Any) -> None:
    (long_video,) = (motion_root / "untrimmed").glob("*.mp4")
    file = small_model(heads=("gru",), refinement_stages=1)
    numbers = TimelineNumbers((0.4, 0.5, 0.6) if labels == "several" else (), 0.3, 2)
    sequence = SequenceConfig(delay_frames=3, labels=labels)
    file = replace(file, task="timeline", sequence=sequence, timeline=numbers)
    save_model(tmp_path / "m.safetensors", file)
    export_onnx(load_model_file(tmp_path / "m.safetensors"), tmp_path / "m")
    expected = list(Model(file).predict(long_video))
    assert [round(5 * p.start_seconds) for p in expected[:3]] == [0, 1, 2]  # the time that they speak of
    for name in ("m.safetensors", "m.clip.onnx", "m.step.onnx"):
        model = load_model(tmp_path / name)
        assert (model.file.timeline, model.file.may_overlap) == (numbers, labels == "several")
        found = list(model.predict(long_video))
        assert [p.start_seconds for p in found] == [p.start_seconds for p in expected]
        np.testing.assert_allclose([p.score for p in found], [p.score for p in expected], atol=1e-5)


def test_a_delayed_answer_on_a_stream_comes_late_and_says_when() -> None:
    """The scores are those of the same network without delay, of frames three further on."""
    file = small_model(heads=("gru",))
    plain = Model(replace(file, task="timeline"))
    late = Model(replace(file, task="timeline", sequence=SequenceConfig(delay_frames=3)))
    frames = np.random.default_rng(0).integers(0, 256, (9, 3, 40, 40), dtype=np.uint8)
    features = plain.embedder().push(frames)
    expected = plain.scorer(InferenceConfig()).push(features)
    scorer = late.scorer(InferenceConfig())
    found = scorer.push(features)
    assert [s.window.start for s in found] == list(range(6))
    for ours, theirs in zip(found, expected[3:], strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-6)
    assert [s.window.start for s in scorer.finish()] == [6, 7, 8]
    assert scorer.finish() == []


def test_what_needs_pictures_refuses_a_model_of_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = timeline_experiment(tmp_path)
    train(replace(experiment, training=replace(experiment.training, epochs=1)), quiet=True)
    model, features = str(experiment.run_dir / "model.safetensors"), str(tmp_path / "7.npy")
    assert main(["predict", model, features, "--json", str(tmp_path / "7.json"), "--quiet"]) == 0
    assert main(["evaluate", model, "--quiet", "--timeline.min_seconds", "1"]) == 0
    (experiment.run_dir / "evaluation_test" / "segments.csv").unlink()
    (experiment.run_dir / "evaluation_test" / "segments.csv").symlink_to(features)
    assert main(["evaluate", model, "--quiet"]) == 2
    assert "segments.csv would be written over the input" in capsys.readouterr().err
    save_model(tmp_path / "clips.safetensors", small_model())
    timeline = ["--data.format", "manifest", "--data.root", str(tmp_path), "--task", "timeline"]
    timeline += ["--data.cache", "features", "--training.backbone_lr_scale", "0"]
    for command, message in (
        (["predict", model, features, "--html", str(tmp_path / "pages")], "a file of features has no pictures"),
        (["webcam", model, features, "--replay", "--headless"], "no camera gives it pictures"),
        (["export", model], "this model reads features from files"),
        (["diagnose", model], "clipgru diagnose looks at clips"),
        (["evaluate", str(tmp_path / "clips.safetensors"), "--timeline.min_seconds", "1"], "for models of timelines"),
        (
            ["evaluate", "--protocol", "own_split", "--mirror", *timeline],
            "--clips and --mirror are for models of clips",
        ),
    ):
        capsys.readouterr()
        assert main(command) == 2
        assert message in capsys.readouterr().err


def test_several_labels_have_segments_of_their_own_that_may_overlap() -> None:
    file = small_model(3, heads=("gru",))
    model = Model(replace(file, task="timeline", sequence=SequenceConfig(labels="several")))
    tracks = model.timeline(TimelineConfig(min_seconds=0.0), 10.0)
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.1], [0.2, 0.9, 0.1], [0.1, 0.2, 0.1]], np.float32)
    found = [s for k, row in enumerate(scores) for s in tracks.push(WindowScores(Window(k, k + 1), row))]
    found += tracks.finish()
    spans = [(s.label, s.start_seconds, s.end_seconds) for s in found]
    assert spans == [("class 0", 0.0, 0.4), ("class 1", 0.2, 0.6)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"backbone_lr_scale": 0.1}}, "set training.backbone_lr_scale 0"),
        ({"transform": {"input": "rgb_diff"}}, "and transform.input rgb"),
        ({"training": {"mixup_alpha": 0.2}}, "set training.mixup_alpha"),
        ({"training": {"train_frames": 4}}, "set training.backbone_lr_scale above 0 and data.cache none"),
        ({"model": {"backbone": "tiny"}, "sequence": {"sequence_frames": 0}}, "set it to some hundred frames"),
    ],
)
def test_what_timelines_cannot_do_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    experiment = timeline_experiment(tmp_path)
    changed = {name: replace(getattr(experiment, name), **values) for name, values in change.items()}
    with pytest.raises(UserError, match=message):
        replace(experiment, **changed)


def test_the_layout_of_ms_tcn_gives_stretches_of_features(tmp_path: Path) -> None:
    furnish_ms_tcn(tmp_path / "split1")
    data = DataConfig(format="ms_tcn", root=str(tmp_path / "split{split}"), features_fps=2.0)
    found = read_annotations(data)
    assert found.labels == ("cut", "mix", "background")
    assert {row.group for row in found.splits["train"]} == {"a", "b", "c"}
    first = [(r.label, r.start_seconds, r.end_seconds) for r in found.splits["train"] if r.group == "b"]
    assert first == [("cut", 0.0, 10.5), ("background", 10.5, 21.0), ("mix", 21.0, 31.5)]
    for change, message in (
        ({"features_fps": None}, "set data.features_fps"),
        ({"root": str(tmp_path / "absent")}, "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            read_annotations(replace(data, **change))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("groundTruth/a.txt", "cut\nchop\n", r"a\.txt:2: the label 'chop' is not in mapping\.txt"),
        ("groundTruth/a.txt", "", r"a\.txt: it is empty; each line is the label of a step"),
        ("splits/train.split1.bundle", "a.txt\n../mapping.txt\n", r"names files outside of .*1: \.\./mapping\.txt"),
        ("splits/train.split1.bundle", "/etc/hostname\n", r"names files outside of .*1: /etc/hostname"),
        ("mapping.txt", "", r"mapping\.txt: expected lines of a number and a label"),
        ("mapping.txt", None, r"mapping\.txt: expected lines of a number and a label"),
        ("mapping.txt", "0 cut\n1 mix\n3 background\n", r"mapping\.txt: the numbers must be 0 to 2, each once"),
        ("mapping.txt", "0 cut\n0 mix\n", r"mapping\.txt:2: expected an index and a label, each once"),
    ],
)
def test_a_broken_layout_of_ms_tcn_is_refused(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    furnish_ms_tcn(tmp_path)
    broken = tmp_path / file
    broken.unlink() if content is None else broken.write_text(content)
    with pytest.raises(UserError, match=message):
        read_annotations(DataConfig(format="ms_tcn", root=str(tmp_path), features_fps=2.0))


@pytest.mark.parametrize("name", ["groundTruth/a.txt", "mapping.txt", "splits/train.split1.bundle", "groundTruth"])
def test_label_files_of_ms_tcn_that_lead_elsewhere_are_refused_unread(tmp_path: Path, name: str) -> None:
    root = tmp_path / "set"
    furnish_ms_tcn(root)
    (root / name).rename(tmp_path / "elsewhere")
    (root / name).symlink_to(tmp_path / "elsewhere")
    data = DataConfig(format="ms_tcn", root=str(root), features_fps=2.0)
    with pytest.raises(UserError, match=rf"links that lead out of {root}\. .*{name}.*data\.allow_links"):
        read_annotations(data)
    assert read_annotations(replace(data, allow_links=True)).splits["train"]


@pytest.mark.parametrize("kind", [("motion_timeline", 1), ("motion_two_shapes", 2)])
def test_long_motion_videos_are_made_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: tuple[str, int]
) -> None:
    (name, num_shapes) = kind
    small = replace(TIMELINE_SETS[name].config, size_px=32, num_untrimmed=3, untrimmed_seconds=19.0)
    assert small.num_shapes == num_shapes
    monkeypatch.setitem(TIMELINE_SETS, name, TimelineSet(small, {"train": 1, "val": 1, "test": 1}))
    found = read_annotations(DataConfig(format=name, root=str(tmp_path / "set")))
    truth = read_motion_segments(tmp_path / "set")
    for part in ("train", "val", "test"):
        rows = found.splits[part]
        (path,) = {row.path for row in rows}
        assert [(r.label, r.start_seconds, r.end_seconds) for r in rows] == [
            (s.label, s.start_seconds, s.end_seconds) for s in truth[path]
        ]
        overlaps = [one.end_seconds > other.start_seconds for one, other in pairwise(truth[path])]
        assert any(overlaps) == (num_shapes == 2)


@pytest.mark.parametrize("heads", [("convgru",), ("gru",), ("change", "mingru"), ("lstm",)])
def test_a_state_that_is_saved_in_mid_stream_goes_on_to_the_bit(tmp_path: Path, heads: Any) -> None:
    file = small_model(heads=heads, refinement_stages=1)
    model = Model(replace(file, task="timeline"))
    frames = np.random.default_rng(0).integers(0, 256, (12, 3, 40, 40), dtype=np.uint8)
    features = model.embedder().push(frames)
    _, state = model.heads.score_steps(features[:5], None)
    expected, _ = model.heads.score_steps(features[5:], state)
    torch.save(state, tmp_path / "state.pt")
    found, _ = model.heads.score_steps(features[5:], torch.load(tmp_path / "state.pt", weights_only=True))
    assert np.array_equal(found.probabilities, expected.probabilities)
    whole, _ = model.heads.score_steps(features, None)
    np.testing.assert_allclose(whole.probabilities[5:], expected.probabilities, atol=1e-6)
