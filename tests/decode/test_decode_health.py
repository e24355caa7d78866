"""The true cause of what is wrong with a file, and nothing wrong with a good one."""

from __future__ import annotations

import json
import logging
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import numpy as np
import pytest
import videos

from pipeline.config import DecodeConfig
from pipeline.decode import VideoOpener, open_video
from pipeline.decode.bitstream import are_nal_units_sound, num_length_bytes
from pipeline.decode.causes import likely_cause
from pipeline.decode.health import DEGRADED, UNUSABLE, USABLE, Examination, examine
from pipeline.errors import DecodeError
from tools.fuzz_decode import mutate

WRONG = {
    "trunc.avi": (DEGRADED, "cut off: the header announces 250 frames and 128 are there"),
    "hole.avi": (DEGRADED, "a hole: the header announces 250 frames and 202 are there"),
    "noise.mp4": (DEGRADED, "5 packets cannot be decoded"),
    "size_change.ts": (DEGRADED, "resolution changes within the file: 320x240, 160x120"),
    "trunc_faststart.mp4": (UNUSABLE, "cut off: the header announces 250 frames and 125 are there"),
    "audio_only.mp4": (UNUSABLE, "no video stream"),
    "zero.mp4": (UNUSABLE, "empty (0 bytes)"),
    "text.mp4": (UNUSABLE, "it is text"),
    "garbage.avi": (UNUSABLE, "no video at all"),
    "hls_as.avi": (UNUSABLE, "playlist"),
    "trunc_nomoov.mp4": (UNUSABLE, "without its index (moov)"),
    "header_only.mp4": (UNUSABLE, "without its index (moov)"),
    "bomb_30000x30000.png": (UNUSABLE, "single picture"),
}
WRONG_REAL = {
    "corrupted.mp4": (DEGRADED, "1 packets cannot be decoded"),
    "header_only_mpeg4.mp4": (UNUSABLE, "no video stream"),
}


@pytest.mark.parametrize("name", [*WRONG, *WRONG_REAL])
def test_the_cause_is_named(shared_data: Path, name: str) -> None:
    folder, expected = ("odd_videos", WRONG) if name in WRONG else ("odd_real", WRONG_REAL)
    health = examine(shared_data / folder / name, DecodeConfig()).health
    verdict, reason = expected[name]
    assert health.verdict == verdict
    assert reason in " / ".join(health.reasons)


def test_good_files_are_usable(shared_data: Path) -> None:
    for name, entry in videos.load_manifest(shared_data / "odd_videos").items():
        if entry["kind"] == "good" and not name.startswith("long"):
            health = examine(shared_data / "odd_videos" / name, DecodeConfig()).health
            assert (health.verdict, health.reasons) == (USABLE, ()), name
            assert health.num_frames == health.num_frames_exact == health.num_packets == entry["n"], name
            assert health.is_constant_rate == (entry["fps"] is not None), name
    for path in (shared_data / "odd_real").iterdir():
        if path.name not in WRONG_REAL and path.suffix != ".tsv":
            assert examine(path, DecodeConfig()).health.verdict == USABLE, path.name


@pytest.mark.parametrize("name", videos.KINDS)
def test_every_kind_of_file_whole_and_cut(tmp_path: Path, name: str) -> None:
    path = videos.encode(tmp_path, name)
    if path is None:
        pytest.skip(f"this FFmpeg cannot encode {name}")
    assert examine(path, DecodeConfig()).health.verdict == USABLE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    health = examine(path, DecodeConfig()).health
    raw = ("raw.h264", "h264.flv", "live.mkv", "palette.gif")  # may end anywhere: no claim, no index
    assert health.verdict != USABLE or name in raw
    assert health.num_frames < 60


def test_a_second_opinion_on_vp9(shared_data: Path, tmp_path: Path) -> None:
    """Flipped bits that FFmpeg's own decoder makes pictures of, without a word."""
    if "libvpx-vp9" not in av.codecs_available:
        pytest.skip("this FFmpeg has no libvpx")
    path = tmp_path / "flipped.webm"
    for number in (13, 53, 93, 113):
        mutate(shared_data / "odd_videos" / "vp9.webm", number, 0, path)
        health = examine(path, DecodeConfig()).health
        assert (health.verdict, health.num_errors) == (DEGRADED, 0)
        assert "a stricter decoder (libvpx-vp9) refuses" in health.reasons[0]


