"""Samples and batches: the right frames, whatever the order, the workers and the other videos of the batch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from numpy.typing import NDArray

from pipeline.config import DataConfig, Experiment, SamplingConfig, TransformConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import make_loader
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.settled import make_splits, read_splits
from pipeline.datasets.splits import check_split
from pipeline.datasets.videos import (
    EpochSampler,
    Sample,
    SampleKey,
    VideoDataset,
    collate,
    fixed_clips,
    random_clip,
    whole_grid,
)
from pipeline.decode import open_video
from pipeline.errors import UserError
from pipeline.inference import RunStats
from pipeline.inference.frames import grid_frames
from pipeline.training.fit import train
from pipeline.transforms.frames import fit_frames
from pipeline.transforms.without_torch import fit_image
from tests.small import small_experiment


def rows_of(motion_root: Path, split: str = "test") -> list[VideoRow]:
    annotations = read_annotations(DataConfig(format="folder", root=str(motion_root)))
    return list(annotations.splits[split])


def labels_of(rows: Sequence[VideoRow]) -> list[str]:
    return sorted({row.label for row in rows})


def decode_all(path: Path) -> torch.Tensor:
    """Every frame by PyAV alone, uint8 ``[N, 3, H, W]``."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def test_a_sample_holds_the_frames_shown_at_the_grid_times(motion_root: Path, tmp_path: Path) -> None:
    experiment = small_experiment(motion_root, tmp_path)  # 5 grid frames a second of 10 in the file
    row = rows_of(motion_root)[0]
    dataset = VideoDataset([row], [row.label], experiment.clips, whole_grid)
    sample = dataset[SampleKey(0, 0)]
    assert sample.frames is not None
    expected = fit_frames(decode_all(row.path)[::2].contiguous(), experiment.transform)
    assert torch.equal(sample.frames, expected[None])


def test_evaluation_sees_every_clip_of_a_short_video(motion_root: Path, tmp_path: Path) -> None:
    experiment = small_experiment(motion_root, tmp_path)
    experiment = replace(experiment, sampling=replace(experiment.sampling, num_frames=3, num_eval_clips=100))
    row = rows_of(motion_root)[0]
    frames = VideoDataset([row], [row.label], experiment.clips, fixed_clips)[SampleKey(0, 0)].frames
    assert frames is not None
    grid = fit_frames(decode_all(row.path)[::2].contiguous(), experiment.transform)
    assert len(grid) > 3
    assert torch.equal(frames, torch.stack([grid[start : start + 3] for start in range(len(grid) - 2)]))


def test_crop_keeps_the_shape_of_pixels_that_are_not_square(
    motion_root: Path, shared_cases: Path, tmp_path: Path
) -> None:
    """In training as in prediction."""
    path = shared_cases / "video" / "sar.mp4"
    crop = TransformConfig(fit="crop", fit_size_px=40, input_size_px=32)
    experiment = replace(small_experiment(motion_root, tmp_path), transform=crop)
    sample = VideoDataset([VideoRow(path, "x", "x")], ["x"], experiment.clips, whole_grid)[SampleKey(0, 0)]
    assert sample.frames is not None
    # 192 x 128 of 16:11 is shown as 279 x 128, and so fitted as 87 x 40.
    resized = TF.resize(decode_all(path)[::2], [40, 87], antialias=True)
    assert torch.equal(sample.frames[0], TF.center_crop(resized, [40, 40]))

    def fit(image: NDArray[np.uint8], sample_aspect_ratio: Fraction) -> NDArray[np.uint8]:
        return fit_image(image, sample_aspect_ratio, crop)

    with open_video(path) as reader:
        fitted = np.stack(list(grid_frames(reader, experiment.sampling, fit, 1, RunStats())))
    assert np.abs(fitted.astype(int) - sample.frames[0].numpy()).max() <= 1


