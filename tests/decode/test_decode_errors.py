"""What cannot be read is refused with the file, the stage and the cause, and nothing stays open."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import videos

from pipeline.decode import open_video
from pipeline.errors import DecodeError, UserError

BROKEN = {
    "audio_only.mp4": "no video stream",
    "trunc_nomoov.mp4": r"without its index \(moov\)",
    "zero.mp4": "empty",
    "garbage.avi": "no video at all",
    "text.mp4": "it is text, no video at all",
    "header_only.mp4": r"without its index \(moov\)",
    "hls_as.avi": "playlist",
    "bomb_30000x30000.png": r"single picture \(PNG\)",
}
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n"


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("decoder", videos.installed_decoders())
@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(shared_data: Path, name: str, decoder: str) -> None:
    path = shared_data / "odd_videos" / name
    with pytest.raises(DecodeError, match=BROKEN[name]) as caught:
        open_video(path, decoder)
    assert (caught.value.path, caught.value.stage) == (path, "open")


@pytest.mark.parametrize("decoder", videos.installed_decoders())
@pytest.mark.parametrize("name", ["noise.mp4", "hole.avi", "trunc_faststart.mp4", "trunc.avi"])
def test_damaged_files_are_read_as_pyav_does_or_not(shared_data: Path, name: str, decoder: str) -> None:
    path = shared_data / "odd_videos" / name
    with suppress(DecodeError), open_video(path) as exact, open_video(path, decoder) as video:
        num_read = 0
        for (image, _), (truth, _) in zip(video, exact, strict=True):
            assert (image.int() - truth.int()).abs().float().mean() < 1.0, num_read
            num_read += 1
        assert num_read == video.info.num_frames


@pytest.mark.parametrize("decoder", videos.installed_decoders())
def test_not_a_file(tmp_path: Path, decoder: str) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, cause in [
        (tmp_path / "missing.mp4", "does not exist"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe.mp4", "not a regular file"),
        ("http://localhost/video.mp4", "does not exist; it looks like a URL, and only local files are read"),
        ("concat:a.mp4|b.mp4", "does not exist; it looks like a URL"),
        ("subfile,,start,0,end,9,,:a.mp4", "does not exist"),
    ]:
        with pytest.raises(DecodeError, match=cause) as caught:
            open_video(path, decoder)
        assert caught.value.stage == "open"


@pytest.mark.parametrize("decoder", videos.installed_decoders())
@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".m3u8", ".ts"])
def test_playlists_and_scripts_are_not_followed(shared_data: Path, tmp_path: Path, suffix: str, decoder: str) -> None:
    target = shared_data / "odd_videos" / "h264_gop12.mp4"
    path = tmp_path / f"list{suffix}"
    for text, cause in [
        (PLAYLIST.format(target=target), "playlist"),
        (f"ffconcat version 1.0\nfile '{target}'\n", "concat"),
        (f"<?xml version='1.0'?><MPD><BaseURL>{target}</BaseURL></MPD>", "web page or XML"),
        (f"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na={target}\n", "it is text"),
    ]:
        path.write_text(text)
        with pytest.raises(DecodeError, match=cause):
            open_video(path, decoder)


@pytest.mark.parametrize("decoder", videos.installed_decoders())
def test_a_file_named_like_a_protocol_is_a_file(
    shared_data: Path, tmp_path: Path, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("concat:a.mp4|b.mp4").write_bytes((shared_data / "odd_videos" / "two_frames.mp4").read_bytes())
    with open_video("concat:a.mp4|b.mp4", decoder) as video:
        assert video.info.num_frames == 2


def test_index_out_of_range(shared_data: Path) -> None:
    with open_video(shared_data / "odd_videos" / "two_frames.mp4") as video:
        for number in (-1, 2):
            with pytest.raises(DecodeError, match=f"no frame {number}: the video has 2 frames, 0 to 1") as caught:
                video.frames([0, number])
            assert caught.value.path.name == "two_frames.mp4"


def test_unknown_decoder() -> None:
    with pytest.raises(
        UserError, match=r"unknown decoder 'pyavv'\. Did you mean 'pyav'\? Known: decord, opencv, pyav, torchcodec"
    ):
        open_video("any.mp4", decoder="pyavv")


def test_missing_decord(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    monkeypatch.delitem(sys.modules, "pipeline.decode.decord", raising=False)
    with pytest.raises(UserError, match="pip install decord"):
        open_video(shared_data / "odd_videos" / "h264_gop12.mp4", "decord")


def test_import_is_light() -> None:
    code = "import sys, pipeline.decode; sys.exit(bool({'cv2', 'decord'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reader_stays_in_its_process(shared_data: Path) -> None:
    with (
        open_video(shared_data / "odd_videos" / "two_frames.mp4") as video,
        pytest.raises(TypeError, match="cannot be sent to another process; open the file there"),
    ):
        pickle.dumps(video)


@pytest.mark.parametrize("decoder", videos.installed_decoders())
def test_a_closed_reader_says_so(shared_data: Path, decoder: str) -> None:
    video = open_video(shared_data / "odd_videos" / "h264_gop12.mp4", decoder)
    frames = iter(video)
    next(frames)
    video.close()
    video.close()
    with pytest.raises(ValueError, match="closed"):
        next(frames)
    with pytest.raises(ValueError, match="closed"):
        video.frames([0])


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files the Linux way")
@pytest.mark.parametrize("decoder", videos.installed_decoders())
def test_nothing_stays_open(shared_data: Path, decoder: str) -> None:
    folder = shared_data / "odd_videos"
    open_video(folder / "two_frames.mp4", decoder).close()  # imports what it needs
    before = num_open_files()
    with open_video(folder / "h264_gop12.mp4", decoder) as video:
        abandoned = [iter(video), video.stream_at([0.0, 1.0])]
        for frames in abandoned:
            next(frames)
        video.frames([3])
    for name in ("audio_only.mp4", "garbage.avi", "mpeg2.mpg", "noise.mp4"):
        with suppress(DecodeError), open_video(folder / name, decoder) as video:
            list(video)
    del abandoned, frames, video
    assert num_open_files() == before