def test_bytes_that_no_encoder_may_write(shared_data: Path, tmp_path: Path) -> None:
    """Zeros in one picture, which FFmpeg decodes without a word: twelve pictures are not what they were."""
    path = tmp_path / "zeroed.mp4"
    mutate(shared_data / "odd_videos" / "h264_gop12.mp4", 146, 0, path)
    health = examine(path, DecodeConfig()).health
    assert (health.verdict, health.num_errors, health.num_complaints) == (DEGRADED, 0, 0)
    assert health.reasons == ("damaged: 1 packets hold bytes that no h264 encoder may write",)


@pytest.mark.parametrize(
    ("packet", "is_sound"),
    [
        ("0003 658801  0002 4102", True),
        ("0003 650000  0003 410003", True),  # zeros at the end may be alignment
        ("0005 6500000301", True),
        ("0004 65000001", False),
        ("0004 65000002", False),
        ("0005 6500000001", False),
        ("0006 650100000000", False),  # too many for alignment
        ("0004 658801", False),  # the length goes past the end
        ("0003 658801 00", False),  # half a length
        ("", True),
    ],
)
def test_nal_units(packet: str, is_sound: bool) -> None:
    assert are_nal_units_sound(bytes.fromhex(packet), 2) == is_sound


def test_which_streams_have_lengths() -> None:
    avc, hevc = bytes.fromhex("01640015ff"), bytes([1, *bytes(20), 0xF3])
    assert (num_length_bytes("h264", avc), num_length_bytes("hevc", hevc)) == (4, 4)
    assert num_length_bytes("h264", bytes.fromhex("01640015fd")) == 2
    for codec, configuration in [("h264", bytes.fromhex("0000000167")), ("h264", None), ("mpeg4", avc), ("hevc", avc)]:
        assert num_length_bytes(codec, configuration) == 0


def test_facts(shared_data: Path) -> None:
    health = examine(shared_data / "odd_videos" / "rot90.mp4", DecodeConfig()).health
    assert (health.width, health.height, health.rotation_degrees, health.sizes) == (240, 320, 270, ("320x240",))
    assert (health.duration_seconds, health.average_fps, health.codec) == (10.0, 25.0, "h264")
    noise = examine(shared_data / "odd_videos" / "noise.mp4", DecodeConfig()).health
    assert noise.num_frames_exact < noise.num_frames < noise.num_frames_claimed == 250


def test_a_limit_is_a_reason(shared_data: Path) -> None:
    path = shared_data / "odd_videos" / "h264_gop12.mp4"
    health = examine(path, DecodeConfig(max_pixels=1000)).health
    assert health.verdict == UNUSABLE
    assert "decode.max_pixels" in health.reasons[0]
    assert examine(path, DecodeConfig(max_frames=100)).health.verdict == UNUSABLE


def test_there_and_back_as_a_message(shared_data: Path) -> None:
    examination = examine(shared_data / "odd_videos" / "noise.mp4", DecodeConfig())
    message, payload = examination.to_message()
    back = Examination.from_message(json.loads(json.dumps(message)), payload)
    assert back.health == examination.health
    assert np.array_equal(back.thumbnails, examination.thumbnails)
    assert len(back.thumbnails) > 3


