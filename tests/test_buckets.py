"""Videos in buckets: an S3 server on the loopback, and fsspec's memory in the place of another store."""

from __future__ import annotations

import csv
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from pipeline.buckets import BucketPath, source_path
from pipeline.checkpoint import save_model
from pipeline.cli import main
from pipeline.config import ClipSettings, DataConfig, DecodeConfig
from pipeline.datasets.formats import read_annotations
from pipeline.decode import VideoOpener, open_video
from pipeline.errors import DecodeError, UserError
from tests.bucket_server import KEYS, BucketServer, serving_buckets
from tests.long_videos import make_long_videos
from tests.small import small_model

ALLOWED = DecodeConfig(allow_url=True, timeout_seconds=20.0)


@pytest.fixture(scope="module")
def server() -> Iterator[BucketServer]:
    with serving_buckets() as running:
        yield running


@pytest.fixture
def bucket(server: BucketServer) -> Iterator[BucketServer]:
    """The server with an empty bucket ``clips``."""
    yield server
    server.clear()


@pytest.mark.parametrize("settings", [{}, {"isolate": True}, {"decoder": "opencv"}])
def test_an_object_gives_the_frames_of_the_file(
    bucket: BucketServer, motion_root: Path, settings: dict[str, Any]
) -> None:
    file = next(motion_root.rglob("*.mp4"))
    bucket.put("a/jump.mp4", file.read_bytes())
    with open_video(file) as reader:
        expected = reader.frames([0, 3, len(reader) - 1])
    with (
        VideoOpener(DecodeConfig(allow_url=True, **settings)) as opener,
        opener.open("s3://clips/a/jump.mp4") as reader,
    ):
        found = reader.frames([0, 3, len(reader) - 1])
    assert torch.equal(found.frames, expected.frames)
    assert torch.equal(found.pts_seconds, expected.pts_seconds)


def test_only_the_ranges_that_are_needed_are_read(bucket: BucketServer, motion_root: Path) -> None:
    content = next(motion_root.rglob("*.mp4")).read_bytes()
    padding = (6 << 20).to_bytes(4, "big") + b"free" + bytes((6 << 20) - 8)  # a box of an MP4 that readers pass over
    bucket.put("long.mp4", content + padding)
    bucket.requests.clear()
    with VideoOpener(ALLOWED).open("s3://clips/long.mp4") as reader:
        assert len(reader.frames([0])) == 1
    ranges = {said for method, _, said in bucket.requests if method == "GET"}
    assert all(ranges), "never whole"
    assert len([said for method, _, said in bucket.requests if method == "GET"]) == len(ranges), "each once"
    assert len(ranges) <= 3


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("missing.mp4", "open: there is no such object"),
        ("forbidden.mp4", r"open: .*the store forbids it \(403\)"),
        ("slow.mp4", r"open: no answer within 1 s \(decode.timeout_seconds\)"),
        ("damaged.mp4", "open: FFmpeg says: .*damaged or cut off"),
        ("empty.mp4", "open: the file is empty"),
        ("large.mp4", "open: it is larger than decode.max_download_mb = 1 allows"),
    ],
)
@pytest.mark.parametrize("isolate", [False, True])
def test_a_bad_object_is_one_error(
    bucket: BucketServer, motion_root: Path, name: str, cause: str, isolate: bool
) -> None:
    content = next(motion_root.rglob("*.mp4")).read_bytes()
    contents = {"damaged.mp4": content[:400], "empty.mp4": b"", "large.mp4": content + bytes(1_000_000)}
    if name != "missing.mp4":
        bucket.put(name, contents.get(name, content))
    bucket.forbidden, bucket.slow = {"forbidden.mp4"}, {"slow.mp4"}
    config = DecodeConfig(allow_url=True, timeout_seconds=1.0, max_download_mb=1, isolate=isolate)
    with VideoOpener(config) as opener, pytest.raises(DecodeError, match=rf"s3://clips/{name}: {cause}"):
        opener.open(f"s3://clips/{name}")