def test_a_row_with_times_reads_that_stretch_only(motion_root: Path, tmp_path: Path) -> None:
    experiment = small_experiment(motion_root, tmp_path)
    (path,) = (motion_root / "untrimmed").glob("*.mp4")
    row = VideoRow(path, "x", "x", start_seconds=3.0, end_seconds=4.0)
    sample = VideoDataset([row], ["x"], experiment.clips, whole_grid)[SampleKey(0, 0)]
    assert sample.frames is not None
    expected = fit_frames(decode_all(path)[30:40:2].contiguous(), experiment.transform)
    assert torch.equal(sample.frames, expected[None])
    late = VideoDataset([replace(row, start_seconds=50.0, end_seconds=60.0)], ["x"], experiment.clips, whole_grid)
    bad = late[SampleKey(0, 0)].bad
    assert bad is not None
    assert "starts at 50.0 s, after its end" in bad.cause


def test_a_sample_is_a_function_of_seed_epoch_and_row(motion_root: Path, tmp_path: Path) -> None:
    (path,) = (motion_root / "untrimmed").glob("*.mp4")
    rows = [VideoRow(path, "x", "x")] * 2
    experiment = small_experiment(motion_root, tmp_path)

    def frames(seed: int, epoch: int, row: int) -> torch.Tensor:
        sample = VideoDataset(rows, ["x"], replace(experiment, seed=seed).clips, random_clip)[SampleKey(epoch, row)]
        assert sample.frames is not None
        return sample.frames

    first = frames(0, 0, 0)
    assert torch.equal(first, frames(0, 0, 0))
    assert not any(torch.equal(first, frames(*key)) for key in [(1, 0, 0), (0, 1, 0), (0, 0, 1)])


@pytest.mark.parametrize("choose", [random_clip, fixed_clips])
def test_workers_change_nothing(motion_root: Path, tmp_path: Path, choose: object) -> None:
    rows = rows_of(motion_root)
    batches = []
    for workers in (0, 2):
        experiment = small_experiment(motion_root, tmp_path)
        experiment = replace(experiment, data=replace(experiment.data, num_workers=workers))
        batches.append(list(make_loader(rows, labels_of(rows), experiment.clips, choose)))  # type: ignore[arg-type]
    for one, two in zip(*batches, strict=True):
        assert torch.equal(one.frames, two.frames)
        assert torch.equal(one.rows, two.rows)
        assert one.frames.dtype == torch.uint8


def test_videos_of_different_sizes_make_a_batch(shared_data: Path) -> None:
    """UT-Interaction: every file has a size of its own."""
    root = shared_data / "ut_interaction" / "set1"
    annotations = read_annotations(DataConfig(format="ut_interaction", root=str(root)))
    rows = annotations.splits["all"][:6]
    experiment = Experiment(
        data=DataConfig(batch_size=6, num_workers=0),
        sampling=SamplingConfig(num_frames=4, mode="uniform", num_eval_clips=1),
        transform=TransformConfig(fit_size_px=64, input_size_px=64, input="rgb_diff"),
    )
    (batch,) = make_loader(rows, annotations.labels, experiment.clips, fixed_clips)
    assert batch.frames.shape == (6, 5, 3, 64, 64)
    assert batch.labels.tolist() == [annotations.labels.index(row.label) for row in rows]


