"""What a file may cost: pixels, frames, seconds, memory; and who may use a reader."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import av
import pytest
import videos
from small import small_model

from pipeline.checkpoint import save_model
from pipeline.cli import main
from pipeline.config import DecodeConfig
from pipeline.decode import VideoReader, container, open_video
from pipeline.decode.pyav import PyavBackend
from pipeline.decode.reader import VideoFile
from pipeline.errors import DecodeError, UserError

on_linux = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads memory the Linux way")

READ_THEM = """
import re, sys
from pipeline.decode import open_video
from pipeline.errors import DecodeError
for path in sys.argv[1:]:
    message = ""
    try:
        with open_video(path) as video:
            video._file.index
            for picture in video._backend.iter_frames():
                picture.rgb()
    except DecodeError as error:
        message = str(error)
    megabytes = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024
    print(megabytes, path, message, sep="\\t")
"""


def read_in_a_process(*paths: Path) -> list[tuple[int, str]]:
    """The most megabytes that a process has needed when it has read each of them, and the file with its error."""
    out = subprocess.run([sys.executable, "-c", READ_THEM, *paths], capture_output=True, text=True, check=True).stdout
    found = [line.partition("\t") for line in out.splitlines()]
    assert len(found) == len(paths)
    return [(int(megabytes), message) for megabytes, _, message in found]


def one_picture(path: Path, codec: str, pixel_format: str, size: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = size, size, pixel_format
        frame = av.VideoFrame(size, size, pixel_format)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux([*stream.encode(frame), *stream.encode()])
    return path


def read_with(path: Path, config: DecodeConfig) -> VideoReader:
    file = VideoFile(path, config)
    return VideoReader(file, PyavBackend(file))


@on_linux
@pytest.mark.skipif(not container._MAY_LIMIT_OPENING, reason="before PyAV 18 opening has no limit")
@pytest.mark.parametrize("name", ["bomb.avi png gray", "bomb.mov png gray", "bomb.gif gif gray", "30000x30000.png"])
def test_a_huge_picture_is_refused_before_it_is_decoded(shared_data: Path, tmp_path: Path, name: str) -> None:
    if name.startswith("bomb"):
        file_name, codec, pixel_format = name.split()
        path = one_picture(tmp_path / file_name, codec, pixel_format, 12000)
    else:
        path = shared_data / "odd_videos" / f"bomb_{name}"
    ((megabytes, message),) = read_in_a_process(path)
    assert ("decode.max_pixels" if name.startswith("bomb") else "single picture") in message
    assert megabytes < 100


@on_linux
def test_no_odd_file_takes_much_memory(shared_data: Path) -> None:
    folders = [shared_data / "odd_videos", shared_data / "odd_real"]
    paths = [path for folder in folders for path in sorted(folder.iterdir()) if not path.name.startswith("long")]
    for start in range(0, len(paths), 8):  # a process keeps some of what it had for the files before
        for megabytes, name in read_in_a_process(*paths[start : start + 8]):
            assert megabytes < 400, name


def read_to_the_error(video: VideoReader) -> tuple[list[float], DecodeError | None]:
    times: list[float] = []
    try:
        times.extend(time for _, time in video)
    except DecodeError as error:
        return times, error
    return times, None


def test_limits_are_named(shared_data: Path) -> None:
    path = shared_data / "odd_videos" / "h264_gop12.mp4"  # 250 frames of 320x240, 10 s
    for config, cause in [
        (DecodeConfig(max_pixels=320 * 240 - 1), "pictures are 320x240, and decode.max_pixels allows 76799 pixels"),
        (DecodeConfig(max_frames=249), "more than decode.max_frames = 249 frames"),
        (DecodeConfig(max_seconds=9.5), "lasts 10 s by its display times, and decode.max_seconds allows 9.5"),
    ]:
        with pytest.raises(DecodeError, match=cause), read_with(path, config) as video:
            assert video.info
    at_the_limit = DecodeConfig(max_pixels=320 * 240, max_frames=250, max_seconds=10)
    with read_with(path, at_the_limit) as video:
        assert len(video.frames([0, 249])) == 2


@pytest.mark.parametrize("name", ["h264_gop12.mp4", "mpeg2.mpg"])
def test_limits_hold_for_a_stream(shared_data: Path, name: str) -> None:
    with read_with(shared_data / "odd_videos" / name, DecodeConfig(max_frames=30)) as video:
        times, error = read_to_the_error(video)
    assert "more than decode.max_frames = 30 frames" in str(error)
    assert not times


def test_a_picture_that_outgrows_the_header_is_refused(shared_data: Path) -> None:
    # 320x240, and 160x120 from frame 50 on; so the limit is met the other way round, by the first part.
    with (
        pytest.raises(DecodeError),
        read_with(shared_data / "odd_videos" / "size_change.ts", DecodeConfig(max_pixels=160 * 120)) as video,
    ):
        list(video)


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(UserError, match=r"decode\.max_pixels must be positive and less than 2\^31, got 0"):
        DecodeConfig(max_pixels=0)


def test_the_good_picture_before_an_error_is_not_lost(shared_data: Path) -> None:
    path = shared_data / "odd_videos" / "noise.mp4"
    num_good = 0
    with suppress(av.error.FFmpegError), av.open(str(path)) as container:
        for _ in container.decode(video=0):
            num_good += 1
    with open_video(path) as video:
        times, error = read_to_the_error(video)
    assert error
    assert len(times) == num_good > 0


def _use_in_child(video: VideoReader, queue: multiprocessing.Queue[list[str]]) -> None:
    said = []
    for use in (lambda: video.frames([0]), lambda: next(iter(video)), lambda: video.info and video.at([0.0])):
        with pytest.raises(RuntimeError) as caught:
            use()
        said.append(str(caught.value))
    queue.put(said)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("is_indexed", [True, False])
def test_a_reader_is_refused_after_a_fork(shared_data: Path, is_indexed: bool) -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[list[str]] = context.Queue()
    with open_video(shared_data / "odd_videos" / "two_frames.mp4") as video:
        assert not is_indexed or video.info.num_frames == 2
        child = context.Process(target=_use_in_child, args=(video, queue))
        child.start()
        said = queue.get(timeout=60)
        child.join()
        assert len(said) == 3
        assert all("after a fork; open the file in the worker that reads it" in message for message in said)
        assert len(video.frames([0, 1])) == 2  # the parent reads on


@on_linux
def test_memory_stays_flat(shared_data: Path) -> None:
    """CLIPGRU_NUM_OPENS=2000 for the full count."""
    folder, num_opens = shared_data / "odd_videos", int(os.environ.get("CLIPGRU_NUM_OPENS", "200"))
    names = ["two_frames.mp4", "odd_161x121.avi", "h264_10bit.mp4", "audio_only.mp4", "trunc.avi", "noise.mp4"]

    def use(number: int) -> None:
        with suppress(DecodeError), open_video(folder / names[number % len(names)]) as video:
            video.frames([0, video.info.num_frames - 1])

    for number in range(60):
        use(number)
    before = videos.resident_megabytes()
    for number in range(num_opens):
        use(number)
    assert videos.resident_megabytes() - before < 10


def test_twelve_megapixels_are_read(tmp_path: Path) -> None:
    """As action cameras and phones film them."""
    path = tmp_path / "large.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 4000, 3000, "yuv420p"
        container.mux([*stream.encode(av.VideoFrame(4000, 3000, "yuv420p")), *stream.encode()])
    with open_video(path) as video:
        assert video.frames([0]).frames.shape == (1, 3, 3000, 4000)


@pytest.fixture(scope="module")
def small_model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, small_model())
    return path


@pytest.mark.parametrize("command", ["predict", "explain", "explain-sampling", "webcam", "learn"])
def test_the_option_that_an_error_names_is_there(
    shared_data: Path, small_model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    video = shared_data / "odd_videos" / "two_frames.mp4"
    arguments = [command, str(small_model_file), str(video)]
    if command == "learn":
        for name in ("a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(video.read_bytes() + name.encode())
        arguments = [command, str(tmp_path), "--output", str(tmp_path / "model.safetensors")]
    elif command == "webcam":
        arguments += ["--replay", "--fast", "--headless"]
    elif command != "predict":
        arguments += ["--output", str(tmp_path / ("out.png" if command == "explain-sampling" else "out.mp4"))]
    assert main([*arguments, "--decode.max_pixels", "100"]) in (1, 2)
    said = capsys.readouterr()
    assert "decode.max_pixels allows 100 pixels" in said.err + said.out