def test_nothing_is_read_unless_allowed(
    bucket: BucketServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "m.safetensors")
    save_model(tmp_path / "m.safetensors", small_model())
    bucket.requests.clear()
    for words in (["predict", model, "s3://clips/a.mp4"], ["check", "s3://clips"], ["doctor", "s3://clips"]):
        assert main(words) == 2
        assert "--decode.allow_url true" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"data\.root s3://clips/a is in a bucket.*set decode\.allow_url true"):
        ClipSettings(data=DataConfig(root="s3://clips/a"))
    with pytest.raises(DecodeError, match=r"set decode\.allow_url true"):
        VideoOpener(DecodeConfig()).open(source_path("s3://clips/a.mp4"))
    with pytest.raises(DecodeError, match="only local files are read"):
        open_video("s3://clips/a.mp4")
    assert not bucket.requests


def test_predict_and_check_a_folder_with_bad_objects(
    bucket: BucketServer, motion_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = next(motion_root.rglob("*.mp4")).read_bytes()
    for name in ("good.mp4", "sub/good.mp4", "forbidden.mp4", "notes.txt"):
        bucket.put(f"v/{name}", content)
    bucket.put("v/bad.mp4", content[:400])
    bucket.forbidden = {"forbidden.mp4"}
    model = tmp_path / "m.safetensors"
    save_model(model, small_model())
    allowed = ["--decode.allow_url", "true", "--quiet"]
    assert main(["predict", str(model), "s3://clips/v", "--json", str(tmp_path / "p.json"), *allowed]) == 1
    videos = {video["path"]: video for video in json.loads((tmp_path / "p.json").read_text())["videos"]}
    assert list(videos) == [f"s3://clips/v/{name}" for name in ("bad.mp4", "forbidden.mp4", "good.mp4", "sub/good.mp4")]
    assert [video["status"] for video in videos.values()] == ["error", "error", "ok", "ok"]
    assert "403" in videos["s3://clips/v/forbidden.mp4"]["error"]
    assert main(["check", "s3://clips/v", "--csv", str(tmp_path / "c.csv"), *allowed]) == 1
    with (tmp_path / "c.csv").open(newline="") as lines:
        verdicts = {row["path"].rpartition("/")[2]: row["verdict"] for row in csv.DictReader(lines)}
    assert (verdicts["bad.mp4"], verdicts["forbidden.mp4"], verdicts["good.mp4"]) == ("unusable", "unusable", "usable")
    texts = "".join(path.read_text() for path in tmp_path.glob("[pc].*")) + "".join(capsys.readouterr())
    for secret in KEYS.values():
        assert secret not in texts


def some_files(root: Path) -> list[Path]:
    """Videos of three classes, of all parts, train first, whose number is even there: no batch is left out."""
    labels = ("background", "appears", "grows")
    folders = [root / part / label for part in ("train", "val", "test") for label in labels]
    return [file for folder in folders for file in sorted(folder.iterdir())[:4]]


def train_words(tmp_path: Path, *more: str) -> list[str]:
    settings = {
        "data.batch_size": 2, "data.num_workers": 0, "data.max_bad_fraction": 0.5, "decode.allow_url": "true",
        "sampling.num_frames": 4, "sampling.sample_fps": 5, "transform.fit_size_px": 40, "transform.input_size_px": 32,
        "model.backbone": "tiny", "model.weights": "none", "model.heads": "[convgru]", "model.hidden_channels": 8,
        "training.epochs": 1, "training.freeze_batch_norm": "false", "training.precision": "fp32",
        "output_dir": tmp_path, "name": "run",
    }  # fmt: skip
    return [
        "train",
        "--quiet",
        *(word for name, value in settings.items() for word in (f"--{name}", str(value))),
        *more,
    ]


def test_a_training_on_a_manifest_in_a_bucket(
    bucket: BucketServer, motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BucketPath, "timeout_seconds", 2.0)
    files = some_files(motion_root)
    names = [file.relative_to(motion_root).as_posix() for file in files]
    bad_ones = [name for name in names if name.startswith("train/background")]
    parts = dict(zip(bad_ones, ("forbidden", "slow", "damaged"), strict=False))
    lines = ["path,label,split"]
    for file, name in zip(files, names, strict=True):
        content = file.read_bytes()
        bucket.put(f"set/{name}", content[:400] if parts.get(name) == "damaged" else content)
        lines.append(f"{name},{file.parent.name},{name.partition('/')[0]}")
    bucket.put("set/manifest.csv", "\n".join(lines).encode())
    bucket.forbidden, bucket.slow = ({f"/clips/set/{name}"} for name in bad_ones[:2])
    data = ["--data.format", "manifest", "--data.root", "s3://clips/set", "--decode.timeout_seconds", "2"]
    assert main(train_words(tmp_path, *data)) == 0
    with (tmp_path / "run" / "bad_videos.csv").open(newline="") as lines_of_bad:
        bad = {row["path"]: row["cause"] for row in csv.DictReader(lines_of_bad)}
    causes = dict(zip(parts.values(), (bad[f"s3://clips/set/{name}"] for name in parts), strict=True))
    assert len(bad) == 3
    assert "403" in causes["forbidden"]
    assert "no answer within 2 s" in causes["slow"]
    assert "damaged or cut off" in causes["damaged"]
    known = json.loads((tmp_path / "run" / "data.json").read_text())
    assert known["videos"]
    bucket.forbidden, bucket.slow = set(), set()
    model = str(tmp_path / "run" / "model.safetensors")
    assert main(["evaluate", model, "--quiet", "--decode.allow_url", "true", "--device", "cpu"]) == 0


def test_the_tutorial_on_a_bucket(
    bucket: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Long videos are checked, a model learns when things happen in them, and finds it in one that it has not seen."""
    monkeypatch.setattr(BucketPath, "timeout_seconds", 2.0)
    videos = tmp_path / "videos"
    videos.mkdir()
    make_long_videos(videos)
    table = (videos / "manifest.csv").read_text()
    bad_ones = ("damaged", "slow", "forbidden")
    for name in bad_ones:
        (videos / f"{name}.mp4").write_bytes((videos / "0.mp4").read_bytes()[: 400 if name == "damaged" else None])
        table += f"{name}.mp4,red,0,1,train\n"
    (videos / "manifest.csv").write_text(table)
    for file in videos.iterdir():
        bucket.put(f"mine/{file.name}", file.read_bytes())
    bucket.forbidden, bucket.slow = {"forbidden.mp4"}, {"/clips/mine/slow.mp4"}
    allowed = ["--decode.allow_url", "true", "--decode.timeout_seconds", "2"]

    assert main(["check", "s3://clips/mine", "--csv", str(tmp_path / "c.csv"), "--quiet", *allowed]) == 1
    with (tmp_path / "c.csv").open(newline="") as lines:
        verdicts = {row["path"].rpartition("/")[2]: row["verdict"] for row in csv.DictReader(lines)}
    assert [name for name, verdict in verdicts.items() if verdict != "usable"] == sorted(f"{n}.mp4" for n in bad_ones)

    words = {
        "data.root": "s3://clips/mine", "data.num_workers": 0, "data.max_bad_fraction": 0.5, "model.backbone": "tiny",
        "model.weights": "none", "transform.fit_size_px": 40, "transform.input_size_px": 32, "sampling.sample_fps": 5,
        "sequence.delay_frames": 1, "training.epochs": 2, "training.freeze_batch_norm": "false",
        "output_dir": tmp_path, "name": "run",
    }  # fmt: skip
    options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    assert main(["train", "--config", "configs/folder_timeline.yaml", "--quiet", *options, *allowed]) == 0
    with (tmp_path / "run" / "bad_videos.csv").open(newline="") as lines:
        causes = {Path(row["path"]).stem: row["cause"] for row in csv.DictReader(lines)}
    assert "damaged or cut off" in causes["damaged"]
    assert "no answer within 2 s" in causes["slow"]
    assert "403" in causes["forbidden"]

    model, new = str(tmp_path / "run" / "model.safetensors"), "s3://clips/mine/6.mp4"
    outputs = ["--csv", str(tmp_path / "t.csv"), "--html", str(tmp_path / "out"), "--json", str(tmp_path / "t.json")]
    capsys.readouterr()
    assert main(["predict", model, new, *outputs, "--quiet", *allowed]) == 0
    assert main(["predict", model, str(videos / "6.mp4"), "--json", str(tmp_path / "own.json"), "--quiet"]) == 0
    (found,), (own,) = (json.loads((tmp_path / name).read_text())["videos"] for name in ("t.json", "own.json"))
    assert found["path"] == new
    assert found["segments"] == own["segments"]
    assert new in (tmp_path / "out" / "6.html").read_text()


@pytest.mark.parametrize("command", ["label", "learn"])
def test_what_keeps_labels_beside_videos_wants_them_here(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "s3://clips/mine"]) == 2
    assert "s3://clips/mine: labels are kept beside the videos" in capsys.readouterr().err


def test_a_manifest_on_the_disk_names_objects(bucket: BucketServer, tmp_path: Path) -> None:
    for name in ("a.mp4", "b/c.mp4"):
        bucket.put(f"set/{name}", b"any")
    manifest = tmp_path / "videos.csv"
    manifest.write_text("path,label\na.mp4,x\nb/c.mp4,y\n")
    data = DataConfig(format="manifest", root="s3://clips/set", annotations=str(manifest))
    paths = [str(row.path) for row in read_annotations(data).splits["all"]]
    assert paths == ["s3://clips/set/a.mp4", "s3://clips/set/b/c.mp4"]
    for line, cause in (
        ("d.mp4,x", r"lists videos that are not under s3://clips/set\. 1: d\.mp4"),
        ("../other/e.mp4,x", "leads out of the root s3://clips/set"),
        ("s3://other/e.mp4,x", "not under"),
    ):
        manifest.write_text(f"path,label\na.mp4,x\n{line}\n")
        with pytest.raises(UserError, match=cause):
            read_annotations(data)


def test_a_training_on_class_folders_in_a_bucket(bucket: BucketServer, motion_root: Path, tmp_path: Path) -> None:
    for file in some_files(motion_root):
        bucket.put(file.relative_to(motion_root).as_posix(), file.read_bytes())
    more = ["--data.root", "s3://clips", "--data.cache", "frames", "--data.num_workers", "2"]
    assert main(train_words(tmp_path, *more)) == 0
    assert main(["train", "--data.root", "s3://nowhere/at/all", "--decode.allow_url", "true"]) == 2


@pytest.mark.parametrize("name", ["motion", "motion_timeline", "ms_tcn", "boris", "images", "shards", "ucf101"])
def test_formats_that_are_read_on_a_disk_say_so_and_make_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "--data.format", name, "--data.root", "s3://clips/set", "--decode.allow_url", "true"]
    assert main([*words, "--data.cache", "none"]) == 2
    assert f"s3://clips/set: data.format {name} is read on a disk alone; set one that" in capsys.readouterr().err
    assert not list(tmp_path.glob("s3*"))


class _OtherStore(MemoryFileSystem):  # type: ignore[misc]
    """fsspec's memory, by the addresses of Google's store."""

    protocol = "gs"
    store: dict[str, Any] = {}  # noqa: RUF012 (as it is there)
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("gs://")))


def test_other_stores_by_their_packages(motion_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = next(motion_root.rglob("*.mp4"))
    monkeypatch.setitem(_registry, "gs", _OtherStore)
    _OtherStore().pipe("/bucket/a/b.mp4", file.read_bytes())
    path = source_path("gs://bucket/a/b.mp4")
    assert path.stat().st_size == file.stat().st_size
    assert path.read_bytes() == file.read_bytes()
    assert [str(found) for found in source_path("gs://bucket").objects()] == ["gs://bucket/a/b.mp4"]  # type: ignore[attr-defined]
    with VideoOpener(ALLOWED).open(path) as reader, open_video(file) as expected:
        assert torch.equal(reader[2], expected[2])


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, scheme, cure in (
        ("s3fs", "s3", r"pip install 'clipgru\[buckets\]'"),
        ("gcsfs", "gs", "pip install gcsfs"),
        ("adlfs", "az", "pip install adlfs"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(_registry, scheme, raising=False)
        with pytest.raises(UserError, match=rf"{scheme}://b/x\.mp4: needs the package {package}.*{cure}"):
            source_path(f"{scheme}://b/x.mp4").stat()


def test_paths_keep_what_they_are() -> None:
    path = source_path("s3://bucket/a/b c.mp4")
    assert str(path) == "s3://bucket/a/b c.mp4"
    assert str(path.parent / "d.mp4") == "s3://bucket/a/d.mp4"
    assert path.relative_to("s3://bucket").as_posix() == "a/b c.mp4"
    assert str(pickle.loads(pickle.dumps(path))) == str(path)
    assert path.absolute() == path.resolve() == path
    assert source_path("a/b.mp4") == Path("a/b.mp4")


@pytest.mark.parametrize(
    "address", ["s3://key:hidden-word@bucket/a.mp4", "s3://bucket/a.mp4?token=hidden-word", "gs://bucket//hidden-word"]
)
def test_an_address_with_anything_secret_is_refused_unseen(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", address, "--decode.allow_url", "true"]) == 2
    message = capsys.readouterr().err
    assert "hidden-word" not in message
    assert "keys belong into the environment" in message
