"""Stretches of long videos as training data, in every format: the same rows, parts and guards from each, and what
nobody has looked at is no target and counts in no figure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.config import DataConfig, SequenceConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.identities import Contents
from pipeline.datasets.motion import write_video
from pipeline.datasets.sequences import IGNORED, frame_targets, timeline_videos, unlabelled_stretches
from pipeline.datasets.settled import read_splits
from pipeline.datasets.timelines.formats import TIMELINE_FORMATS
from pipeline.datasets.timelines.frames import clock_at
from pipeline.datasets.timelines.writing import write_labelled
from pipeline.errors import UserError
from pipeline.found import find
from pipeline.known_videos import KnownVideos
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo
from pipeline.timeline.metrics import TimelineSettings, judge_timelines, pair_videos
from pipeline.unseen import rows_to_judge
from tests.small import small_model

TARGETS = SequenceConfig()

STRETCHES = {
    "train": {"a": [("cut", 0, 2), ("mix", 3, 4.5)], "b": [("mix", 0.5, 2)]},
    "val": {"c": [("cut", 1, 2), ("mix", 2, 4)]},
    "test": {"d": [("cut", 0, 1), ("mix", 1.5, 5)]},
}
"""Part -> video -> stretches, of videos of 6 s."""


def _all() -> list[tuple[str, str, str, float, float]]:
    return [
        (part, video, label, start, end)
        for part, videos in STRETCHES.items()
        for video, stretches in videos.items()
        for label, start, end in stretches
    ]


def write_manifest(root: Path) -> None:
    lines = [f"features/{video}.npy,{label},{start},{end},{part}" for part, video, label, start, end in _all()]
    (root / "manifest.csv").write_text("\n".join(["path,label,start_seconds,end_seconds,split", *lines]) + "\n")


def write_activitynet(root: Path) -> None:
    words = {"train": "training", "val": "validation", "test": "testing"}
    database = {
        video: {
            "duration": 6,
            "subset": words[part],
            "annotations": [{"segment": [start, end], "label": label} for label, start, end in stretches],
        }
        for part, videos in STRETCHES.items()
        for video, stretches in videos.items()
    }
    (root / "activity_net.v1-3.json").write_text(json.dumps({"version": "1.3", "database": database}))


def write_thumos(root: Path) -> None:
    for part, video, label, start, end in _all():
        with (root / f"{label}_{part}.txt").open("a") as file:
            file.write(f"{video}  {start} {end}\n")


def write_epic(root: Path) -> None:
    (root / "annotations").mkdir()
    for part in STRETCHES:
        lines = [
            f"{video},{video},00:00:0{start},00:00:0{end},{label}"
            for of_part, video, label, start, end in _all()
            if of_part == part
        ]
        head = "participant_id,video_id,start_timestamp,stop_timestamp,label"
        (root / "annotations" / f"EPIC_100_{part}.csv").write_text("\n".join([head, *lines]) + "\n")


def write_ms_tcn(root: Path) -> None:
    for folder in ("groundTruth", "splits"):
        (root / folder).mkdir()
    (root / "mapping.txt").write_text("0 cut\n1 mix\n2 background\n")
    for part, videos in STRETCHES.items():
        (root / "splits" / f"{part}.split1.bundle").write_text("".join(f"{video}.txt\n" for video in videos))
        for video, stretches in videos.items():
            steps = ["background"] * 12
            for label, start, end in stretches:
                steps[int(2 * start) : int(2 * end)] = [label] * int(2 * (end - start))
            (root / "groundTruth" / f"{video}.txt").write_text("\n".join(steps) + "\n")


WRITERS: dict[str, Callable[[Path], None]] = {
    "activitynet": write_activitynet,
    "epic": write_epic,
    "manifest": write_manifest,
    "ms_tcn": write_ms_tcn,
    "thumos": write_thumos,
}


def dataset(root: Path, format: str) -> DataConfig:
    """Files of features of 4 numbers a step, either way up, and the stretches above."""
    (root / "features").mkdir(parents=True)
    for number, video in enumerate("abcd"):
        steps = np.random.default_rng(number).normal(size=(12 + number, 4)).astype(np.float32)
        np.save(root / "features" / f"{video}.npy", steps.T if number % 2 else steps)
    WRITERS[format](root)
    return DataConfig(format=format, root=str(root), features_fps=2.0)


def stretches(rows: Any) -> dict[str, list[tuple[str, float, float | None]]]:
    found: dict[str, list[tuple[str, float, float | None]]] = {}
    for row in sorted((row for row in rows if row.label), key=lambda row: (row.path, row.start_seconds)):
        found.setdefault(row.path.stem, []).append((row.label, row.start_seconds, row.end_seconds))
    return found


@pytest.mark.parametrize("format", WRITERS)
def test_every_format_gives_the_same_training(tmp_path: Path, format: str) -> None:
    splits = read_splits(dataset(tmp_path, format), 0, TARGETS)
    assert splits.labels == ("cut", "mix")
    for part, expected in STRETCHES.items():
        rows = getattr(splits, part)
        assert stretches(rows) == expected
        assert all(row.path == tmp_path / "features" / f"{row.path.stem}.npy" for row in rows)
    (video,) = timeline_videos(splits.val)
    targets = frame_targets(video, 12, 2.0, ("cut", "mix", "background"), TARGETS)
    assert targets.tolist() == [2, 2, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


OTHER_TOOLS = (
    "boris", "createml", "cvat", "deepethogram", "elan", "fiftyone", "label_studio", "segments", "srt", "via", "vtrace",
    "vtt",
)  # fmt: skip


@pytest.mark.parametrize("format", OTHER_TOOLS)
def test_files_of_other_tools_are_data_as_they_are(tmp_path: Path, format: str) -> None:
    """Beside the videos, or in a file of their own; without parts, the videos are divided."""
    videos = [
        LabelledVideo(video, tuple(LabelledSpan(start, end, label) for label, start, end in some))
        for some_videos in STRETCHES.values()
        for video, some in some_videos.items()
    ]
    for video in videos:
        film(tmp_path / "films" / f"{video.name}.mp4", 30)
    suffixes = TIMELINE_FORMATS[format].suffixes
    is_file = suffixes and not TIMELINE_FORMATS[format].is_per_video
    target = tmp_path / f"labels{suffixes[0]}" if is_file else tmp_path / "annotations"
    write_labelled(videos, target, format, lambda video: clock_at(5.0, 6.0))
    data = DataConfig(format=format, root=str(tmp_path), annotations=None if is_file else str(target))
    found = read_annotations(data, TARGETS)
    assert found.labels == ("cut", "mix")
    expected = {video: some for part in STRETCHES.values() for video, some in part.items()}
    read, spare_seconds = stretches(found.splits["all"]), 0.101 if TIMELINE_FORMATS[format].in_frames else 1e-6
    for video, some in expected.items():
        for (label, *times), (their_label, *their_times) in zip(some, read[video], strict=True):
            assert label == their_label
            assert their_times == pytest.approx(times, abs=spare_seconds)


@pytest.mark.parametrize("format", WRITERS)
def test_check_says_what_a_training_would_see(tmp_path: Path, format: str) -> None:
    data = dataset(tmp_path, format)
    config = {"task": "timeline", "data": {"format": format, "root": data.root, "features_fps": 2.0}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    (training,) = find([str(tmp_path / "c.yaml")]).trainings
    assert training.labels == ("cut", "mix")
    counted = {
        part: {label: counts[label] for label in ("cut", "mix")} for part, counts in training.class_counts.items()
    }
    assert counted == {"train": {"cut": 1, "mix": 2}, "val": {"cut": 1, "mix": 1}, "test": {"cut": 1, "mix": 1}}
    assert "Videos: train 2, val 1, test 1" in training.notes[-1]
    assert main(["check", str(tmp_path / "c.yaml"), "--quiet"]) == 0


@pytest.mark.parametrize("format", WRITERS)
def test_a_video_that_was_trained_on_is_known_under_another_name(tmp_path: Path, format: str) -> None:
    """The whole of it: a model that walks along a video has seen all of it, not its labelled stretches alone."""
    data = dataset(tmp_path, format)
    rows = read_splits(data, 0, TARGETS).train
    known = KnownVideos(Contents(data).known([video.row for video in timeline_videos(rows)]), ())
    shutil.copy(tmp_path / "features" / "a.npy", tmp_path / "features" / "d.npy")
    provenance = {"experiment": {"data": {"format": format, "root": data.root, "features_fps": 2.0}, "seed": 0}}
    model = replace(small_model(), task="timeline", videos=known, provenance=provenance)
    with pytest.raises(UserError, match="there is nothing to judge the model by"):
        rows_to_judge(model, {}, "test")
    assert {row.path.stem for row in rows_to_judge(model, {}, "val").rows} == {"c"}


def test_a_group_on_two_sides_is_refused(tmp_path: Path) -> None:
    data = dataset(tmp_path, "manifest")
    text = (tmp_path / "manifest.csv").read_text().splitlines()
    grouped = [
        text[0] + ",group",
        *(line + (",kitchen" if "/b." in line or "/c." in line else ",") for line in text[1:]),
    ]
    (tmp_path / "manifest.csv").write_text("\n".join(grouped))
    with pytest.raises(UserError, match=r"both sides.*kitchen"):
        read_splits(data, 0, TARGETS)


def test_without_parts_people_are_never_divided(tmp_path: Path) -> None:
    lines = ["participant_id,video_id,start_timestamp,stop_timestamp,label"]
    for person in range(6):
        for video in range(2):
            (tmp_path / f"P{person}_{video}.mp4").touch()
            lines += [f"P{person},P{person}_{video},{k},{k + 1},{label}" for k, label in enumerate(("cut", "mix"))]
    (tmp_path / "epic.csv").write_text("\n".join(lines))
    splits = read_splits(DataConfig(format="epic", root=str(tmp_path)), 0, TARGETS)
    sides = [{row.path.stem[:2] for row in rows} for rows in (splits.train, splits.val, splits.test)]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides)) == 6


# What no row covers


def manifest(root: Path, text: str) -> DataConfig:
    for name in "abcdefgh":
        (root / f"{name}.mp4").touch()
    (root / "manifest.csv").write_text(text)
    return DataConfig(format="manifest", root=str(root))


def test_lines_without_label_and_partly_unlabelled_videos(tmp_path: Path) -> None:
    text = (
        "path,label,start_seconds,end_seconds,uncovered\n"
        "a.mp4,run,1,2,\na.mp4,jump,1.5,2.5,background\n"
        "b.mp4,,,,\n"
        "c.mp4,run,1,2,unlabelled\nc.mp4,background,3,4,unlabelled\n"
        "d.mp4,,,,unlabelled\n"
    )
    found = read_annotations(manifest(tmp_path, text), TARGETS)
    assert found.labels == ("jump", "run")
    names = ("jump", "run", "background")
    several = SequenceConfig(labels="several")
    by_name = {video.row.name: video for video in timeline_videos(found.splits["all"])}
    for name, expected in {
        "b.mp4": [2] * 5,
        "c.mp4": [IGNORED, 1, IGNORED, 2, IGNORED],
        "d.mp4": [IGNORED] * 5,
    }.items():
        assert frame_targets(by_name[name], 5, 1.0, names, TARGETS).tolist() == expected
        targets = frame_targets(by_name[name], 5, 1.0, names[:2], several)
        shown = [[float("nan")] * 2 if k == IGNORED else [float(k == 0), float(k == 1)] for k in expected]
        torch.testing.assert_close(targets, torch.tensor(shown), equal_nan=True)
    with pytest.raises(UserError, match=r"set sequence\.labels several"):
        frame_targets(by_name["a.mp4"], 5, 1.0, names, TARGETS)
    assert unlabelled_stretches(by_name["c.mp4"], 5.0, TARGETS) == ((0.0, 1.0), (2.0, 3.0), (4.0, 5.0))
    assert unlabelled_stretches(by_name["a.mp4"], 5.0, TARGETS) == ()


def test_clips_need_labels(tmp_path: Path) -> None:
    data = manifest(tmp_path, "path,label\na.mp4,run\nb.mp4,\n")
    with pytest.raises(UserError, match=r"manifest\.csv:3: label is empty.*nothing happens, for --task timeline"):
        read_annotations(data)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "a.mp4,run,0,1,,,unlabelled\na.mp4,run,1,2,,,",
            r":3: uncovered of a\.mp4 is 'background' here and 'unlabelled'",
        ),
        ("a.mp4,run,0,1,g,,\na.mp4,run,1,2,h,,", r":3: group of a\.mp4 is 'h' here and 'g' at .*:2"),
        ("a.mp4,run,0,1,,train,\na.mp4,run,1,2,,test,", r":3: split of a\.mp4 is 'test' here and 'train'"),
        ("a.mp4,run,0,1,,,unlabeled", r":2: unknown value of uncovered 'unlabeled'. Did you mean 'unlabelled'"),
        ("a.mp4,,0,1,,,", r":2: label is empty, and there are times; write background"),
        ("a.mp4,run,0,1,,,\na.mp4,run,0,1,,,", r":3: a\.mp4 with these times is listed already"),
    ],
)
def test_lines_of_one_video_agree(tmp_path: Path, lines: str, message: str) -> None:
    data = manifest(tmp_path, f"path,label,start_seconds,end_seconds,group,split,uncovered\n{lines}\n")
    with pytest.raises(UserError, match=message):
        read_annotations(data, TARGETS)


def test_a_background_in_one_video_alone_is_no_class_that_each_part_needs(tmp_path: Path) -> None:
    rows = [f"{name}.mp4,{label},{k},{k + 1}" for name in "abcdef" for k, label in enumerate(("run", "jump"))]
    rows += ["a.mp4,background,5,6", "b.mp4,unlabelled,5,6", "g.mp4,,,", "h.mp4,,,"]
    data = manifest(tmp_path, "\n".join(["path,label,start_seconds,end_seconds", *rows]))
    splits = read_splits(data, 0, TARGETS)
    assert splits.labels == ("jump", "run")
    seen = {row.name for rows in (splits.train, splits.val, splits.test) for row in rows}
    assert seen == {f"{name}.mp4" for name in "abcdefgh"}
    (training,) = find([str(tmp_path / "manifest.csv")]).trainings
    assert training.labels == splits.labels
    assert "2 without a labelled stretch" in training.notes[-1] or "1 without a labelled stretch" in training.notes[-1]


# Files of the formats


def test_a_part_that_is_kept_back_is_left_out_and_absent_videos_are_told(tmp_path: Path) -> None:
    data = dataset(tmp_path, "activitynet")
    path = tmp_path / "activity_net.v1-3.json"
    content = json.loads(path.read_text())
    content["database"]["d"]["annotations"] = []
    content["database"]["gone"] = content["database"]["b"]
    path.write_text(json.dumps(content))
    found = read_annotations(data, TARGETS)
    assert found.splits.keys() == {"train", "val"}
    assert "the part test has no labelled stretch" in found.notes[0]
    assert [path.name for path in found.absent] == ["gone"]


def test_thumos_learns_from_its_validation_videos(tmp_path: Path) -> None:
    data = dataset(tmp_path, "thumos")
    for path in tmp_path.glob("*_train.txt"):
        path.unlink()
    (tmp_path / "Ambiguous_val.txt").write_text("c 0 0.5\n")
    found = read_annotations(data, TARGETS)
    assert found.splits.keys() == {"train", "test"}
    assert "validation videos are learnt from" in found.notes[0]
    (video,) = timeline_videos(found.splits["train"])
    targets = frame_targets(video, 6, 2.0, ("cut", "mix", "background"), TARGETS)
    assert targets.tolist() == [IGNORED, 2, 0, 0, 1, 1]


def test_a_name_that_may_be_two_files_is_refused(tmp_path: Path) -> None:
    data = dataset(tmp_path, "activitynet")
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "features" / "a.npy", tmp_path / "other" / "a.npy")
    with pytest.raises(UserError, match=r"the video a may be several files. 2: features/a.npy, other/a.npy"):
        read_annotations(data, TARGETS)


def film(path: Path, num_frames: int = 25) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, 32, 32, 3), dtype=np.uint8)
    write_video(path, frames, 5, intra=True)
    return path


def test_frames_are_those_of_the_video(tmp_path: Path) -> None:
    """EPIC-KITCHENS counts them from 1, and the last one is in the stretch."""
    film(tmp_path / "v.mp4")
    (tmp_path / "e.csv").write_text("video_id,start_frame,stop_frame,label\nv,1,5,cut\nv,11,99,mix\n")
    found = read_annotations(DataConfig(format="epic", root=str(tmp_path)), TARGETS)
    assert stretches(found.splits["all"]) == {"v": [("cut", 0.0, 1.0), ("mix", 2.0, 5.0)]}


def test_the_layout_of_ms_tcn_with_videos(tmp_path: Path) -> None:
    """A label a frame, or at a rate that is given."""
    for name in "ab":
        film(tmp_path / "videos" / f"{name}.mp4")
    for folder in ("groundTruth", "splits"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mapping.txt").write_text("0 cut\n1 mix\n")
    for part, name, steps in (("train", "a", [*["cut"] * 10, *["mix"] * 15]), ("test", "b", ["mix", "cut"])):
        (tmp_path / "splits" / f"{part}.split1.bundle").write_text(f"{name}.txt\n")
        (tmp_path / "groundTruth" / f"{name}.txt").write_text("\n".join(steps))
    data = DataConfig(format="ms_tcn", root=str(tmp_path))
    with pytest.raises(UserError, match=r"b\.mp4 has 25 frames, and 2 labels; set data\.features_fps"):
        read_annotations(data, TARGETS)
    (tmp_path / "groundTruth" / "b.txt").write_text("\n".join(["mix"] * 24))
    found = read_annotations(data, TARGETS)
    assert stretches(found.splits["train"]) == {"a": [("cut", 0.0, 2.0), ("mix", 2.0, 5.0)]}
    assert stretches(found.splits["test"]) == {"b": [("mix", 0.0, pytest.approx(4.8))]}
    found = read_annotations(replace(data, features_fps=10.0), TARGETS)
    assert stretches(found.splits["train"]) == {"a": [("cut", 0.0, 1.0), ("mix", 1.0, 2.5)]}


def test_stretches_may_be_clips_too(tmp_path: Path) -> None:
    (tmp_path / "Run_val.txt").write_text("a 0 2\n")
    (tmp_path / "Ambiguous_val.txt").write_text("a 3 4\n")
    (tmp_path / "a.mp4").touch()
    found = read_annotations(DataConfig(format="thumos", root=str(tmp_path)))
    assert found.splits["val"] == (VideoRow(tmp_path / "a.mp4", "Run", "a.mp4", 0.0, 2.0, "a.mp4"),)


# Figures


def spans(labels: str) -> tuple[LabelledSpan, ...]:
    """One second a letter; a point is nothing."""
    return tuple(LabelledSpan(k, k + 1, letter) for k, letter in enumerate(labels) if letter != ".")


def test_unlabelled_parts_count_in_no_figure() -> None:
    """The figures are those of the labelled parts as videos of their own."""
    truth = LabelledVideo("v", (*spans("aa..b"), LabelledSpan(6.0, 8.0, "background")), 10.0, uncovered="unlabelled")
    found = LabelledVideo("v", (LabelledSpan(0.0, 3.5, "a"), *spans("....bb.bbb")), 10.0)
    once = TimelineSettings(num_resamples=0)
    figures = judge_timelines(pair_videos([truth], [found]), once).figures
    parts = [
        LabelledVideo("0", spans("aa"), 2.0), LabelledVideo("1", spans("b"), 1.0), LabelledVideo("2", (), 2.0)
    ]  # fmt: skip
    ours = [
        LabelledVideo("0", (LabelledSpan(0.0, 2.0, "a"),), 2.0),
        LabelledVideo("1", spans("b"), 1.0),
        LabelledVideo("2", spans(".b"), 2.0),
    ]
    expected = judge_timelines(pair_videos(parts, ours), once).figures
    for name in ("frame_accuracy", "frame_map", "f1_50", "false_alarms_per_hour", "found_share", "map_iou_50"):
        assert figures[name].value == pytest.approx(expected[name].value), name


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("ab.?"), min_size=1, max_size=12), st.lists(st.sampled_from("ab."), min_size=12))
def test_frames_that_nobody_has_looked_at_are_left_out(true: list[str], found: list[str]) -> None:
    """Against a loop over seconds; a question mark is unlabelled."""
    seconds = float(len(true))
    truth = LabelledVideo("v", spans("".join(true).replace("?", "u")), seconds)
    ours = LabelledVideo("v", spans("".join(found[: len(true)])), seconds)
    pairs = pair_videos([truth], [ours], 1.0, unlabelled=("u",))
    known = [(theirs, mine) for theirs, mine in zip(true, found, strict=False) if theirs != "?"]
    figures = judge_timelines(pairs, TimelineSettings(num_resamples=0)).figures
    if known:
        right = sum(theirs == mine for theirs, mine in known) / len(known)
        assert figures["frame_accuracy"].value == pytest.approx(right)
    assert pairs[0].known_seconds == len(known)
