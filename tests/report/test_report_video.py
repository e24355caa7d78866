"""The annotated video: its times, size and bytes as FFmpeg reads them back, and what is drawn into it."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.clip import Prediction, Segment
from pipeline.decode import open_video
from pipeline.report.annotated import AnnotatedVideo, AnnotatedVideos, PredictionTrack
from pipeline.report.drawing import GOING_ON, OTHER, Caption, clock, draw_caption, in_font
from pipeline.report.mp4 import Mp4File, encoder_name
from pipeline.report.records import SourceVideo
from tests.videos import painted_number, picture, plain_decode


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


def annotate(source: Path, folder: Path) -> Path:
    """All of a video, without a word said of it."""
    writer = AnnotatedVideos(folder)
    with open_video(source) as reader:
        writer.begin_video(SourceVideo(str(source), source.stem, reader.info))
        for frame, time_seconds in reader:
            writer.frame(frame.permute(1, 2, 0).numpy(), time_seconds)
        writer.end_video("ok", "")
    return folder / f"{source.stem}.annotated.mp4"


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(15, 2)])
def test_a_constant_rate_is_kept_exactly(tmp_path: Path, rate: Fraction) -> None:
    path = tmp_path / "a.mp4"
    out = Mp4File(path, rate)
    for number in range(30):
        out.write(picture(number), float(number / rate))
    out.close()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == rate
        assert [frame.pts * frame.time_base for frame in container.decode(stream)] == [k / rate for k in range(30)]
    assert [painted_number(image) for image in plain_decode(path)] == list(range(30))


def test_variable_times_are_kept(tmp_path: Path) -> None:
    times = np.cumsum([0.0, *np.random.default_rng(0).uniform(0.01, 0.4, 40)]).tolist()
    out = Mp4File(tmp_path / "a.mp4", Fraction(41, 8))
    for number, time_seconds in enumerate(times):
        out.write(picture(number), time_seconds)
    out.close(times[-1] + 1.5)
    assert times_of(tmp_path / "a.mp4") == pytest.approx(times, abs=1e-5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(times[-1] + 1.5, abs=1e-4)
    assert [painted_number(image) for image in plain_decode(tmp_path / "a.mp4")] == list(range(41))


@pytest.mark.parametrize("name", ["h264_vfr.mp4", "rot90.mp4", "odd_161x121.avi", "xvid_bf2.avi", "h264_2997.mp4"])
def test_real_files_keep_times_size_and_uprightness(shared_data: Path, tmp_path: Path, name: str) -> None:
    """Against the source as the exact reader gives it, rotation applied."""
    source = shared_data / "odd_videos" / name
    path = annotate(source, tmp_path)
    with open_video(source) as theirs, open_video(path) as ours:
        assert ours.info.num_frames == theirs.info.num_frames
        assert (ours.info.width, ours.info.height) == tuple(
            side + side % 2 for side in (theirs.info.width, theirs.info.height)
        )
        assert ours.info.duration_seconds == pytest.approx(theirs.info.duration_seconds, abs=1e-3)
        np.testing.assert_allclose(ours.pts_seconds.numpy(), theirs.pts_seconds.numpy(), atol=1e-4)
        third = theirs.info.height // 3  # above the band
        a, b = (reader.frames([5]).frames[0][:, :third, : theirs.info.width].float() for reader in (ours, theirs))
        assert float((a - b).abs().mean()) < 12


def test_pixels_that_are_not_square_become_square(shared_cases: Path, tmp_path: Path) -> None:
    with open_video(annotate(shared_cases / "video" / "sar.mp4", tmp_path)) as video:
        assert (video.info.width, video.info.height, video.info.sample_aspect_ratio) == (280, 128, 1)  # 279, made even


def test_the_encoder_is_h264_here_and_the_colours_say_what_they_are(tmp_path: Path) -> None:
    out = Mp4File(tmp_path / "a.mp4", Fraction(25))
    colours = np.zeros((96, 128, 3), np.uint8)
    colours[:, :64], colours[:, 64:] = (200, 30, 30), (30, 60, 200)
    for number in range(10):
        out.write(colours, number / 25)
    out.close()
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == {"libx264": "h264"}.get(encoder_name(), "mpeg4")
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (1, 1)  # BT.709, limited
    got = frame.to_ndarray(format="rgb24", src_colorspace="ITU709")
    np.testing.assert_allclose(got[40, 20], colours[40, 20], atol=6)
    np.testing.assert_allclose(got[40, 100], colours[40, 100], atol=6)


def test_without_h264_it_is_mpeg4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.report.mp4.encoder_name", lambda: "mpeg4")
    out = Mp4File(tmp_path / "a.mp4", Fraction(25))
    for number in range(12):
        out.write(picture(number), number / 25)
    out.close()
    with open_video(tmp_path / "a.mp4") as reader:
        assert (reader.info.codec, reader.info.num_frames) == ("mpeg4", 12)
    assert [painted_number(image) for image in plain_decode(tmp_path / "a.mp4")] == list(range(12))


def test_the_same_pictures_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        video = AnnotatedVideo(tmp_path / f"{name}.mp4", Fraction(25))
        for number in range(50):
            video.write(picture(number), number / 25, "run", number / 50, ("run",))
        video.close()
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    video = AnnotatedVideo(tmp_path / "a.mp4", Fraction(25))
    video.write(picture(0), 0.0)
    video.write(picture(1).transpose(2, 0, 1), 0.04)  # [3, H, W] is welcome too
    assert {path.name for path in tmp_path.iterdir()} == {f".a.mp4.{os.getpid()}.clipgru.tmp"}
    video.discard()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"\[H, W, 3\] or \[3, H, W\]"):
        video.write(np.zeros((4, 5), np.uint8), 0.0)


def test_a_video_that_may_not_grow_is_one_error_and_leaves_no_half(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    code = f"""
import resource, sys
sys.path.insert(0, {root!r})
from fractions import Fraction
from pathlib import Path
import numpy as np
from pipeline.errors import UserError
from pipeline.report.annotated import AnnotatedVideo
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
video = AnnotatedVideo(Path({str(tmp_path / "a.mp4")!r}), Fraction(25))
rng = np.random.default_rng(0)
try:
    for number in range(60):
        video.write(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8), number / 25)
    video.close()
