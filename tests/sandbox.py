"""A folder in which the commands of the documentation can be run as they stand: what their words name, in small."""

from __future__ import annotations

import pickle
import string
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from pipeline.cli.parser import read_experiment
from pipeline.config import Experiment, to_yaml
from pipeline.datasets.official import NUM_OFFICIAL_SPLITS, UT_INTERACTION_LABELS

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
CLIPS_OF_A_CLASS = 6


def furnish(folder: Path, motion_root: Path) -> Path:
    """Fills a new folder with configs, videos and pictures; returns it."""
    clips = {path.name: _clips(motion_root, path.name) for path in (motion_root / "train").iterdir()}
    jump, walk = clips["moves_right"], clips["moves_left"]
    for path in CONFIGS:
        _write(folder / "configs" / path.name, to_yaml(in_small(read_experiment(path))).encode())
    for name, count in (("my_videos", CLIPS_OF_A_CLASS), ("my_few_videos", 3), ("data/videos", CLIPS_OF_A_CLASS)):
        _class_folders(folder / name, {"jump": jump[:count], "walk": walk[:count]})
    _class_folders(folder / "data" / "fights", {"fight": jump, "noFight": walk})
    _write(folder / "data" / "fights" / "groups.csv", _groups(folder / "data" / "fights").encode())
    _ucf101(folder / "data" / "ucf101", {"Archery": jump, "Walk": walk})
    _hmdb51(folder / "data" / "hmdb51", {"sit_up": jump, "wave": walk})
    _ut_interaction(folder / "data" / "set1", list(clips.values()))
    for name in ("ceiling", "long_videos"):
        _stretches(folder / "data" / name, jump)
    furnish_ms_tcn(folder / "data" / "salads50" / "split1")
    for number, clip in enumerate(clips["turns_clockwise"][:3]):
        _copy(clip, folder / "archive" / f"{number}{clip.suffix}")
    _copy(next((motion_root / "untrimmed").glob("*.mp4")), folder / "long_video.mp4")
    _write(folder / "truth.csv", b"path,label,start_seconds,end_seconds\nlong_video.mp4,jump,0,1\n")
    _copy(jump[0], folder / "my_video.mp4")
    _pictures(folder)
    _published_cifar10(folder / "data" / "cifar10")
    return folder


def in_small(experiment: Experiment) -> Experiment:
    """The same experiment, but what it costs: few, small frames, a small backbone in place of a large one, an epoch."""
    data, sampling, transform = experiment.data, experiment.sampling, experiment.transform
    model, training = replace(experiment.model, hidden_channels=4), replace(experiment.training, epochs=1)
    if training.train_frames:
        training = replace(training, train_frames=2)
    if model.weights != "none":
        transform = replace(transform, fit_size_px=40, input_size_px=32)
        model = replace(model, backbone="tiny", weights="none")
        training = replace(training, freeze_batch_norm=False)  # there is nothing in it yet
    return replace(
        experiment,
        data=replace(data, batch_size=4, num_workers=0),
        sampling=replace(sampling, num_frames=min(sampling.num_frames, 3)),
        transform=transform,
        model=model,
        training=training,
    )


def _clips(motion_root: Path, label: str) -> list[Path]:
    """All of a class, MP4 first."""
    found = sorted(motion_root.glob(f"*/{label}/*"), key=lambda path: (path.suffix != ".mp4", path))
    return found[:CLIPS_OF_A_CLASS]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _copy(source: Path, target: Path) -> None:
    _write(target, source.read_bytes())


def _class_folders(root: Path, clips: dict[str, Sequence[Path]]) -> None:
    """jump/a.mp4, jump/b.mp4, ..., and the letters go on in the next class, as in data/README.md."""
    letters = iter(string.ascii_lowercase)
    for label, paths in clips.items():
        for path in paths:
            _copy(path, root / label / f"{next(letters)}{path.suffix}")


def _groups(root: Path) -> str:
    """A source for each video."""
    names = [path.relative_to(root).as_posix() for path in sorted(root.glob("*/*"))]
    return "file,source_group\n" + "".join(f"{name},{number}\n" for number, name in enumerate(names))


def _part(number: int, split: int) -> str:
    """Of six clips, split k tests on the k-th pair."""
    return "test" if number // 2 == split - 1 else "train"


