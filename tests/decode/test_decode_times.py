"""When each frame is shown, in every container, and the frame shown at a time: the last whose time is not later."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import videos
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decode import VideoReader, open_video
from pipeline.decode.container import Header
from pipeline.decode.times import NO_TIME, Stamps, make_timeline, shown_from
from pipeline.errors import DecodeError
from pipeline.sampling import grid_range, grid_seconds

MIXED = ["xvid_bf2.avi", "h264_vfr.mp4", "h264.mkv", "vp9.webm", "mpeg2.mpg", "h264_2997.mp4", "one_frame.mp4"]


def open_odd(shared_data: Path, name: str, decoder: str = "pyav") -> VideoReader:
    return open_video(shared_data / "odd_videos" / name, decoder)


def shown_at(pts_seconds: list[float], time: float) -> float:
    """By naive search; times closer than a tick are the same."""
    return max((pts for pts in pts_seconds if pts <= time + 1 / 15360), default=pts_seconds[0])


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
@given(st.lists(st.integers(-1, 165600).map(lambda k: k / 3000), max_size=8))
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


# The file's own times, in every container.

NONE = np.empty(0, np.int64)


def far_apart(pts_seconds: list[float], expected: list[float | None]) -> float:
    """The greatest difference, both counted from the first; what is not known is left out."""
    first = next(time for time in expected if time is not None)
    origin = pts_seconds[expected.index(first)]
    pairs = zip(pts_seconds, expected, strict=True)
    return max(abs((time - origin) - (right - first)) for time, right in pairs if right is not None)


def test_times_are_those_of_the_ffprobe_command(shared_cases: Path) -> None:
    for name, right in json.loads((shared_cases / "video" / "expected.json").read_text()).items():
        with open_video(shared_cases / "video" / name) as video:
            info, pts_seconds = video.info, video.pts_seconds.tolist()
        assert (info.num_frames, info.stream, info.times) == (right["count"], right["stream"], "file"), name
        assert far_apart(pts_seconds, right["times"]) < 0.025, name
        assert info.sample_aspect_ratio == Fraction((right["sar"] or "1:1").replace(":", "/")), name
        assert [info.width, info.height] == right["size"], name


@pytest.mark.parametrize(
    ("name", "seconds"), [("jit.ts", 3.67), ("gap.avi", 7), ("gap.ts", 7), ("reolink.ts", 10), ("h264.avi", 4)]
)
def test_durations(shared_cases: Path, name: str, seconds: float) -> None:
    with open_video(shared_cases / "video" / name) as video:
        assert video.info.duration_seconds == pytest.approx(seconds, abs=0.03)
        assert float(video.info.average_fps) == pytest.approx(video.info.num_frames / seconds, rel=0.02)


def jittered(num_frames: int) -> list[float]:
    """As of a webcam: about 40 ms apart, from 20 to 60."""
    wobbling = [40 * k + 12 * math.sin(2.7 * k) + 5 * (7 * k % 3) for k in range(num_frames)]
    return [round(time / 5) * 0.005 for time in wobbling]


def with_a_hole(num_frames: int) -> list[float]:
    return [k / 10 + (3 if k >= 12 else 0) for k in range(num_frames)]


@pytest.mark.parametrize("name", videos.TIMED_KINDS)
@pytest.mark.parametrize("times", [jittered(30), with_a_hole(30)])
def test_jitter_and_holes_are_kept_in_every_container(tmp_path: Path, name: str, times: list[float]) -> None:
    path = videos.encode_at(tmp_path, name, times, tick="1/200")
    if path is None:
        pytest.skip(f"this FFmpeg cannot encode {name}")
    if name == "vp8.ogv":  # Ogg has the times at which pictures end, and FFmpeg makes others of them
        with av.open(str(path)) as container:
            times = [frame.time for frame in container.decode(video=0)]
    with open_video(path) as video:
        assert (video.info.times, video.info.why_counted) == ("file", "")
        assert far_apart(video.pts_seconds.tolist(), [*times]) < 0.005
        assert [videos.painted_number(image) for image, _ in video.images()] == list(range(30))
        assert 0.02 < video.info.duration_seconds - float(video.pts_seconds[-1]) < 0.15


def test_empty_chunks_of_an_avi_with_b_frames_carry_time(tmp_path: Path) -> None:
    """Two seconds of nothing in the middle. The decoder holds back one picture: packet 13 brings out picture 12."""
    whole, path = videos.encode(tmp_path, "bframes.avi", num_frames=30), tmp_path / "hole.avi"
    assert whole is not None
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream = stream
            packet.pts = packet.dts = packet.dts + (50 if number >= 13 else 0)
            target.mux(packet)
    with open_video(path) as video:
        right = [k / 25 + (2 if k >= 12 else 0) for k in range(30)]
        assert (video.info.times, video.pts_seconds.tolist()) == ("file", pytest.approx(right))
        assert video.info.duration_seconds == pytest.approx(3.2)
        assert [videos.painted_number(image) for image, _ in video.images()] == list(range(30))


def test_a_real_packed_bitstream_is_evenly_spaced(shared_data: Path) -> None:
    path = next(path for path in sorted((shared_data / "ucf101_sample").glob("*/*.avi")))
    with open_video(path) as video:
        assert video.info.times == "file"
        assert video.pts_seconds.tolist() == pytest.approx([k / 25 for k in range(video.info.num_frames)])


# Where the file's times are wrong, they are counted, and it is said why.


@pytest.mark.parametrize("name", ["mpeg2.ts", "mpeg2.mpg", "h264.flv"])
def test_times_that_start_again_are_counted(tmp_path: Path, name: str) -> None:
    path = videos.encode(tmp_path, name, num_frames=30)
    assert path is not None
    head = 13 if name.endswith("flv") else 0  # which a demuxer expects once
    path.write_bytes(path.read_bytes() + path.read_bytes()[head:])
    with open_video(path) as video:
        assert (video.info.times, video.info.num_frames, video.info.average_fps) == ("counted", 60, 25)
        assert video.pts_seconds.tolist() == pytest.approx([k / 25 for k in range(60)])
        assert "25 pictures a second, as its header says" in video.info.why_counted
        assert "is not after that of the one before" in video.info.why_counted


def test_a_raw_stream_is_counted_at_the_rate_it_says(tmp_path: Path) -> None:
    path = videos.encode(tmp_path, "raw.h264", num_frames=20)
    assert path is not None
    with open_video(path) as video:
        assert (video.info.times, video.info.average_fps, video.info.duration_seconds) == ("counted", 25, 0.8)
        assert "20 of 20 pictures have no time" in video.info.why_counted


def header(
    average: float = 0, guessed: float = 0, seconds: float = 0, tick: str = "1/1000", container: str = "x"
) -> Header:
    rates = Fraction(average), Fraction(guessed)
    return Header(container, "codec", Fraction(tick), *rates, Fraction(seconds), num_frames=0, num_video_streams=1)


def even(num_frames: int, step: int = 40) -> np.ndarray:
    return np.arange(num_frames, dtype=np.int64) * step


RESTARTED = np.concatenate([even(50), even(50)])


@pytest.mark.parametrize(
    ("stamps", "head", "fps", "word"),
    [
        (Stamps(RESTARTED, NONE), header(25, 25, seconds=2), 25, "as its header says"),
        (Stamps(RESTARTED, NONE), header(60000, 1000, seconds=2), 25, "as most of its pictures follow each other"),
        # Two jittered recordings, joined: FFmpeg makes duration and rate of their first and last times.
        (Stamps(RESTARTED, NONE), header(54, 54, seconds=2, container="mpegts"), 25, "as most of its pictures follow"),
        (Stamps(NONE, NONE), header(60000, 1000, seconds=4), 25, "to fill the 4 s that its header says"),
        (Stamps(NONE, NONE), header(25, 30), 30, "as its header says"),
        (Stamps(even(100, 1), NONE), header(25, 25, seconds=4), 25, "they last 0.1 s and the header says 4 s"),
        (Stamps(even(100, 9000), NONE), header(25, 25, seconds=4), 25, "they last 900 s and the header says 4 s"),
    ],
)
def test_a_counted_rate_is_held_against_what_else_is_known(stamps: Stamps, head: Header, fps: int, word: str) -> None:
    timeline = make_timeline(100, stamps, head)
    assert timeline is not None
    assert timeline.average_fps == fps
    assert timeline.pts_seconds.tolist() == pytest.approx([k / fps for k in range(100)])
    assert word in timeline.why_counted


@pytest.mark.parametrize("name", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("num_reordered", [0, 2])
@pytest.mark.parametrize("hold_at", [28, 29, 30])
def test_a_picture_that_stands_for_a_minute(tmp_path: Path, name: str, num_reordered: int, hold_at: int) -> None:
    """In the middle of a file, whose header may count the steps of packets, or at its end, as the last packet says."""
    path, times = tmp_path / f"still.{name}", [40 * k + 60_000 * (k >= hold_at) for k in range(30)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": str(num_reordered)})
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 64
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        packets = []
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode()
        if hold_at == 30:
            for packet in packets:
                packet.duration = 60_040 if packet.pts == times[-1] else 40
        for packet in packets:
            container.mux(packet)
    with open_video(path) as video:
        assert (video.info.times, video.info.why_counted) == ("file", "")
        assert video.pts_seconds.tolist() == pytest.approx([time / 1000 for time in times], abs=1e-3)
        if hold_at < 30 or not num_reordered:  # or FFmpeg moves the length to another packet
            assert video.info.duration_seconds == pytest.approx(61.2, abs=0.05)


def test_the_last_picture_of_a_gif_is_shown_as_long_as_it_says(tmp_path: Path) -> None:
    from PIL import Image

    pictures = [Image.fromarray(np.full((64, 64, 3), 10 * k, np.uint8)) for k in range(20)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[40] * 19 + [5000])
    with open_video(tmp_path / "a.gif") as video:
        assert (video.info.times, video.info.duration_seconds) == ("file", pytest.approx(5.76))


def test_an_ivf_has_no_duration(tmp_path: Path) -> None:
    """FFmpeg takes the number of pictures for one."""
    times = [round(90 * (1000 * k / 30 + 7919 * k % 13)) for k in range(30)]
    with av.open(str(tmp_path / "a.ivf"), "w") as container:
        stream = container.add_stream("libvpx", rate=30)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 64
        stream.codec_context.time_base = stream.time_base = Fraction(1, 90_000)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with open_video(tmp_path / "a.ivf") as video:
        assert (video.info.times, video.info.why_counted) == ("file", "")
        assert video.pts_seconds.tolist() == pytest.approx([time / 90_000 for time in times], abs=1e-4)


def test_the_last_stamp_may_stand_twice() -> None:
    """As in VOB, beside a hole: the one before lies between its neighbours."""
    times = [40 * k + 3000 * (k >= 50) for k in range(100)]
    times[-2] = times[-1]
    timeline = make_timeline(100, Stamps(np.array(times), NONE), header(25, 25, container="mpeg"))
    assert timeline is not None
    assert timeline.why_counted == ""
    times[-2] -= 40
    assert far_apart(timeline.pts_seconds.tolist(), [time / 1000 for time in times]) <= 0.0201


def test_an_odd_header_does_not_unseat_good_times() -> None:
    for head in (header(60000, 1000, seconds=4), header(25, 25, seconds=400), header(25, 25), header()):
        timeline = make_timeline(100, Stamps(even(100), NONE), head)
        assert timeline is not None
        assert not timeline.why_counted
        assert (timeline.average_fps, timeline.duration_seconds) == (25, 4.0)
    assert make_timeline(100, Stamps(NONE, NONE), header()) is None


def test_the_last_pictures_without_a_packet_follow_at_the_usual_step() -> None:
    dts = np.append(even(98), [NO_TIME, NO_TIME])
    timeline = make_timeline(100, Stamps(np.full(100, NO_TIME), dts), header(25, seconds=4))
    assert timeline is not None
    assert timeline.pts_seconds.tolist() == pytest.approx([k / 25 for k in range(100)])
    gappy = np.where(np.arange(100) == 50, NO_TIME, even(100))
    timeline = make_timeline(100, Stamps(gappy, NONE), header(25, seconds=4))
    assert timeline is not None
    assert "1 of 100 pictures have no time" in timeline.why_counted


# No tolerance sits on the edge of rounding: a grid of the video's own rate gives every picture once.

RATES = [
    Fraction(rate)
    for rate in [
        "24000/1001",
        "24",
        "25",
        "30000/1001",
        "30",
        "50",
        "60000/1001",
        "60",
        "120",
        "240",
        "15",
        "25/2",
        "10",
        "15/2",
        "1",
    ]
]
TICKS = [
    Fraction(tick) for tick in ["1/1000", "1/600", "1/10240", "1/12800", "1/15360", "1/16000", "1/90000", "1/1000000"]
]
ROUNDINGS = (math.floor, math.ceil, lambda ticks: math.floor(ticks + Fraction(1, 2)))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("begin", ["0", "1/3", "7/10"])
def test_every_picture_once(rate: str, begin: str) -> None:
    num_frames, fps = 120, Fraction(rate)
    for tick, rounded in itertools.product(map(Fraction, TICKS), ROUNDINGS):
        if 1 / fps / tick < 3:
            continue
        ticks = np.array([rounded((Fraction(begin) + k / fps) / tick) for k in range(num_frames)], np.int64)
        timeline = make_timeline(num_frames, Stamps(ticks, NONE), header(float(fps), fps, tick=str(tick)))
        assert timeline is not None
        grid = grid_range(float(fps), 0, timeline.duration_seconds)
        asked = grid_seconds(list(grid), float(fps))
        came = np.searchsorted(shown_from(timeline.pts_seconds, float(tick)), asked, side="right") - 1
        assert came.tolist() == list(range(num_frames)), (tick, rounded)


@pytest.mark.parametrize("step", [3, 4, 7])
def test_coarse_ticks_are_only_forgiven_where_the_file_rounds_to_them(step: int) -> None:
    """A GIF counts hundredths: 30 pictures a second are stored 3 and 4 apart."""
    even_times = np.arange(20) * step / 100
    assert (even_times - shown_from(even_times, 0.01)).max() < 0.002
    uneven = np.cumsum([0, *[step, 3 * step] * 9]) / 100
    assert (uneven - shown_from(uneven, 0.01)).max() < 0.002
    rounded = np.cumsum([0, *[step, step, step + 1] * 9]) / 100
    asked = np.arange(28) * (3 * step + 1) / 300
    assert (np.searchsorted(shown_from(rounded, 0.01), asked + 1e-9, side="right") - 1).tolist() == list(range(28))


def test_ntsc_in_milliseconds(tmp_path: Path) -> None:
    """Picture 15 is due at 500.5 ms: stored as 501, half a tick away."""
    fps = Fraction(30000, 1001)
    path = videos.encode_at(tmp_path, "mpeg4.mkv", [float(k / fps) for k in range(60)], rate=fps)
    assert path is not None
    with open_video(path) as video:
        times = [float(k / fps) for k in range(60)]
        assert video.at(times).pts_seconds.tolist() == video.pts_seconds.tolist()
        assert [time for _, time in video.stream_at(float(k / fps) for k in itertools.count())] == (
            video.pts_seconds.tolist()
        )


def test_cases_at_their_own_rate(shared_cases: Path) -> None:
    with open_video(shared_cases / "video" / "c30.mkv") as video:
        times = grid_seconds(range(90), 30000 / 1001)
        assert video.at(times).pts_seconds.tolist() == video.pts_seconds.tolist()


@pytest.mark.parametrize("name", ["hole.avi", "hole.asf", "hole.wmv"])
def test_a_hole_without_b_frames_where_a_packet_has_one_time(tmp_path: Path, name: str) -> None:
    """FFmpeg takes the decoding time of the packet after it for a picture's time."""
    path, times = tmp_path / name, [k / 25 + 3 * (k > 20) for k in range(40)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 64
        stream.codec_context.time_base = Fraction(1, 25)
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), int(5 * time), np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(25 * time), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with open_video(path) as video:
        assert video.pts_seconds.tolist() == pytest.approx(times, abs=2e-3)
        assert video.info.times == "file"