@pytest.mark.parametrize("decoder", ["pyav", "decord", "opencv"])
def test_ucf101_from_its_own_files_and_lists(shared_data: Path, tmp_path: Path, decoder: str) -> None:
    """The real sample clips in the published tree with lists in the official format, down to the pixels."""
    if decoder == "decord":
        pytest.importorskip("decord")
    lists = tmp_path / "ucfTrainTestlist"
    shutil.copytree(shared_data / "ucf101_sample", tmp_path / "UCF-101")
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n2 BenchPress\r\n")
    names = sorted(path.relative_to(tmp_path / "UCF-101").as_posix() for path in tmp_path.rglob("*.avi"))
    train = [f"{name} {1 + name.startswith('Bench')}" for name in names if "c01" not in name]
    (lists / "trainlist01.txt").write_text("\r\n".join(train) + "\r\n")
    (lists / "testlist01.txt").write_text("\r\n".join(name for name in names if "c01" in name) + "\r\n")
    annotations = read_annotations(DataConfig(format="ucf101", root=str(tmp_path)))
    assert annotations.labels == ("ApplyEyeMakeup", "BenchPress")
    assert [len(annotations.splits[part]) for part in ("train", "test")] == [8, 2]
    experiment = Experiment(sampling=SamplingConfig(sample_fps=25, num_frames=8, num_eval_clips=2))
    experiment = replace(experiment, decode=replace(experiment.decode, decoder=decoder))
    for row, key in zip(annotations.splits["test"], (SampleKey(0, 0), SampleKey(0, 1)), strict=True):
        dataset = VideoDataset(annotations.splits["test"], annotations.labels, experiment.clips, whole_grid)
        frames = dataset[key].frames
        assert frames is not None
        truth = fit_frames(decode_all(row.path)[::10].contiguous(), experiment.transform)
        assert (frames[0][::10].int() - truth.int()).abs().max() <= 2  # decoders may round colours differently
    # All sample clips are of group 01, so this made-up list leaks; a split drawn here would be refused.
    with pytest.raises(UserError, match="g01"):
        check_split(annotations.splits["train"], annotations.splits["test"], annotations.labels)


def test_bad_videos_leave_the_batch_and_are_listed(motion_root: Path, tmp_path: Path) -> None:
    good = rows_of(motion_root)[0]
    (tmp_path / "bad.mp4").write_bytes(good.path.read_bytes()[:300])
    rows = [good, VideoRow(tmp_path / "bad.mp4", good.label, "bad"), VideoRow(tmp_path / "no.mp4", good.label, "no")]
    dataset = VideoDataset(rows, [good.label], small_experiment(motion_root, tmp_path).clips, random_clip)
    batch = collate([dataset[SampleKey(0, i)] for i in range(3)])
    assert batch.rows.tolist() == [0]
    assert [(row, Path(bad.path).name) for row, bad in batch.bad] == [(1, "bad.mp4"), (2, "no.mp4")]
    empty = collate([dataset[SampleKey(0, 1)]])
    assert len(empty.labels) == 0
    assert len(empty.frames) == 0


def test_clips_of_a_video_keep_their_row() -> None:
    samples = [
        Sample(4, 1, torch.zeros(2, 3, 3, 8, 8, dtype=torch.uint8)),
        Sample(7, 0, torch.ones(1, 3, 3, 8, 8).byte()),
    ]
    batch = collate(samples)
    assert batch.rows.tolist() == [4, 4, 7]
    assert batch.labels.tolist() == [1, 1, 0]
    assert batch.frames[2].min() == 1


def test_the_sampler_visits_each_row_once_and_can_go_on_from_the_middle() -> None:
    sampler = EpochSampler(20, seed=3, shuffle=True)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert {key.epoch for key in keys} == {epoch}
        assert sorted(key.row for key in keys) == list(range(20))
        orders.append(keys)
    assert [key.row for key in orders[0]] != [key.row for key in orders[1]]
    resumed = EpochSampler(20, seed=3, shuffle=True)
    resumed.skip(1, 7)
    resumed.set_epoch(1)
    assert list(resumed) == orders[1][7:]
    resumed.set_epoch(2)
    assert len(list(resumed)) == 20


def test_splits_follow_the_dataset_and_else_the_groups(motion_root: Path, shared_data: Path) -> None:
    own = DataConfig(format="folder", root=str(motion_root))
    splits = make_splits(read_annotations(own), own, seed=0)
    assert len(splits.train) == 12 * 3 + 9
    assert len(splits.val) == 12 + 3
    fights = DataConfig(format="folder", root=str(shared_data / "surv_fight"))
    drawn = make_splits(read_annotations(fights), fights, seed=0)
    groups = [{row.group for row in part} for part in (drawn.train, drawn.val, drawn.test)]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    assert sum(len(part) for part in (drawn.train, drawn.val, drawn.test)) == 300
    assert make_splits(read_annotations(fights), fights, seed=0) == drawn
    assert make_splits(read_annotations(fights), fights, seed=1) != drawn