except UserError as error:
    video.discard()
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{tmp_path / 'a.mp4'}: cannot be written: the file may not grow further" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_caption_is_of_the_nearest_window_and_the_segment_at_the_time() -> None:
    track = PredictionTrack()
    assert track.caption(1.0) == Caption(1.0)
    for start, label, score in ((0.0, "run", 0.9), (1.0, "jump", 0.6), (2.0, "run", 0.7)):
        track.add_window(Prediction("a", start, start + 2.0, label, score, ((label, score),)))
    track.add_segment(Segment(0.5, 1.5, "run"))
    assert track.caption(0.0) == Caption(0.0, "run", 0.9)
    assert track.caption(0.5) == Caption(0.5, "run", 0.9, ("run",))
    assert track.caption(1.49) == Caption(1.49, "run", 0.9, ("run",))
    assert track.caption(1.6) == Caption(1.6, "jump", 0.6)
    assert track.caption(99.0) == Caption(99.0, "run", 0.7)


def test_actions_that_overlap_stand_in_one_caption_in_order_of_time() -> None:
    track = PredictionTrack()
    segments = [Segment(2.0, 3.0, "b"), Segment(1.0, 4.0, "a"), Segment(3.5, 4.5, "c"), Segment(0.0, 9.0, "all")]
    for segment in segments:  # by their ends, as they come
        track.add_segment(segment)
    for time in np.arange(0, 10, 0.25):
        expected = [
            s.label for s in sorted(segments, key=lambda s: s.start_seconds) if s.start_seconds <= time < s.end_seconds
        ]
        assert list(track.caption(float(time)).segments) == expected


@pytest.mark.parametrize(("height", "width"), [(48, 48), (240, 320), (720, 1280), (480, 270)])
def test_the_bar_is_as_long_as_the_score_and_the_picture_above_is_untouched(height: int, width: int) -> None:
    image = np.full((height, width, 3), 200, np.uint8)
    before = image.copy()
    for score in (0.0, 0.25, 1.0):
        for segments, colour in ((("run",), GOING_ON), (("jump", "run"), GOING_ON), ((), OTHER)):
            drawn = draw_caption(image, Caption(12.3, "run", score, segments))
            assert (image == before).all()
            assert (drawn[: height // 3] == 200).all()
            row = (drawn == colour).all(axis=2).sum(axis=1).max()  # a row of the bar that no letter crosses
            assert row / width == pytest.approx(score, abs=0.12)


def test_captions_of_any_length_and_script_are_drawn() -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    for label in ("", "x", "a very long label that fits no picture whatever one does" * 3, "走る", "déjà vu"):
        assert draw_caption(image, Caption(0.0, label, 0.5, (label,))).shape == image.shape
    assert in_font("déjà 走る") == "deja ??"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0:00.0"), (9.99, "0:09.9"), (75.04, "1:15.0"), (0.3, "0:00.3"), (3725.6, "1:02:05.6")]
)
def test_the_clock_counts_up_without_rounding(seconds: float, text: str) -> None:
    assert clock(seconds) == text
