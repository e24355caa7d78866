"""Which of several video streams is read, which way up its pictures are, and what shape their pixels have."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import videos
from av.stream import Disposition

from pipeline.config import DecodeConfig
from pipeline.decode import VideoOpener, open_video
from pipeline.decode.decoders import open_here
from pipeline.decode.health import USABLE, examine
from pipeline.errors import DecodeError, UserError

# The eight ways up as display matrices (a, b, c, d), where (x, y) goes to (a x + c y, b x + d y) with y downwards, and
# what the ffmpeg command (5.1) makes of a picture for each, from left to right and from above.
MATRICES = {
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: image[::-1].transpose(1, 0, 2),  # a quarter clockwise
    (-1, 0, 0, -1): lambda image: image[::-1, ::-1],
    (0, -1, 1, 0): lambda image: image.transpose(1, 0, 2)[::-1],  # a quarter counter-clockwise
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (0, 1, 1, 0): lambda image: image.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda image: image[::-1, ::-1].transpose(1, 0, 2),
}
_BYTES_BEFORE_MATRIX = 4 + 4 + 20 + 16  # name, version, times and numbers, place among other tracks


def with_matrix(source: Path, target: Path, matrix: Sequence[float]) -> Path:
    """A copy of an MP4 whose track header asks for that."""
    data, (a, b, c, d) = bytearray(source.read_bytes()), (round(value * 65536) for value in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + _BYTES_BEFORE_MATRIX, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


@pytest.fixture(scope="module")
def upright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = videos.encode(tmp_path_factory.mktemp("upright"), "hevc.mp4", num_frames=14)
    if path is None:
        pytest.skip("this FFmpeg cannot encode HEVC")
    return path


@pytest.mark.parametrize("decoder", videos.installed_decoders())
@pytest.mark.parametrize("matrix", MATRICES)
def test_every_way_up(upright: Path, tmp_path: Path, matrix: tuple[int, ...], decoder: str) -> None:
    path = with_matrix(upright, tmp_path / "turned.mp4", matrix)
    is_mirrored = matrix[0] * matrix[3] < matrix[1] * matrix[2]
    if is_mirrored and decoder in ("decord", "torchcodec"):
        with pytest.raises(DecodeError, match="does not mirror pictures, as the file asks; use the pyav decoder"):
            open_video(path, decoder)
        return
    right = [MATRICES[matrix](image) for image in videos.plain_decode(upright)]
    with open_video(path, decoder) as video:
        info, images = video.info, [image for image, _ in video.images()]
        again = video.frames([13, 0]).frames.permute(0, 2, 3, 1).numpy()
    assert (info.height, info.width, 3) == images[0].shape == right[0].shape
    assert (info.is_mirrored, info.rotation_degrees % 180 == 90) == (is_mirrored, matrix[0] == 0)
    for image, truth in zip([*images, *again], [*right, right[13], right[0]], strict=True):
        assert np.abs(image.astype(int) - truth).mean() < 1.0


@pytest.mark.parametrize(
    "matrix", [(0.7071, 0.7071, -0.7071, 0.7071), (0.9848, 0.1736, -0.1736, 0.9848), (1, 0.5, 0, 1)]
)
def test_a_turn_by_other_than_quarters_is_refused(upright: Path, tmp_path: Path, matrix: tuple[float, ...]) -> None:
    path = with_matrix(upright, tmp_path / "turned.mp4", matrix)
    with open_video(path) as video, pytest.raises(DecodeError, match="by other than quarter turns"):
        assert video.info


@pytest.mark.parametrize("matrix", [(2, 0, 0, 2), (0, 0, 0, 0), (0.9999, 0.01, -0.01, 0.9999)])
def test_scales_and_rounding_are_no_turns(upright: Path, tmp_path: Path, matrix: tuple[float, ...]) -> None:
    with open_video(with_matrix(upright, tmp_path / "turned.mp4", matrix)) as video:
        assert (video.info.is_mirrored, video.info.rotation_degrees) == (False, 0)


def test_flipped_cases_are_as_the_ffmpeg_command_shows_them(shared_cases: Path) -> None:
    folder = shared_cases / "video"
    for name, flip in {"hflip.mp4": np.fliplr, "vflip.mp4": np.flipud}.items():
        with av.open(str(folder / name)) as container:
            stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        with open_video(folder / name) as video:
            assert all(
                np.array_equal(image, flip(truth)) for (image, _), truth in zip(video.images(), stored, strict=True)
            )


def write_streams(path: Path, *streams: tuple[int, int, bool]) -> Path:
    """A file with a video stream for each (width, pictures, default flag); all are two thirds as high as wide."""
    with av.open(str(path), "w") as container:
        made = []
        for width, _, is_default in streams:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, width * 2 // 3, "yuv420p"
            stream.disposition = Disposition.default if is_default else Disposition(0)
            made.append(stream)
        for stream, (_, num_frames, _) in zip(made, streams, strict=True):
            for number in range(num_frames):
                frame = av.VideoFrame.from_ndarray(videos.picture(number), format="rgb24")
                container.mux(stream.encode(frame.reformat(stream.width, stream.height, "yuv420p")))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("streams", "taken"),
    [
        ([(96, 5, False), (192, 9, False)], 1),  # most pixels
        ([(192, 5, False), (96, 9, False)], 0),
        ([(96, 5, False), (96, 9, True)], 1),  # of equals the default one
        ([(96, 5, False), (96, 9, False)], 0),  # and else the first
        ([(192, 5, False), (96, 9, True)], 1),  # the ffmpeg command gives the flag as much as five million pixels
    ],
)
def test_the_stream_that_the_ffmpeg_command_takes(
    tmp_path: Path, streams: list[tuple[int, int, bool]], taken: int
) -> None:
    path = write_streams(tmp_path / "two.mkv", *streams)
    with open_video(path) as video:
        assert (video.info.stream, video.info.num_video_streams) == (taken, 2)
        assert (video.info.width, video.info.num_frames) == streams[taken][:2]
    notes = " ".join(examine(path, DecodeConfig()).health.notes)
    other = 1 - taken
    width = streams[other][0]
    assert f"not read: {other} (mpeg4, {width}x{width * 2 // 3}); decode.stream chooses" in notes


@pytest.mark.parametrize("name", ["two.mkv", "two.mp4", "two.avi", "two.ts"])
def test_any_stream_can_be_asked_for(tmp_path: Path, name: str) -> None:
    path = write_streams(tmp_path / name, (192, 5, False), (96, 9, False))
    for stream, width, num_frames in [(0, 192, 5), (1, 96, 9)]:
        config = DecodeConfig(stream=stream, index_cache=True)
        with VideoOpener(config) as opener, opener.open(path) as video:
            assert (video.info.stream, video.info.width, video.info.num_frames) == (stream, width, num_frames)
            assert [image.shape[1] for image, _ in video.images()] == [width] * num_frames
            assert video.frames([num_frames - 1]).frames.shape[3] == width
        health = examine(path, config).health
        assert (health.verdict, health.width, health.num_frames) == (USABLE, width, num_frames)
    with pytest.raises(DecodeError, match=r"decode\.stream is 2, and its video streams are \[0, 1\]"):
        open_here(path, DecodeConfig(stream=2))
    with pytest.raises(UserError, match=r"decode\.stream must not be negative"):
        DecodeConfig(stream=-1)


@pytest.mark.parametrize("decoder", [name for name in videos.installed_decoders() if name != "pyav"])
def test_other_decoders_leave_files_of_several_streams_alone(tmp_path: Path, decoder: str) -> None:
    path = write_streams(tmp_path / "two.mp4", (96, 5, False), (192, 9, False))
    for stream in (None, 0, 1):
        with pytest.raises(DecodeError, match=r"may choose another of its 2 video streams|not known to be exact"):
            open_here(path, DecodeConfig(decoder, stream=stream))


def test_a_preview_picture_that_is_no_cover_is_passed_over(shared_cases: Path) -> None:
    with open_video(shared_cases / "video" / "thumbfirst.mp4") as video:
        assert (video.info.stream, video.info.codec, video.info.num_frames) == (1, "h264", 40)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.mpg"])
def test_pixels_that_are_not_square(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video" if name.endswith(("ts", "mpg")) else "mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(8, 9)  # 4:3 as shown, which MPEG-2 can say
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(videos.picture(number), format="rgb24")
            container.mux(stream.encode(frame.reformat(96, 64, "yuv420p")))
        container.mux(stream.encode())
    with open_video(path) as video:
        info = video.info
    assert (info.width, info.height, info.shown_width, info.sample_aspect_ratio) == (96, 64, 85, Fraction(8, 9))
    health = examine(path, DecodeConfig()).health
    assert (health.verdict, health.sample_aspect_ratio) == (USABLE, "8:9")
    assert "its pixels are 8:9, wide to high" in health.notes[0]


def test_a_turn_turns_the_pixels_too(shared_cases: Path, tmp_path: Path) -> None:
    path = with_matrix(shared_cases / "video" / "sar.mp4", tmp_path / "a.mp4", (0, 1, -1, 0))
    with open_video(path) as video:
        assert (video.info.width, video.info.height) == (128, 192)
        assert video.info.sample_aspect_ratio == Fraction(11, 16)