@pytest.mark.parametrize(
    ("lines", "settings", "message"),
    [
        (["x", "x", "x", "x"], {}, r"has one class only, x; .* add a folder or rows of another"),
        (["x", "y", "x", "y"], {"test_fraction": 0.0}, r"data\.test_fraction 0 leaves nothing .* set it to a share"),
        (["x", "y", "x", "y"], {"test_fraction": 1.0}, r"data\.test_fraction 1 leaves nothing"),
        (["x", "y", "x", "y"], {"val_fraction": 1.0}, r"data\.val_fraction 1 leaves nothing to learn from"),
        (["x", "y", "x", "y"], {}, r"data\.val_fraction 0\.15, which may be 0\) needs at least 2 source videos"),
        (["x", "y"], {}, r"data\.test_fraction 0\.2\) needs at least 2 source videos"),
        (["x", "y" * 201, "x", "y" * 201], {}, "is not of 1 to 200 characters without control characters"),
        (["x", "y\x1b[31m", "x", "y\x1b[31m"], {}, "is not of 1 to 200 characters without control characters"),
    ],
)
def test_what_a_training_cannot_do_is_one_line_with_the_cure(
    tmp_path: Path, lines: list[str], settings: dict[str, float], message: str
) -> None:
    rows = ["path,label"]
    for number, label in enumerate(lines):
        (tmp_path / f"{number}.mp4").touch()
        rows.append(f"{number}.mp4,{label}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    data = DataConfig(format="manifest", root=str(tmp_path), **settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message) as caught:
        read_splits(data, 0)
    assert "\n" not in str(caught.value)
    experiment = small_experiment(tmp_path, tmp_path / "runs")
    with pytest.raises(UserError, match=message):
        train(replace(experiment, data=data), quiet=True)
    assert not (tmp_path / "runs").exists()


def test_only_parts_to_test_on_are_no_training(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "manifest.csv").write_text("path,label,split\na.mp4,x,test\n")
    data = DataConfig(format="manifest", root=str(tmp_path))
    with pytest.raises(UserError, match="no training videos, only those of the part test; add a part train"):
        make_splits(read_annotations(data), data, 0)
    empty = replace(read_annotations(data), splits={"train": read_annotations(data).splits["test"], "val": ()})
    with pytest.raises(UserError, match="the part val has no video; add some, or take the part out"):
        make_splits(empty, data, 0)


def test_a_split_that_leaks_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """The same source on both sides of a manifest's own split, and a class that is never trained."""
    rows = ["path,label,group,split"]
    for name, label, group, split in [
        ("a", "run", "1", "train"),
        ("b", "run", "1", "test"),
        ("c", "jump", "2", "train"),
        ("d", "jump", "3", "test"),
    ]:
        (tmp_path / f"{name}.mp4").touch()
        rows.append(f"{name}.mp4,{label},{group},{split}")
    manifest = tmp_path / "videos.csv"
    data = DataConfig(format="manifest", root=str(tmp_path), annotations=str(manifest), val_fraction=0.0)
    manifest.write_text("\n".join(rows))
    with pytest.raises(UserError, match="1"):
        make_splits(read_annotations(data), data, seed=0)
    manifest.write_text("\n".join(rows).replace("b.mp4,run,1", "b.mp4,run,4"))
    assert len(make_splits(read_annotations(data), data, seed=0).test) == 2
    manifest.write_text("\n".join(rows).replace("a.mp4,run,1,train", "a.mp4,run,5,test"))
    with pytest.raises(UserError, match="run"):
        make_splits(read_annotations(data), data, seed=0)
