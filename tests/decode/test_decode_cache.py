"""The index cache: the same index again, and never that of another file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import DecodeConfig
from pipeline.decode import VideoOpener, cache, reader
from pipeline.decode.health import USABLE, examine
from pipeline.decode.index import VideoIndex
from pipeline.decode.reader import VideoFile
from pipeline.errors import DecodeError

CACHED = DecodeConfig(index_cache=True)
NAMES = ["xvid_bf2.avi", "h264_vfr.mp4", "vp9.webm", "mpeg2.mpg", "rot90.mp4"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "clipgru" / "index"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose index was built."""
    paths: list[Path] = []
    build = reader.build_index

    def noting(video: reader.OpenVideo) -> VideoIndex:
        paths.append(video.path)
        return build(video)

    monkeypatch.setattr(reader, "build_index", noting)
    return paths


def index_of(path: Path, config: DecodeConfig = CACHED) -> VideoIndex:
    file = VideoFile(path, config)
    index = file.index
    file.close()
    return index


def copy(source: Path, target: Path, seconds_old: float = 100.0) -> Path:
    shutil.copyfile(source, target)
    os.utime(target, (target.stat().st_atime - seconds_old, target.stat().st_mtime - seconds_old))
    return target


@pytest.mark.parametrize("name", NAMES)
def test_the_same_index_again(shared_data: Path, folder: Path, built: list[Path], name: str) -> None:
    path = shared_data / "odd_videos" / name
    first, again, fresh = index_of(path), index_of(path), index_of(path, DecodeConfig())
    assert len(built) == 2  # the first, and the one that may not be cached
    for other in (again, fresh):
        assert (other.info, other.is_proven) == (first.info, first.is_proven)
        assert np.array_equal(other.pts_seconds, first.pts_seconds)
        assert np.array_equal(other.keyframes, first.keyframes)
        assert (other.ticks is None) == (first.ticks is None)
        assert other.ticks is None or np.array_equal(other.ticks, first.ticks)
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("isolate", [False, True])
def test_frames_by_a_cached_index(shared_data: Path, folder: Path, isolate: bool) -> None:
    config = DecodeConfig(index_cache=True, isolate=isolate)
    clips = []
    for _ in range(2):
        with VideoOpener(config) as opener, opener.open(shared_data / "odd_videos" / "h264_gop12.mp4") as video:
            clips.append(video.frames([3, 200, 100]).frames)
    assert bool((clips[0] == clips[1]).all())
    assert len(list(folder.iterdir())) == 1


def test_a_file_that_changed(shared_data: Path, folder: Path, tmp_path: Path, built: list[Path]) -> None:
    path = tmp_path / "video.mp4"
    for name, seconds_old in [("h264_gop12.mp4", 100.0), ("h264_2997.mp4", 100.0), ("h264_2997.mp4", 50.0)]:
        copy(shared_data / "odd_videos" / name, path, seconds_old)
        index_of(path)
    assert len(built) == 3
    assert index_of(path).info.average_fps != 25
    assert len(built) == 3
    assert len(list(folder.iterdir())) == 1  # the old ones are replaced


def test_a_file_that_is_being_written_is_not_cached(shared_data: Path, folder: Path, tmp_path: Path) -> None:
    index_of(copy(shared_data / "odd_videos" / "h264_gop12.mp4", tmp_path / "video.mp4", seconds_old=0))
    assert not folder.exists()


def test_damaged_entries_are_made_anew(shared_data: Path, folder: Path, built: list[Path]) -> None:
    path = shared_data / "odd_videos" / "two_frames.mp4"
    index_of(path)
    [entry] = folder.glob("??/*")
    whole = entry.read_bytes()
    damaged = [whole[:k] for k in (0, 10, 32, 39, 60, len(whole) - 1)]
    damaged += [whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :] for k in range(0, len(whole), 37)]
    for number, content in enumerate(damaged):
        entry.write_bytes(content)
        assert index_of(path).info.num_frames == 2
        assert len(built) == 2 + number
        assert entry.read_bytes() == whole


def test_another_version_is_not_believed(
    shared_data: Path, folder: Path, built: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shared_data / "odd_videos" / "two_frames.mp4"
    index_of(path)
    monkeypatch.setattr(cache, "INDEX_VERSION", cache.INDEX_VERSION + 1)
    index_of(path)
    assert len(built) == 2


def test_limits_hold_for_cached_indexes(shared_data: Path, folder: Path) -> None:
    path = shared_data / "odd_videos" / "h264_gop12.mp4"
    index_of(path)
    with pytest.raises(DecodeError, match=r"decode\.max_frames = 100"):
        index_of(path, DecodeConfig(index_cache=True, max_frames=100))


def test_a_cache_that_cannot_be_written(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: list[Path]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert index_of(shared_data / "odd_videos" / "two_frames.mp4").info.num_frames == 2
    assert len(built) == 2


def test_without_a_home_there_is_no_cache(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, built: list[Path]
) -> None:
    """As a user of a container may have none."""

    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", no_home)
    path = shared_data / "odd_videos" / "two_frames.mp4"
    for _ in range(2):
        assert index_of(path).info.num_frames == 2
    assert len(built) == 2
    assert examine(path, CACHED).health.verdict == USABLE
