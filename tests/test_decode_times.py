"""The frame shown at a time: the last whose time is not later, in random access and in streams."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import videos
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decode import VideoReader, open_video
from pipeline.errors import DecodeError

MIXED = ["xvid_bf2.avi", "h264_vfr.mp4", "h264.mkv", "vp9.webm", "mpeg2.mpg", "h264_2997.mp4", "one_frame.mp4"]


def open_odd(shared_data: Path, name: str, decoder: str = "pyav") -> VideoReader:
    return open_video(shared_data / "odd_videos" / name, decoder)


def shown_at(pts_seconds: list[float], time: float) -> float:
    """By naive search; times closer than a microsecond are the same."""
    return max((pts for pts in pts_seconds if pts <= time + 1e-6), default=pts_seconds[0])


@pytest.fixture(scope="module")
def variable_rate(shared_data: Path) -> Iterator[tuple[VideoReader, list[float]]]:
    manifest = videos.load_manifest(shared_data / "odd_videos")
    with open_odd(shared_data, "h264_vfr.mp4") as video:
        yield video, manifest["h264_vfr.mp4"]["pts_seconds"]


def test_variable_rate_times(variable_rate: tuple[VideoReader, list[float]]) -> None:
    video, expected = variable_rate
    assert video.pts_seconds.tolist() == pytest.approx(expected, abs=1e-4)
    assert video.info.duration_seconds > expected[-1]  # the header of this file says less
    assert [time for _, time in video] == pytest.approx(expected, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1, 55.2) | st.integers(0, 1656).map(lambda k: k / 30), max_size=8))
def test_at_is_the_naive_search(variable_rate: tuple[VideoReader, list[float]], times: list[float]) -> None:
    video, _ = variable_rate
    pts = video.pts_seconds.tolist()
    assert video.at(times).pts_seconds.tolist() == [shown_at(pts, min(time, pts[-1])) for time in times]


def test_the_ends(shared_data: Path) -> None:
    with open_odd(shared_data, "xvid_bf2.avi") as video:
        assert video.at([-5.0, 9.999, 10.0]).pts_seconds.tolist() == pytest.approx([0.0, 9.96, 9.96])
        with pytest.raises(DecodeError, match=r"nothing is shown at 10\.100000 s: the video ends at 10\.000000 s"):
            video.at([0.0, 10.1])
        with pytest.raises(ValueError, match="finite"):
            video.at([math.nan])


def test_times_rounded_by_the_container(shared_data: Path) -> None:
    # Matroska stores milliseconds: frame 2 of 30 fps is at 0.067 s, and is still the one shown at 2/30 s.
    with open_video(shared_data / "odd_real" / "flipping_a_pancake.mkv") as video:
        times = [k / 30 for k in range(video.info.num_frames)]
        assert video.at(times).pts_seconds.tolist() == video.pts_seconds.tolist()


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("sample_fps", [4.0, 24.0, 30.0])
def test_stream_is_at(shared_data: Path, name: str, sample_fps: float) -> None:
    with open_odd(shared_data, name) as video:
        streamed = list(video.stream_at(k / sample_fps for k in itertools.count()))
        assert not video._file.has_index  # nothing is read twice
        times = [k / sample_fps for k in range(math.ceil(video.info.duration_seconds * sample_fps - 1e-6))]
        clip = video.at(times)
    assert [time for _, time in streamed] == pytest.approx(clip.pts_seconds.tolist())
    assert all(bool((a == b).all()) for (a, _), b in zip(streamed, clip.frames, strict=True))


@pytest.mark.parametrize("decoder", videos.installed_decoders())
def test_streams_of_all_decoders(shared_data: Path, decoder: str) -> None:
    with open_odd(shared_data, "h264_vfr.mp4", decoder) as video:
        times = [time for _, time in video.stream_at(k / 2 for k in itertools.count())]
        assert times == video.at([k / 2 for k in range(len(times))]).pts_seconds.tolist()
        assert len(times) == math.ceil(video.info.duration_seconds * 2)


def test_stream_converts_a_frame_once(shared_data: Path) -> None:
    with open_odd(shared_data, "h264_gop12.mp4") as video:
        frames = [frame for frame, _ in video.stream_at([0.0, 0.01, 0.02, 0.04])]
    assert frames[0].data_ptr() == frames[1].data_ptr() == frames[2].data_ptr()
    assert frames[3].data_ptr() != frames[2].data_ptr()


def test_stream_times_must_increase(shared_data: Path) -> None:
    with open_odd(shared_data, "h264_gop12.mp4") as video, pytest.raises(ValueError, match=r"got 0\.5 after 1\.0"):
        list(video.stream_at([1.0, 0.5]))


def test_readings_may_overlap(shared_data: Path) -> None:
    with open_odd(shared_data, "xvid_bf2.avi") as video:
        for number, (frame, time) in enumerate(itertools.islice(video, 5)):
            again = video.frames([number])
            assert bool((again.frames[0] == frame).all())
            assert again.pts_seconds.tolist() == [time]
