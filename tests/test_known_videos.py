"""A model knows its videos: what its file keeps of them, how they are known again, what that leaves to judge by."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import random
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import known_videos
from pipeline.checkpoint import load_model_file, read_description, save_model
from pipeline.config import DataConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.identities import (
    CHANGED,
    SAME_SOURCE,
    TRAINED,
    VALIDATED,
    Contents,
    Judgeable,
    Unseen,
    join_copies,
)
from pipeline.errors import UserError
from pipeline.files.content import FilePart
from pipeline.known_videos import KnownVideo, KnownVideos, content_digest
from tests.small import small_model

# What the model file keeps


def known(name: str = "jump/a.mp4", content: bytes = b"a", start: float = 0.0, end: float | None = None) -> KnownVideo:
    return KnownVideo(name, len(content), hashlib.sha256(content).hexdigest()[:24], start, end)


def test_a_model_file_keeps_them(tmp_path: Path) -> None:
    videos = KnownVideos(
        (known(), known("wálk/\udcff.mp4", b"b", 1.5, 3.25)), (known("c.mp4", b"c", 2.0),), (known("d"),)
    )
    for videos_or_none in (videos, None):
        path = tmp_path / "model.safetensors"
        save_model(path, replace(small_model(), videos=videos_or_none))
        assert load_model_file(path).videos == videos_or_none


def test_ten_thousand_take_less_than_a_megabyte() -> None:
    rng = random.Random(0)
    videos = tuple(
        KnownVideo(
            f"site {k % 7}/camera_{k % 101:03}/2024-05-11T10-{k % 60:02}_{k:05}.mp4",
            rng.randrange(10**9),
            rng.randbytes(12).hex(),
        )
        for k in range(10_000)
    )
    packed = KnownVideos(videos).to_json()
    assert sum(map(len, packed.values())) < 1_000_000
    assert KnownVideos.from_json(packed, "x").train == videos


def packed_text(text: bytes) -> str:
    return base64.b64encode(zlib.compress(text)).decode()


@pytest.mark.parametrize(
    "text",
    [
        7,
        "no base64!",
        base64.b64encode(b"no zlib").decode(),
        packed_text(b"[[")[:-4],
        packed_text(b"no JSON"),
        packed_text(b"[7]"),
        packed_text(b'[["a"]]'),
        packed_text(b'[["a", -1, ""]]'),
        packed_text(b'[["a", 1, "abc"]]'),
        packed_text(b'[["a", 1, "", NaN, 2]]'),
        packed_text(b'[["a", 1, "", 0, 1, 2]]'),
        packed_text(b"[" * 100_000),
        packed_text(b" " * 100_000_000),  # 97 kB of file, 100 MB of memory
    ],
    ids=lambda text: str(text)[:12],
)
def test_a_damaged_list_is_refused(text: object) -> None:
    with pytest.raises(UserError, match=r"^m.safetensors: known videos, val: not a list of videos"):
        KnownVideos.from_json(KnownVideos().to_json() | {"val": text}, "m.safetensors")
    with pytest.raises(UserError, match=r"^m.safetensors: its list of known videos"):
        KnownVideos.from_json({"train": ""}, "m.safetensors")


def test_an_exported_file_does_not_repeat_them(tmp_path: Path) -> None:
    from pipeline.export.outcome import describe_part

    file = replace(small_model(), videos=KnownVideos((known(),)))
    save_model(tmp_path / "m.safetensors", file)
    assert "videos" in read_description(tmp_path / "m.safetensors")
    assert "videos" not in describe_part(file, "clip", [])


# Digests


def digest_of(content: bytes) -> str:
    return content_digest(io.BytesIO(b"before" + content + b"after"), 6, len(content))


def test_a_digest_is_of_the_bytes() -> None:
    content = os.urandom(3_000_000)
    assert digest_of(content) == hashlib.sha256(content).hexdigest()[:24]
    for place in (0, 1_500_000, 2_999_999):
        edited = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        assert digest_of(edited) != digest_of(content)


def test_of_a_large_file_blocks_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_videos, "MAX_WHOLE_BYTES", 10_000)
    monkeypatch.setattr(known_videos, "_NUM_BLOCKS", 8)
    monkeypatch.setattr(known_videos, "_BLOCK_BYTES", 100)
    content = os.urandom(10_001)
    seen = [place for place in range(0, 10_001, 20) if digest_of(edited_at(content, place)) != digest_of(content)]
    assert len(seen) == 8 * 5
    assert seen[0] == 0
    assert seen[-1] > 9_900
    assert digest_of(content + b"x") != digest_of(content)


def edited_at(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_a_file_cut_off_meanwhile_is_an_error() -> None:
    with pytest.raises(OSError, match="ends after 5 of 7 bytes"):
        content_digest(io.BytesIO(b"12345"), 0, 7)


# What is left to judge by


class Folder:
    """Files of a few bytes, as videos of a dataset."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def row(self, name: str, content: str, group: str = "", start: float = 0.0, end: float | None = None) -> VideoRow:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return VideoRow(path, "label", group or name, start, end, name)

    @property
    def contents(self) -> Contents:
        return Contents(DataConfig(root=str(self.root)))

    def judgeable(
        self, videos: KnownVideos, rows: Sequence[VideoRow], others: Sequence[VideoRow] = (), **settings: bool
    ) -> Judgeable:
        may_share_groups = settings.pop("may_share_groups", False)
        unseen = Unseen(videos, [*rows, *others], self.contents, may_share_groups=may_share_groups)
        return unseen.judgeable(rows, **settings)

    def known(self, *rows: VideoRow) -> tuple[KnownVideo, ...]:
        return self.contents.known(rows)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def causes(found: Judgeable) -> dict[str, str]:
    return {left.name: left.why for left in found.left_out}


