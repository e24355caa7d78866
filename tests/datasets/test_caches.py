"""Frame and feature caches: the same samples as without, once, and never a stale or damaged one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import Experiment
from pipeline.datasets import datamodule
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import VideoDataModule
from pipeline.datasets.features import FrozenBackbone
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.grids import DecodedClips
from pipeline.datasets.settled import make_splits
from pipeline.datasets.videos import ClipBatch, SampleKey, VideoDataset, fixed_clips, random_clip
from pipeline.embedding.clips import ClipEmbedder
from pipeline.errors import DecodeError
from pipeline.evaluation import evaluate_model
from pipeline.files.cache import Store
from pipeline.training.fit import train
from pipeline.training.module import ClipClassifier
from tests.small import small_experiment

LABELS = ("a", "b")


@pytest.fixture
def rows(motion_root: Path, tmp_path: Path) -> list[VideoRow]:
    """Three videos of our own, the second a stretch of its file."""
    sources = sorted((motion_root / "train").rglob("*.mp4"))[:3]
    copies = [tmp_path / f"{number}.mp4" for number in range(3)]
    for source, copy in zip(sources, copies, strict=True):
        shutil.copy(source, copy)
    return [
        VideoRow(copies[0], "a", "0"),
        VideoRow(copies[1], "b", "1", start_seconds=0.4, end_seconds=1.3),
        VideoRow(copies[2], "b", "2"),
    ]


def experiment_with(tmp_path: Path, cache: str, **data: object) -> Experiment:
    experiment = small_experiment(Path("."), tmp_path / "runs")
    settings = {"cache": cache, "cache_dir": str(tmp_path / "cache"), **data}
    return replace(experiment, data=replace(experiment.data, **settings))


def samples(experiment: Experiment, rows: list[VideoRow], epochs: int = 2) -> list[torch.Tensor | None]:
    found = []
    for choose in (random_clip, fixed_clips):
        dataset = VideoDataset(rows, LABELS, experiment.clips, choose)
        found += [dataset[SampleKey(epoch, row)].frames for epoch in range(epochs) for row in range(len(rows))]
    return found


def assert_equal(got: list[torch.Tensor | None], expected: list[torch.Tensor | None]) -> None:
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(DecodedClips, "clips", refuse)
    monkeypatch.setattr(DecodedClips, "whole", refuse)


def test_cached_frames_are_the_decoded_ones_and_are_decoded_once(
    rows: list[VideoRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = samples(experiment_with(tmp_path, "none"), rows)
    cached = experiment_with(tmp_path, "frames")
    assert_equal(samples(cached, rows), expected)
    forbid_decoding(monkeypatch)
    assert_equal(samples(cached, rows), expected)


def test_a_video_that_changed_is_decoded_anew(rows: list[VideoRow], tmp_path: Path) -> None:
    cached = experiment_with(tmp_path, "frames")
    before = samples(cached, rows)
    status = rows[0].path.stat()
    content = rows[2].path.read_bytes()
    rows[0].path.write_bytes(content)
    os.utime(rows[0].path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = samples(cached, rows)
    assert_equal(after, samples(experiment_with(tmp_path, "none"), rows))
    assert not torch.equal(before[0], after[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["fit_size_px", "sample_fps", "fit"])
def test_settings_that_matter_make_entries_of_their_own(rows: list[VideoRow], tmp_path: Path, change: str) -> None:
    def changed(cache: str) -> Experiment:
        experiment = experiment_with(tmp_path, cache)
        if change == "sample_fps":
            return replace(experiment, sampling=replace(experiment.sampling, sample_fps=7))
        value = {"fit_size_px": 44, "fit": "crop"}[change]
        return replace(experiment, transform=replace(experiment.transform, **{change: value}))

    samples(experiment_with(tmp_path, "frames"), rows)
    assert_equal(samples(changed("frames"), rows), samples(changed("none"), rows))


def test_a_damaged_entry_is_rebuilt(rows: list[VideoRow], tmp_path: Path) -> None:
    cached = experiment_with(tmp_path, "frames")
    expected = samples(cached, rows)
    paths = [path for path, _ in Store(tmp_path / "cache", 1).entries()]
    for path in paths:
        content = bytearray(path.read_bytes())
        content[len(content) // 2 :: 97] = bytes(len(content[len(content) // 2 :: 97]))
        path.write_bytes(content)
    damaged = [path.read_bytes() for path in paths]
    assert_equal(samples(cached, rows), expected)
    assert all(path.read_bytes() != before for path, before in zip(paths, damaged, strict=True))


def test_a_video_with_a_bad_end_reads_as_without_a_cache(rows: list[VideoRow], tmp_path: Path) -> None:
    path = rows[0].path
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    for row in range(2):
        outcomes = []
        for cache in ("none", "frames"):
            dataset = VideoDataset(rows, LABELS, experiment_with(tmp_path, cache).clips, random_clip)
            sample = dataset[SampleKey(0, row)]
            outcomes.append((sample.bad, None if sample.frames is None else sample.frames.tolist()))
        assert outcomes[0] == outcomes[1]


def test_a_missing_video_is_named(tmp_path: Path) -> None:
    dataset = VideoDataset(
        [VideoRow(tmp_path / "absent.mp4", "a", "0")], LABELS, experiment_with(tmp_path, "frames").clips, random_clip
    )
    bad = dataset[SampleKey(0, 0)].bad
    assert bad is not None
    assert bad.cause == "the file does not exist"


def feature_module(experiment: Experiment, motion_root: Path) -> tuple[VideoDataModule, ClipClassifier]:
    splits = make_splits(read_annotations(experiment.data), experiment.data, experiment.seed)
    torch.manual_seed(0)
    module = ClipClassifier(experiment, len(splits.labels)).eval()
    return VideoDataModule(experiment, splits), module


def backbone_of(module: ClipClassifier) -> FrozenBackbone:
    return FrozenBackbone(module.recognizer, module.transform)


def frozen(motion_root: Path, tmp_path: Path, **data: object) -> Experiment:
    experiment = small_experiment(motion_root, tmp_path / "runs")
    settings = {"cache": "features", "cache_dir": str(tmp_path / "cache"), **data}
    training = replace(experiment.training, backbone_lr_scale=0.0)
    return replace(experiment, data=replace(experiment.data, **settings), training=training)


def batches(data: VideoDataModule) -> list[ClipBatch]:
    return [*data.val_dataloader(), *VideoDataModule._make_loader(data, data.splits.train, random_clip)]


@pytest.mark.parametrize("input", ["rgb", "rgb_diff", "rgb+rgb_diff"])
def test_cached_features_are_those_of_the_decoded_frames(motion_root: Path, tmp_path: Path, input: Any) -> None:
    experiment = frozen(motion_root, tmp_path)
    experiment = replace(experiment, transform=replace(experiment.transform, input=input))
    data, module = feature_module(experiment, motion_root)
    data.cache_features(backbone_of(module), lambda: None)
    plain = VideoDataModule(replace(experiment, data=replace(experiment.data, cache="none")), data.splits)
    pairs = zip(batches(data), batches(plain), strict=True)
    with torch.inference_mode():
        for features, frames in pairs:
            assert torch.equal(features.rows, frames.rows)
            expected = ClipEmbedder(module.recognizer, module.transform)(frames.frames)
            torch.testing.assert_close(features.frames, expected, atol=2e-3, rtol=2e-3)  # kept as float16


def test_features_are_made_once_and_other_weights_make_others(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = frozen(motion_root, tmp_path)
    first, module = feature_module(experiment, motion_root)
    first.cache_features(backbone_of(module), lambda: None)
    second, same = feature_module(experiment, motion_root)
    with monkeypatch.context() as patch:
        forbid_decoding(patch)
        second.cache_features(backbone_of(same), lambda: None)
        for ours, theirs in zip(batches(second), batches(first), strict=True):
            assert torch.equal(ours.frames, theirs.frames)
        next(module.recognizer.backbone.parameters()).data.mul_(1.01)
        with pytest.raises(AssertionError, match="decoded again"):
            second.cache_features(backbone_of(module), lambda: None)


def test_copies_are_augmented_and_drawn_by_epoch(motion_root: Path, tmp_path: Path) -> None:
    experiment = frozen(motion_root, tmp_path, feature_copies=2)
    data, module = feature_module(experiment, motion_root)
    data.cache_features(backbone_of(module), lambda: None)
    copies = data._features[random_clip][0]
    assert not isinstance(copies, tuple)
    assert len(copies) == 3  # type: ignore[arg-type]
    assert not torch.equal(copies[0], copies[1])  # type: ignore[index]
    assert not torch.equal(copies[1], copies[2])  # type: ignore[index]
    assert all(len(kept) == 1 for kept in data._features[fixed_clips])  # type: ignore[arg-type]
    dataset = VideoDataModule._make_loader(data, data.splits.train, random_clip).dataset
    drawn = {dataset._draw_copy(SampleKey(epoch, 0), 3) for epoch in range(20)}  # type: ignore[attr-defined]
    assert drawn == {0, 1, 2}


@pytest.mark.parametrize("input", ["rgb", "rgb+rgb_diff"])
def test_long_videos_are_embedded_as_they_are_decoded(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, input: Any
) -> None:
    """Never whole in memory, and with the same features, copies too."""
    found = []
    for is_long in (False, True):
        experiment = frozen(motion_root, tmp_path, feature_copies=1, cache_dir=str(tmp_path / f"cache_{is_long}"))
        experiment = replace(experiment, transform=replace(experiment.transform, input=input))
        data, module = feature_module(experiment, motion_root)
        if is_long:
            monkeypatch.setattr(datamodule, "_LONG_FRAMES", 3)
            monkeypatch.setattr(datamodule, "_LONG_BYTES", 0)
            monkeypatch.setattr(datamodule, "FRAMES_A_CALL", 4)
            forbid_decoding(monkeypatch)
        data.cache_features(backbone_of(module), lambda: None)
        found.append([copy for choose in data._features.values() for copies in choose for copy in copies])
    for whole, of_parts in zip(*found, strict=True):
        torch.testing.assert_close(of_parts, whole, atol=2e-3, rtol=2e-3)


def test_a_long_video_that_breaks_off_is_bad(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(clips: DecodedClips, row: VideoRow, num_frames: int) -> Iterator[torch.Tensor]:
        yield torch.zeros(4, 3, 40, 40, dtype=torch.uint8)
        raise DecodeError(row.path, "decode", "it breaks off")

    data, module = feature_module(frozen(motion_root, tmp_path), motion_root)
    monkeypatch.setattr(datamodule, "_LONG_BYTES", 0)
    monkeypatch.setattr(datamodule, "_LONG_FRAMES", 3)
    monkeypatch.setattr(DecodedClips, "parts", break_off)
    data.cache_features(backbone_of(module), lambda: None)
    found = [some for choose in data._features.values() for some in choose]
    assert {some.cause for some in found} == {"it breaks off"}  # type: ignore[union-attr]


def test_a_bad_video_is_named_and_its_features_are_not_kept(motion_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(motion_root, root)
    broken = sorted((root / "train").rglob("*.mp4"))[0]
    broken.write_bytes(b"not a video")
    data, module = feature_module(frozen(root, tmp_path), root)
    data.cache_features(backbone_of(module), lambda: None)
    bad = [features for choose in data._features.values() for features in choose if hasattr(features, "cause")]
    assert [Path(item.path).name for item in bad] == [broken.name]


def test_training_from_either_cache(motion_root: Path, tmp_path: Path) -> None:
    plain = small_experiment(motion_root, tmp_path / "plain", epochs=1)
    settings = {"cache": "frames", "cache_dir": str(tmp_path / "cache")}
    cached = replace(plain, output_dir=str(tmp_path / "cached"), data=replace(plain.data, **settings))
    assert train(cached, quiet=True).metrics == train(plain, quiet=True).metrics
    experiment = frozen(motion_root, tmp_path)
    result = train(experiment, quiet=True)
    assert 0 <= result.metrics["val_accuracy"] <= 1
    rows = read_annotations(experiment.data).splits["test"]
    from_features = evaluate_model(result.model, rows, experiment.data)
    from_frames = evaluate_model(result.model, rows, replace(experiment.data, cache="none"))
    for ours, theirs in zip(from_features.results, from_frames.results, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=2e-3)


def test_decoding_errors_stay_decoding_errors(rows: list[VideoRow], tmp_path: Path) -> None:
    late = replace(rows[0], start_seconds=50.0)
    dataset = VideoDataset([late], LABELS, experiment_with(tmp_path, "frames").clips, random_clip)
    bad = dataset[SampleKey(0, 0)].bad
    assert bad is not None
    assert "starts at 50.0 s, after its end" in bad.cause
    with pytest.raises(DecodeError):
        DecodedClips(dataset.settings).clips(late, lambda grid: [list(grid)])