@pytest.mark.parametrize(
    ("start", "cause"),
    [
        (b"#EXTM3U\n", "playlist"),
        (b"ffconcat version 1.0\n", "concat"),
        (b"\n <!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"PK\x03\x04", "ZIP"),
        (bytes(2000), "zeros"),
        ("gr\u00fc\u00dfe".encode(), "it is text"),
        (b"\x00\x00\x00\x08moov", "index is damaged"),
        (b"\x00\x00\x00\x00ftypisom", "without its index"),
        (b"\xfe\x01\x02\x00\x99", "no video at all"),
    ],
)
def test_what_it_is_instead(tmp_path: Path, start: bytes, cause: str) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(start)
    assert cause in likely_cause(path)


# A verdict is a function of the file.


@pytest.fixture(scope="module")
def cut_gifs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five GIFs that end too early: each makes FFmpeg say the same words."""
    folder = tmp_path_factory.mktemp("gifs")
    whole = videos.encode(folder, "palette.gif", num_frames=20)
    assert whole is not None
    paths = [folder / f"{number}.gif" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(whole.read_bytes()[: -3000 - 10 * number])
    return paths


def test_cut_gifs_in_a_row(cut_gifs: list[Path]) -> None:
    verdicts = [examine(path, DecodeConfig()).health for path in cut_gifs]
    assert [health.verdict for health in verdicts] == [DEGRADED] * 5
    with VideoOpener(DecodeConfig(isolate=True)) as opener:
        assert [opener.examine(path).health for path in cut_gifs] == verdicts


@contextmanager
def chattering(level: int | None, *, skips: bool) -> Iterator[None]:
    """FFmpeg's log as some other part of a program may have left it, and on the way to repeat a message."""
    av.logging.set_level(level)
    av.logging.set_skip_repeated(skips)
    for _ in range(3):
        av.logging.log(av.logging.ERROR, "gif", "said before")
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
    assert (av.logging.get_level(), av.logging.get_skip_repeated()) == (level, skips)
    av.logging.set_level(None)
    av.logging.set_skip_repeated(True)


@pytest.mark.parametrize("level", [None, av.logging.PANIC, av.logging.DEBUG])
@pytest.mark.parametrize("skips", [False, True])
def test_settings_of_the_log_decide_nothing(cut_gifs: list[Path], level: int | None, skips: bool) -> None:
    expected = examine(cut_gifs[0], DecodeConfig()).health
    with chattering(level, skips=skips):
        assert examine(cut_gifs[0], DecodeConfig()).health == expected


def test_the_same_verdict_in_any_thread(cut_gifs: list[Path], shared_data: Path) -> None:
    paths = [*cut_gifs, shared_data / "odd_videos" / "noise.mp4", shared_data / "odd_videos" / "one_frame.mp4"]
    expected = [examine(path, DecodeConfig()).health for path in paths]
    found: dict[int, list[object]] = {}

    def work(number: int) -> None:
        found[number] = [examine(path, DecodeConfig()).health for path in paths]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [expected] * 4


def said_of_reading(path: Path, read_first: Callable[[object], object]) -> tuple[int, str]:
    """How many frames come, and the error that ends them."""
    num_frames = 0
    try:
        with open_video(path) as video:
            with suppress(DecodeError):
                read_first(video)
            for _ in video.images():
                num_frames += 1
    except DecodeError as error:
        return num_frames, str(error)
    return num_frames, ""


def test_what_a_reader_says_does_not_depend_on_what_was_asked_first(shared_data: Path) -> None:
    folders = [shared_data / "odd_videos", shared_data / "odd_real"]
    for path in (path for folder in folders for path in folder.iterdir() if path.stat().st_size < 300_000):
        said = {
            said_of_reading(path, read)
            for read in (lambda _: None, lambda video: video.info, lambda video: video.frames([0]), lambda v: v.at([0]))  # type: ignore[attr-defined]
        }
        assert len(said) == 1, path.name


def test_mutations_are_judged_alike_whatever_came_before(shared_data: Path, tmp_path: Path) -> None:
    paths = []
    for number in range(24):
        source = shared_data / "odd_videos" / ("vp9.webm", "xvid_bf2.avi", "h264_gop12.mp4")[number % 3]
        paths.append(tmp_path / f"{number}{source.suffix}")
        mutate(source, number, 5, paths[-1])
    forwards = [examine(path, DecodeConfig()).health for path in paths]
    backwards = [examine(path, DecodeConfig()).health for path in reversed(paths)]
    with VideoOpener(DecodeConfig(isolate=True)) as opener:
        isolated = [opener.examine(path).health for path in paths]
    assert forwards == backwards[::-1] == isolated


# What is no fault.


def test_empty_chunks_are_no_hole(shared_cases: Path, shared_data: Path) -> None:
    for path in (
        shared_cases / "video" / "h264.avi",
        shared_cases / "video" / "gap.avi",
        shared_data / "odd_real" / "tree.avi",
    ):
        health = examine(path, DecodeConfig()).health
        assert (health.verdict, health.reasons, health.times) == (USABLE, (), "file"), path.name
        assert health.num_frames == health.num_packets == health.num_frames_claimed


def test_cases_are_usable(shared_cases: Path) -> None:
    notes = {
        "delayed.mp4": "its pictures begin at 0.700 s of the file",
        "sar.mp4": "its pixels are 16:11",
        "thumbfirst.mp4": "video streams that are not read: 0 (mjpeg, 192x128)",
    }
    for path in sorted((shared_cases / "video").iterdir()):
        if path.suffix != ".json":
            health = examine(path, DecodeConfig()).health
            assert health.verdict == USABLE, (path.name, health.reasons)
            assert notes.get(path.name, "") in " ".join(health.notes)


def test_counted_times_and_half_pictures_are_said(tmp_path: Path) -> None:
    raw, interlaced = (videos.encode(tmp_path, name, num_frames=20) for name in ("raw.h264", "interlaced.mp4"))
    assert raw is not None
    assert interlaced is not None
    health = examine(raw, DecodeConfig()).health
    assert (health.verdict, health.times) == (USABLE, "counted")
    assert health.notes[0].startswith(
        "times of pictures are counted: 25 pictures a second, as its header says, because"
    )
    health = examine(interlaced, DecodeConfig()).health
    assert (health.verdict, health.times) == (USABLE, "file")
    assert health.notes == ("interlaced: 20 of 20 pictures are two half pictures, read as one",)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_said(tmp_path: Path, transfer: int, name: str) -> None:
    path = tmp_path / "hdr.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.color_trc = transfer
        for number in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(videos.picture(number), format="rgb24")))
        container.mux(stream.encode())
    health = examine(path, DecodeConfig()).health
    assert (health.verdict, health.notes) == (
        USABLE,
        (f"HDR ({name}): its colours are not converted, so it looks dull",),
    )