def test_a_video_is_known_under_another_name_and_an_edited_one_is_not(folder: Folder) -> None:
    trained, validated = folder.row("a.mp4", "one"), folder.row("b.mp4", "two")
    videos = KnownVideos(folder.known(trained), folder.known(validated))
    other = Folder(folder.root / "other")
    rows = [
        other.row("copy of a.mp4", "one"),
        other.row("b.mp4", "two"),
        other.row("c.mp4", "onE"),
        other.row("d.mp4", ""),
    ]
    found = other.judgeable(videos, rows)
    assert causes(found) == {"copy of a.mp4": TRAINED, "b.mp4": VALIDATED}
    assert [row.name for row in found.rows] == ["c.mp4", "d.mp4"]
    assert causes(other.judgeable(videos, rows, validated=True)) == {"copy of a.mp4": TRAINED}
    earlier = KnownVideos(earlier=videos.train)
    assert causes(other.judgeable(earlier, rows)) == {"copy of a.mp4": TRAINED}


def test_in_its_own_data_a_video_is_known_by_name_though_it_changed(folder: Folder) -> None:
    videos = KnownVideos(folder.known(folder.row("a.mp4", "one"), folder.row("b.mp4", "two")))
    encoded_anew, new = folder.row("a.mp4", "one, smaller"), folder.row("c.mp4", "three")
    found = folder.judgeable(videos, [encoded_anew, new], [folder.row("b.mp4", "two")])
    assert causes(found) == {"a.mp4": CHANGED}
    assert not found.namesakes
    other = Folder(folder.root / "other")  # where a.mp4 is a common name
    found = other.judgeable(videos, [other.row("a.mp4", "another"), other.row("b.mp4", "yet another")])
    assert not found.left_out
    assert found.namesakes == ("a.mp4", "b.mp4")
    assert "2: a.mp4, b.mp4" in found.notes()[0]
    found = other.judgeable(videos, [other.row("a.mkv", "in another container")])
    assert found.namesakes == ("a.mkv",)


def test_a_source_is_known_by_one_of_its_videos(folder: Folder) -> None:
    seen, kin = folder.row("a.mp4", "one", "day1"), folder.row("b.mp4", "two", "day1")
    stranger = folder.row("c.mp4", "three", "day2")
    videos = KnownVideos(folder.known(seen))
    assert causes(folder.judgeable(videos, [kin, stranger], [seen])) == {"b.mp4": SAME_SOURCE}
    assert not folder.judgeable(videos, [kin, stranger], [seen], may_share_groups=True).left_out


def test_a_stretch_is_known_if_it_overlaps_one_that_was_trained_on(folder: Folder) -> None:
    videos = KnownVideos(folder.known(folder.row("a.mp4", "one", "x", 2.0, 4.0)))
    times = [(0.0, 2.0), (0.0, 2.5), (3.0, 3.5), (4.0, None), (0.0, None)]
    rows = [folder.row("a.mp4", "one", f"group {k}", *stretch) for k, stretch in enumerate(times)]
    left = [(row.start_seconds, row.end_seconds) for row in folder.judgeable(videos, rows).rows]
    assert left == [(0.0, 2.0), (4.0, None)]
    of_one_source = [replace(row, group="x") for row in rows]
    assert not folder.judgeable(videos, of_one_source).rows


def test_a_packed_video_is_known(folder: Folder) -> None:
    row = folder.row("a.mp4", "one")
    tar = folder.root / "all.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(row.path, "a.mp4")
    part = FilePart(tar, 512, 3, hashlib.sha256(b"one").hexdigest(), "a.mp4")
    packed = VideoRow(folder.root / "shards/a.mp4", "label", "g", name="a.mp4", part=part)
    assert folder.known(packed) == folder.known(row)


def test_files_that_cannot_be_read_are_known_by_nothing(folder: Folder) -> None:
    gone, empty = replace(folder.row("x.mp4", "x"), path=folder.root / "gone.mp4"), folder.row("empty.mp4", "")
    videos = KnownVideos(folder.known(gone, empty))
    assert {video.digest for video in videos.train} == {""}
    assert not folder.judgeable(videos, [folder.row("other empty.mp4", ""), folder.row("empty.mp4", "")]).left_out


def test_copies_count_as_one_source(folder: Folder) -> None:
    rows = [
        folder.row("a.mp4", "one", "g1"),
        folder.row("b.mp4", "two", "g1"),
        folder.row("c.mp4", "one", "g2"),
        folder.row("d.mp4", "three", "g2"),
        folder.row("e.mp4", "four", "g3"),
    ]
    joined, notes = join_copies(rows, folder.contents)
    assert [row.group for row in joined] == ["g1", "g1", "g1", "g1", "g3"]
    assert notes == ["copies of one video count as one source. 1: c.mp4 = a.mp4"]
    assert join_copies(rows[:2], folder.contents) == (rows[:2], [])
