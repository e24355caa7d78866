"""The true cause of what is wrong with a file, and nothing wrong with a good one."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import videos

from pipeline.config import DecodeConfig
from pipeline.decode.bitstream import are_nal_units_sound, num_length_bytes
from pipeline.decode.causes import likely_cause
from pipeline.decode.health import DEGRADED, UNUSABLE, USABLE, Examination, examine
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
    "tree.avi": (DEGRADED, "frames are left out: the header announces 444 frames and 68 are there"),
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
