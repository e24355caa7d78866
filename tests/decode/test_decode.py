"""Frame k is the k-th picture of a plain sequential decode: every decoder gives it or refuses, and never another."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import videos
from numpy.typing import NDArray
from torch import Tensor

from pipeline.clip import Clip
from pipeline.decode import VideoReader, open_video, pyav
from pipeline.errors import DecodeError

LONG = "long10min.mp4"


@pytest.fixture(scope="session")
def odd_videos(shared_data: Path) -> Path:
    return shared_data / "odd_videos"


@pytest.fixture(scope="session")
def small_videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    folder = tmp_path_factory.mktemp("kinds")
    return {name: videos.encode(folder, name) for name in videos.KINDS}


def image_of(frame: Tensor, rotation: int = 0) -> NDArray[np.uint8]:
    """As it was painted: in a file with a turn in its header the turned picture is right, and its number lies."""
    image: NDArray[np.uint8] = frame.permute(1, 2, 0).numpy()  # [3, H, W] -> [H, W, 3]
    step = 1 + image.shape[0] // 60  # the numbers survive it, and are read faster
    return np.rot90(image, rotation // 90)[::step, ::step]


def random_and_uniform(num_frames: int) -> list[int]:
    """One request: each of its two parts would have a decoder go through the file."""
    uniform = [(2 * i + 1) * num_frames // 32 for i in range(16)]
    return random.Random(num_frames).choices(range(num_frames), k=20) + uniform


def good_files(odd_videos: Path) -> dict[str, dict[str, Any]]:
    manifest = videos.load_manifest(odd_videos)
    return {name: entry for name, entry in manifest.items() if entry["kind"] == "good"}


def read_numbers(video: VideoReader, odd_videos: Path, rotation: int) -> tuple[list[list[int]], list[list[int | None]]]:
    """Asked for, and painted in what came: sequential (unless long), then random and uniform."""
    read_index, num_frames = videos.load_read_index(odd_videos), video.info.num_frames
    asked, came = [], []
    if num_frames < 1000:
        asked.append(list(range(num_frames)))
        came.append([read_index(image_of(frame, rotation)) for frame, _ in video])
    asked.append(random_and_uniform(num_frames))
    came.append([read_index(image_of(frame, rotation)) for frame in video.frames(asked[-1]).frames])
    return asked, came


@pytest.mark.parametrize("decoder", videos.installed_decoders())
def test_painted_numbers(odd_videos: Path, decoder: str) -> None:
    outcomes: Counter[str] = Counter()
    for name, entry in good_files(odd_videos).items():
        try:
            with open_video(odd_videos / name, decoder) as video:
                assert video.info.num_frames == entry["n"], name
                asked, came = read_numbers(video, odd_videos, entry.get("rotation", 0))
        except DecodeError:
            outcomes["refused"] += 1
            assert decoder != "pyav", name
            continue
        assert came == asked, name
        outcomes["right"] += 1
    # A decoder that refuses everything is never wrong either.
    assert outcomes["right"] >= (13 if decoder == "torchcodec" else 15)
    assert decoder != "pyav" or not outcomes["refused"]


@pytest.mark.parametrize("decoder", videos.installed_decoders())
def test_real_ucf101_clips(shared_data: Path, decoder: str) -> None:
    # Half of them are packed bitstreams: two pictures in a packet, then a placeholder.
    paths = sorted((shared_data / "ucf101_sample").glob("*/*.avi"))
    assert len(paths) == 10
    for path in paths:
        truth = videos.plain_decode(path)
        if decoder == "torchcodec":
            with pytest.raises(DecodeError, match="not known to be exact on mpeg4 in avi"):
                open_video(path, decoder)
            continue
        with open_video(path, decoder) as video:
            images = [frame.permute(1, 2, 0).numpy() for frame, _ in video]
            assert video.info.num_frames == len(images) == len(truth)
            assert all(map(is_same_picture, images, truth)), path.name
            indices = random_and_uniform(len(truth))
            clip = video.frames(indices).frames.permute(0, 2, 3, 1).numpy()
            assert all(map(is_same_picture, clip, [truth[i] for i in indices])), path.name


def is_same_picture(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> bool:
    """decord's older FFmpeg rounds differently when it converts colours."""
    is_alike = image.shape == truth.shape
    return is_alike and (np.array_equal(image, truth) or float(np.abs(image.astype(np.int16) - truth).mean()) < 1.0)


@pytest.mark.parametrize("decoder", videos.installed_decoders())
@pytest.mark.parametrize("name", videos.KINDS)
def test_every_kind_of_file(
    small_videos: dict[str, Path | None], name: str, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyav, "_MIN_PICTURES_SAVED", 1)  # seek wherever it is allowed
    path = small_videos[name]
    if path is None:
        pytest.skip(f"this FFmpeg cannot encode {name}")
    truth = [videos.painted_number(image) for image in videos.plain_decode(path)]
    assert len(set(truth)) == len(truth) >= 59
    came: list[list[int]] = []
    try:
        with open_video(path, decoder) as video:
            assert video.info.num_frames == len(truth)
            came.append([painted(frame) for frame, _ in video])
            came.append([painted(f) for f in video.frames(random_and_uniform(len(truth))).frames])
            came.append([painted(video.frames([i]).frames[0]) for i in (13, 30, 47)])
    except DecodeError:
        if decoder == "pyav":
            raise
        return
    asked = [range(len(truth)), random_and_uniform(len(truth)), (13, 30, 47)]
    assert came == [[truth[i] for i in indices] for indices in asked]