def test_what_an_edit_list_hides_is_not_missed(tmp_path: Path) -> None:
    """As ``ffmpeg -ss 0.2 -c copy`` cuts: the first five pictures are there and not shown."""
    path = tmp_path / "cut.mp4"
    with av.open(str(path), "w", container_options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        packets = []
        for number in range(20):
            packets += stream.encode(av.VideoFrame.from_ndarray(videos.picture(number), format="rgb24"))
        for packet in [*packets, *stream.encode()]:
            assert packet.pts is not None
            packet.pts = packet.dts = packet.pts - 5
            container.mux(packet)
    health = examine(path, DecodeConfig()).health
    assert (health.verdict, health.reasons) == (USABLE, ())
    assert (health.num_frames_claimed, health.num_frames, health.duration_seconds) == (20, 15, 0.6)


@pytest.mark.parametrize(
    ("edits", "num_shown"),
    [
        ([(-1, 4.0), (0.0, 1.0)], 25),  # the end is trimmed, and the first picture comes late
        ([(-1, 0.04), (1.0, 1.2)], 30),  # whole groups of pictures before and behind
        ([(0.0, 0.4), (1.6, 0.4)], 20),  # a cut in the middle
    ],
)
def test_a_trimmed_recording_is_not_damaged(tmp_path: Path, edits: list[tuple[float, float]], num_shown: int) -> None:
    """As phones and QuickTime trim: all pictures are there, and the edit list shows some."""
    path = tmp_path / "trimmed.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        packets = []
        for number in range(55):
            packets += stream.encode(av.VideoFrame.from_ndarray(videos.picture(number), format="rgb24"))
        for packet in [*packets, *stream.encode()]:
            assert packet.pts is not None
            packet.pts = packet.dts = packet.pts + 1  # an empty edit comes first
            container.mux(packet)
    content = path.read_bytes()
    place = content.index(b"elst") + 8
    (movie_rate,) = struct.unpack_from(">I", content, content.index(b"mvhd") + 16)
    (track_rate,) = struct.unpack_from(">I", content, content.index(b"mdhd") + 16)
    rows = [(round(length * movie_rate), round(start * track_rate) if start >= 0 else -1) for start, length in edits]
    assert content[place : place + 4] == struct.pack(">I", len(rows))
    listed = b"".join(struct.pack(">IiI", *row, 1 << 16) for row in rows)
    path.write_bytes(content[: place + 4] + listed + content[place + 4 + len(listed) :])
    health = examine(path, DecodeConfig()).health
    assert (health.verdict, health.reasons) == (USABLE, ())
    assert (health.num_frames_claimed, health.num_frames) == (55, num_shown)
