"""The sample tables of MP4 and MOV say what the demuxer says, packet for packet, or leave it to the demuxer."""

from __future__ import annotations

import random
import struct
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import videos
from numpy.typing import NDArray

from pipeline.config import DecodeConfig
from pipeline.decode import open_video
from pipeline.decode.boxes import outer_boxes
from pipeline.decode.container import OpenVideo
from pipeline.decode.mp4 import SampleTable, read_sample_table
from pipeline.errors import DecodeError

# Without FFmpeg's own view of the samples (PyAV before 17) no table is believed, and every file is demuxed.
pytestmark = pytest.mark.skipif(
    not hasattr(av.stream.Stream, "index_entries"), reason="this PyAV does not show FFmpeg's index"
)
NUM_DAMAGED = 100
IS_KEY = 3  # the column that the demuxer corrects by a look into the packet


def by_table(table: SampleTable) -> NDArray[np.int64]:
    none = np.zeros_like(table.dts)
    columns = [table.dts, table.pts, table.num_ticks_shown, table.is_key, table.sizes, table.positions, none, none]
    return np.stack(columns, axis=1)


def by_demuxer(video: OpenVideo) -> NDArray[np.int64]:
    packets = [packet for packet in video.container.demux(video.stream) if packet.size]
    rows = [
        (p.dts, p.pts, p.duration, p.is_keyframe, p.size, p.pos, p.is_discard, p.is_corrupt)  # type: ignore[attr-defined]
        for p in packets
    ]
    return np.array(rows, np.int64)


def test_tables_say_what_the_demuxer_says(shared_data: Path) -> None:
    num_compared = 0
    folders = [shared_data / "odd_videos", shared_data / "odd_real"]
    clips = sorted((shared_data / "surv_fight").rglob("*.mp4"))[::20]
    for path in [*clips, *(path for folder in folders for path in sorted(folder.iterdir()))]:
        try:
            video = OpenVideo(path, DecodeConfig())
        except DecodeError:
            continue
        with video:
            table = read_sample_table(video)
            if table is not None:
                num_compared += 1
                ours, theirs = by_table(table), by_demuxer(video)
                if path.name == "noise.mp4":  # what is no keyframe any more is tried and found out
                    ours[:, IS_KEY] = theirs[:, IS_KEY]
                assert np.array_equal(ours, theirs), path.name
    assert num_compared >= 30


@pytest.mark.parametrize("name", ["h264_gop12.mp4", "h264_vfr.mp4", "two_frames.mp4"])
def test_damaged_tables(shared_data: Path, tmp_path: Path, name: str) -> None:
    source, path = shared_data / "odd_videos" / name, tmp_path / name
    [(start, size)] = [(start, size) for box, start, size in outer_boxes(source) if box == b"moov"]
    outcomes: Counter[str] = Counter()
    for number in range(NUM_DAMAGED):
        rng, content = random.Random(f"{name} {number}"), bytearray(source.read_bytes())
        for _ in range(rng.choice([1, 2, 4])):
            content[start + rng.randrange(size)] = rng.randrange(256)
        path.write_bytes(content)
        try:
            video = OpenVideo(path, DecodeConfig())
        except DecodeError:
            outcomes["no video"] += 1
            continue
        with video:
            table = read_sample_table(video)
            outcomes["left to the demuxer" if table is None else "read"] += 1
            if table is not None:
                ours, theirs = np.delete(by_table(table), IS_KEY, axis=1), np.delete(by_demuxer(video), IS_KEY, axis=1)
                assert np.array_equal(ours, theirs), number
    assert min(outcomes["left to the demuxer"], outcomes["read"]) >= 10


def with_edit(content: bytes, start: int, duration: int) -> bytes:
    """The same file with another edit list; all its boxes keep their sizes."""
    place = content.index(b"elst") + 12
    return content[:place] + struct.pack(">Ii", duration, start) + content[place + 8 :]


def test_an_edit_that_hides_pictures_is_left_to_the_demuxer(shared_data: Path, tmp_path: Path) -> None:
    content = (shared_data / "odd_videos" / "h264_gop12.mp4").read_bytes()
    duration, start = struct.unpack_from(">Ii", content, content.index(b"elst") + 12)
    path = tmp_path / "edited.mp4"
    for edit, has_table in [
        ((start, duration), True),
        ((start + 512 * 20, duration), False),  # begins later
        ((start, duration // 2), False),  # ends earlier
    ]:
        path.write_bytes(with_edit(content, *edit))
        with OpenVideo(path, DecodeConfig()) as video:
            assert (read_sample_table(video) is not None) == has_table, edit
        truth = videos.plain_decode(path)
        with open_video(path) as reader:
            assert reader.info.num_frames == len(truth)
            numbers = [len(truth) - 1, 0, len(truth) // 2]
            images = reader.frames(numbers).frames.permute(0, 2, 3, 1).numpy()
            assert all(np.array_equal(image, truth[k]) for image, k in zip(images, numbers, strict=True))


@pytest.mark.parametrize(("name", "has_table"), [("mpeg4.mp4", True), ("fragments.mp4", False), ("live.mkv", False)])
def test_kinds(tmp_path: Path, name: str, has_table: bool) -> None:
    path = videos.encode(tmp_path, name)
    if path is None:
        pytest.skip(f"this FFmpeg cannot encode {name}")
    with OpenVideo(path, DecodeConfig()) as video:
        assert (read_sample_table(video) is not None) == has_table