def painted(frame: Tensor) -> int:
    return videos.painted_number(frame.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    "name", ["bitmap.mp4", "fire2.mp4", "MOV00006.3gp", "no_duration.webm", "unordered.mov", "tree.avi"]
)
def test_real_odd_files_bit_for_bit(shared_data: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav, "_MIN_PICTURES_SAVED", 1)  # seek wherever it is allowed
    path = shared_data / "odd_real" / name
    truth = videos.plain_decode(path)
    with open_video(path) as video:
        assert video.info.num_frames == len(truth)
        indices = random_and_uniform(len(truth))
        clip = video.frames(indices).frames.permute(0, 2, 3, 1).numpy()
        assert all(np.array_equal(image, truth[i]) for image, i in zip(clip, indices, strict=True))


def test_seeks_in_a_long_file(odd_videos: Path) -> None:
    read_index = videos.load_read_index(odd_videos)
    with open_video(odd_videos / LONG) as video:
        for start in (0, 7777, 14983):
            clip = video.frames(range(start, start + 16))
            assert [read_index(image_of(frame)) for frame in clip.frames] == list(range(start, start + 16))


def test_a_lying_keyframe_is_not_believed(odd_videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav, "_MIN_PICTURES_SAVED", 1)
    read_index = videos.load_read_index(odd_videos)
    with open_video(odd_videos / "h264_gop250.mp4") as video:
        index = video._file.index
        object.__setattr__(index, "keyframes", np.arange(250))  # every picture claims to be one; two are
        asked = [240, 10, 120]
        assert [read_index(image_of(frame)) for frame in video.frames(asked).frames] == asked


def test_a_reader_is_a_sequence_of_frames(odd_videos: Path) -> None:
    with open_video(odd_videos / "h264_gop12.mp4") as video:
        assert len(video) == video.info.num_frames
        clip = video[10:20:3]
        assert torch.equal(clip.frames, video.frames([10, 13, 16, 19]).frames)
        assert torch.equal(video[-1], video.frames([len(video) - 1]).frames[0])
        assert repr(video) == f"<VideoReader of {video.info.path}: {video.info.codec} in {video.info.container}>"
        assert repr(clip) == f"Clip(frames=uint8 {list(clip.frames.shape)}, 0.400 to 0.760 s)"
        assert len(video[5:5]) == 0
        assert repr(video[5:5]).startswith("Clip(frames=uint8 [0, 3, ")
        with pytest.raises(IndexError):
            video[len(video)]


def test_clip_form(odd_videos: Path) -> None:
    with open_video(odd_videos / "xvid_bf2.avi") as video:
        clip = video.frames([5, 200, 5])
        assert clip.frames.shape == (3, 3, 240, 320)
        assert clip.frames.permute(0, 2, 3, 1).is_contiguous()  # channels-last in memory
        assert clip.pts_seconds.tolist() == pytest.approx([0.2, 8.0, 0.2])
        clip.frames[0] = 0  # free to be changed, and no other frame with it
        assert clip.frames[2].any()
        assert isinstance(video.frames([]), Clip)
        assert len(video.frames([])) == 0


def test_info(odd_videos: Path) -> None:
    with open_video(odd_videos / "h264_2997.mp4") as video:
        assert video.info.average_fps == Fraction(30000, 1001)
        assert video.info.duration_seconds == pytest.approx(250 * 1001 / 30000)
        assert (video.info.codec, video.info.rotation_degrees) == ("h264", 0)
    with open_video(odd_videos / "rot90.mp4") as video:
        # As shown: stored 320x240, to be turned a quarter clockwise.
        assert (video.info.width, video.info.height, video.info.rotation_degrees) == (240, 320, 270)
        assert video.frames([0]).frames.shape == (1, 3, 320, 240)


@pytest.mark.parametrize("decoder", ["opencv", "decord"])
@pytest.mark.parametrize("name", ["mjpeg.mkv", "mjpeg.mov"])
def test_another_decoder_does_not_scale_pictures_of_another_size(tmp_path: Path, decoder: str, name: str) -> None:
    path, sizes = tmp_path / name, [(96, 64)] * 5 + [(128, 96)] * 5
    with av.open(str(path), "w") as container:
        into = container.add_stream("mjpeg", rate=25)
        into.width, into.height, into.pix_fmt = 96, 64, "yuvj420p"
        for number, (width, height) in enumerate(sizes):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
            encoder.time_base = Fraction(1, 25)
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 20 * number, np.uint8), format="rgb24")
            frame = frame.reformat(format="yuvj420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in [*encoder.encode(frame), *encoder.encode()]:
                packet.stream, packet.pts, packet.dts, packet.time_base = into, number, number, Fraction(1, 25)
                container.mux(packet)
    with open_video(path) as video:
        assert [image.shape[:2][::-1] for image, _ in video.images()] == sizes
    with pytest.raises(DecodeError, match="their size changes within the file"):
        open_video(path, decoder)


def test_size_change(odd_videos: Path) -> None:
    with open_video(odd_videos / "size_change.ts") as video:
        assert [tuple(frame.shape[1:]) for frame, _ in video] == [(240, 320)] * 50 + [(120, 160)] * 50
        assert video.frames([60, 70]).frames.shape == (2, 3, 120, 160)
        with pytest.raises(DecodeError, match="frame 50 is 160x120 and an earlier one asked for is 320x240"):
            video.frames([49, 50])
