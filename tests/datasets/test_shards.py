"""Shards: the same rows, the same pixels and the same training as from files, and tars that others read too."""

from __future__ import annotations

import json
import signal
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline import cli
from pipeline.config import DataConfig, to_yaml
from pipeline.datasets.annotations import Annotations, VideoRow
from pipeline.datasets.datamodule import make_loader
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.settled import make_splits
from pipeline.datasets.shards import read_shards, write_shards
from pipeline.datasets.videos import SampleKey, VideoDataset, fixed_clips, random_clip
from pipeline.decode import VideoOpener
from pipeline.errors import DecodeError, UserError
from pipeline.files.stopping import Interrupted
from pipeline.training.fit import train
from tests.small import small_experiment
from tests.stopping import signal_in_batch
from tests.training.test_training import assert_same, weights_of


def in_files(motion_root: Path) -> Annotations:
    return read_annotations(DataConfig(format="folder", root=str(motion_root)))


@pytest.fixture(scope="module")
def shards(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small motion set in tars of 0.1 MB at most."""
    folder = tmp_path_factory.mktemp("shards") / "packed"
    annotations, seen = in_files(motion_root), []
    packed = write_shards(annotations, folder, 100_000, seed=0, progress=lambda: seen.append(1))
    assert packed.num_videos == len(seen) == sum(map(len, annotations.splits.values()))
    sizes = [path.stat().st_size for path in folder.glob("*.tar")]
    assert packed.num_shards == len(sizes) > 3
    assert packed.num_bytes == sum(sizes)
    return folder


def test_rows_are_those_of_the_files(motion_root: Path, shards: Path) -> None:
    files, packed = in_files(motion_root), read_shards(shards)
    assert packed.labels == files.labels
    assert list(packed.splits) == list(files.splits)
    for part, rows in files.splits.items():
        found = packed.splits[part]
        assert [(row.name, row.label, row.group) for row in found] == [(r.name, r.label, r.group) for r in rows]
        assert all(row.part is not None and row.part.path.name.startswith(part) for row in found)


@pytest.mark.parametrize(("workers", "isolate"), [(0, False), (2, False), (0, True)])
def test_every_clip_is_the_same_and_comes_once(
    motion_root: Path, shards: Path, tmp_path: Path, workers: int, isolate: bool
) -> None:
    experiment = small_experiment(motion_root, tmp_path)
    experiment = replace(experiment, decode=replace(experiment.decode, isolate=isolate))
    experiment = replace(experiment, data=replace(experiment.data, num_workers=workers))
    files, packed = in_files(motion_root), read_shards(shards)
    for part, choose in (("test", fixed_clips), ("train", random_clip)):
        seen = []
        loaders = [make_loader(found.splits[part], files.labels, experiment.clips, choose) for found in (files, packed)]
        for ours, theirs in zip(*loaders, strict=True):
            assert torch.equal(ours.frames, theirs.frames)
            assert torch.equal(ours.rows, theirs.rows)
            assert not theirs.bad
            seen += theirs.rows.unique().tolist()
        assert len(seen) == len(set(seen))
        assert len(seen) == len(files.splits[part]) - (len(files.splits[part]) % 8 if part == "train" else 0)


def test_a_resumed_training_on_shards_ends_as_one_on_files(
    motion_root: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small_experiment(motion_root, tmp_path / "files")
    packed = replace(experiment.data, format="shards", root=str(shards))
    cut = replace(experiment, output_dir=str(tmp_path / "shards"), data=packed)
    whole = weights_of(experiment)
    with monkeypatch.context() as patch:
        signal_in_batch(patch, 7, signal.SIGINT)
        with pytest.raises(Interrupted):
            train(cut, quiet=True)
    assert_same(weights_of(cut, resume=True), whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its files open
def test_webdataset_reads_the_tars(motion_root: Path, shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    files = in_files(motion_root)
    urls = sorted(str(path) for path in shards.glob("train-*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    rows = {row.name: row for row in files.splits["train"]}
    assert len(samples) == len(rows)
    for sample in samples:
        facts = json.loads(sample["json"])
        row = rows.pop(facts["name"])
        assert sample[row.path.suffix[1:]] == row.path.read_bytes()
        assert files.labels[int(sample["cls"])] == row.label
        assert [(r["split"], r["label"], r["group"]) for r in facts["rows"]] == [("train", row.label, row.group)]
    assert not rows


def test_the_same_videos_give_the_same_bytes_and_a_video_of_several_rows_is_packed_once(
    motion_root: Path, tmp_path: Path
) -> None:
    (long,) = (motion_root / "untrimmed").glob("*.mp4")
    short = next((motion_root / "test" / "grows").iterdir())
    rows = (
        VideoRow(long, "a", "g", 0.0, 2.0, "long.mp4"),
        VideoRow(long, "b", "g", 2.0, None, "long.mp4"),
        VideoRow(short, "b", "h", name="short.mp4"),
    )
    annotations = Annotations(("a", "b"), {"train": rows[:1], "all": rows[1:]}, (Path("gone.mp4"),), True)
    for name in ("one", "two"):
        assert write_shards(annotations, tmp_path / name, 1, 3, lambda: None).num_videos == 2
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["all-000000.tar", "index.json", "train-000000.tar"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with tarfile.open(tmp_path / "one" / "train-000000.tar") as tar:
        assert tar.getnames() == ["00000000.mp4", "00000000.json"]  # two labels: no .cls
    found = read_shards(tmp_path / "one")
    assert [replace(row, path=row.path, part=None) for part in found.splits.values() for row in part] == [
        replace(row, path=tmp_path / "one" / row.name) for row in rows
    ]
    assert found.splits["all"][0].part == found.splits["train"][0].part
    assert (found.absent, found.may_share_groups) == ((Path("gone.mp4"),), True)


def test_damaged_and_missing_tars_are_named_and_the_others_go_on(
    motion_root: Path, shards: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    for path in shards.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    found = read_shards(folder)
    names = sorted({row.part.path.name for row in found.splits["train"] if row.part})
    rows = {name: [r for r in found.splits["train"] if r.part and r.part.path.name == name] for name in names}
    missing, cut, changed = (folder / name for name in names[:3])
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:600])
    victim = rows[changed.name][0]
    assert victim.part is not None
    content = bytearray(changed.read_bytes())
    content[victim.part.start_byte + victim.part.num_bytes // 2] ^= 1
    changed.write_bytes(content)
    train_rows = found.splits["train"]
    dataset = VideoDataset(train_rows, found.labels, small_experiment(motion_root, tmp_path).clips, random_clip)
    bad = {}
    for index, row in enumerate(train_rows):
        sample = dataset[SampleKey(0, index)]
        if sample.bad is not None:
            bad[row.name] = sample.bad.cause
    assert bad.keys() == {row.name for name in names[:2] for row in rows[name]} | {victim.name}
    assert all(f"the shard {missing}" in bad[row.name] and "missing" in bad[row.name] for row in rows[missing.name])
    assert all(f"the shard {cut}" in bad[row.name] and "cut off" in bad[row.name] for row in rows[cut.name])
    assert f"the shard {changed} has other bytes" in bad[victim.name]


def test_nothing_is_left_of_an_unpacked_video(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, motion_root: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opener = VideoOpener(replace(small_experiment(motion_root, tmp_path).decode, index_cache=True))
    row = read_shards(shards).splits["test"][0]
    assert row.part is not None
    with opener.open(row.source) as reader:
        assert len(list(tmp_path.iterdir())) == 1
        assert len(reader.at([0.0]).frames) == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DecodeError, match="other bytes"):
        opener.open(replace(row.part, start_byte=0))
    assert list(tmp_path.iterdir()) == []


def test_the_command_keeps_the_split_that_training_draws(
    motion_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = small_experiment(motion_root / "train", tmp_path)
    (tmp_path / "config.yaml").write_text(to_yaml(experiment))
    command = ["shard", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "packed"), "--shard_mb", "1"]
    assert cli.main([*command, "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["num_videos"] == 45
    data = replace(experiment.data, format="shards", root=str(tmp_path / "packed"))
    ours, theirs = (make_splits(read_annotations(given), given, 4) for given in (experiment.data, data))
    for part in ("train", "val", "test"):
        assert [row.name for row in getattr(ours, part)] == [row.name for row in getattr(theirs, part)]
    assert cli.main(command) == 2
    assert "is not empty; choose a new folder" in capsys.readouterr().err


def test_an_index_that_is_none_is_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="clipgru shard writes it last"):
        read_shards(tmp_path)
    index = json.loads((shards / "index.json").read_text())
    index["samples"][0]["shard"] = "../elsewhere.tar"
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="no index of shards, or a damaged one"):
        read_shards(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(UserError, match="no index of shards, or a damaged one"):
        read_shards(tmp_path)


def test_rows_of_timelines_keep_what_nobody_has_looked_at(motion_root: Path, tmp_path: Path) -> None:
    (long,) = (motion_root / "untrimmed").glob("*.mp4")
    rows = (
        VideoRow(long, "", "g", name="long.mp4", looked_at=False),
        VideoRow(long, "a", "g", 0.0, 2.0, "long.mp4"),
        VideoRow(long, "", "g", 3.0, 4.0, "long.mp4"),
    )
    write_shards(Annotations(("a", "b"), {"all": rows}), tmp_path / "one", 1, 3, lambda: None)
    found = read_shards(tmp_path / "one").splits["all"]
    assert [replace(row, path=long, part=None) for row in found] == list(rows)