def _ucf101(root: Path, clips: dict[str, Sequence[Path]]) -> None:
    lists = {"classInd": "".join(f"{number} {label}\n" for number, label in enumerate(clips, start=1))}
    for class_number, (label, paths) in enumerate(clips.items(), start=1):
        for number, path in enumerate(paths):
            name = f"{label}/v_{label}_g{number + 1:02}_c01.avi"
            _copy(path, root / "UCF-101" / name)
            for split in range(1, NUM_OFFICIAL_SPLITS + 1):
                part = _part(number, split)
                line = f"{name} {class_number}\n" if part == "train" else f"{name}\n"
                lists[f"{part}list{split:02}"] = lists.get(f"{part}list{split:02}", "") + line
    for name, text in lists.items():
        _write(root / "ucfTrainTestlist" / f"{name}.txt", text.encode())


def _hmdb51(root: Path, clips: dict[str, Sequence[Path]]) -> None:
    for label, paths in clips.items():
        names = [f"Film{number}_{label}_u_nm_np1_fr_goo_{number}.avi" for number in range(len(paths))]
        for name, path in zip(names, paths, strict=True):
            _copy(path, root / label / name)
        for split in range(1, NUM_OFFICIAL_SPLITS + 1):
            parts = [1 if _part(number, split) == "train" else 2 for number in range(len(names))]
            text = "".join(f"{name} {part} \n" for name, part in zip(names, parts, strict=True))
            _write(root / "testTrainMulti_7030_splits" / f"{label}_test_split{split}.txt", text.encode())


def _ut_interaction(root: Path, clips: Sequence[Sequence[Path]]) -> None:
    """Two sequences with a video of each class."""
    for label in range(len(UT_INTERACTION_LABELS)):
        for sequence, path in enumerate(clips[label][:2], start=1):
            _copy(path, root / f"{label}_{sequence}_{label}.avi")


def _stretches(root: Path, clips: Sequence[Path]) -> None:
    """Videos that each show one thing and then another, and a table of when."""
    lines = ["path,label,start_seconds,end_seconds"]
    for number, clip in enumerate(clips):
        _copy(clip, root / f"{number}{clip.suffix}")
        lines += [
            f"{number}{clip.suffix},{label},{start},{start + 0.5}" for label, start in (("sit", 0.2), ("fall", 0.9))
        ]
    _write(root / "manifest.csv", "\n".join(lines).encode())


def furnish_ms_tcn(root: Path) -> None:
    """Features of four videos, and a label for each step."""
    rng, names = np.random.default_rng(0), ["a", "b", "c", "d"]
    (root / "features").mkdir(parents=True)
    for number, name in enumerate(names):
        labels = np.repeat(["cut", "background", "mix"], 20 + number)
        np.save(root / "features" / f"{name}.npy", rng.normal(size=(6, len(labels))).astype(np.float16))
        _write(root / "groundTruth" / f"{name}.txt", "\n".join(labels).encode())
    _write(root / "mapping.txt", b"0 cut\n1 mix\n2 background\n")
    for part, some in (("train", names[:3]), ("test", names[3:])):
        _write(root / "splits" / f"{part}.split1.bundle", "".join(f"{name}.txt\n" for name in some).encode())


def _pictures(folder: Path) -> None:
    """cifar10.zip, and some pictures in a folder."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(folder / "cifar10.zip", "w") as archive:
        for part, count in (("train", 4), ("test", 2)):
            for label in ("airplane", "automobile"):
                for number in range(count):
                    picture = cv2.imencode(".jpg", rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))[1].tobytes()
                    archive.writestr(f"{part}/{label}/{number:04}.jpg", picture)
                    _write(folder / "my_pictures" / f"{label}_{number}.jpg", picture)


def _published_cifar10(root: Path) -> None:
    """The files of the archive, with four pictures in each."""
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    content = {
        name: {"data": rng.integers(0, 255, (4, 3072), dtype=np.uint8), "labels": [0, 1, 0, 1]} for name in names
    }
    for name, batch in (content | {"batches.meta": {"label_names": ["airplane", "automobile"]}}).items():
        _write(root / "cifar-10-batches-py" / name, pickle.dumps(batch))
