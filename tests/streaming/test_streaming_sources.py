"""What people type as a source, and what of it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.streaming.sources import parse_sources


@pytest.fixture
def video(tmp_path: Path) -> str:
    path = tmp_path / "clip.mp4"
    path.touch()
    return str(path)


def test_urls_files_and_devices(video: str) -> None:
    kinds = [
        (parse_sources(["rtsp://camera/stream"]), "network"),
        (parse_sources(["HTTP://camera:81/mjpg"]), "network"),
        (parse_sources(["/dev/null"]), "camera"),  # a character device, as cameras are
        (parse_sources([video], replay=True), "replay"),
        (parse_sources([video], replay=True, fast=True), "file"),
    ]
    for sources, kind in kinds:
        assert [source.kind for source in sources] == [kind]


def test_names_differ(video: str) -> None:
    names = [source.name for source in parse_sources([video, video, video], replay=True)]
    assert names == [video, f"{video} (2)", f"{video} (3)"]
    secret = parse_sources(["http://a:x@camera/1", "http://a:y@camera/1"])
    assert [source.name for source in secret] == ["http://***@camera/1", "http://***@camera/1 (2)"]


@pytest.mark.parametrize(
    ("text", "replay", "message"),
    [
        ("{video}", False, "add --replay"),
        ("absent.mp4", False, "no such device or file"),
        ("absent.mp4", True, "no such file"),
        ("rtsp://camera/1", True, "--replay is for files"),
        (
            "ftp://user:secret@host/x.mp4",
            False,
            r"ftp://\*\*\*@host/x.mp4: no address that is read; they begin with rtsp,",
        ),
        ("file:///etc/passwd", False, r"^\*\*\*: no address that is read"),
        ("concat:a.mp4|b.mp4", False, "no such device or file"),
        ("rtsp:///path", False, "no host"),
        ("9999", False, "camera 9999"),
        (".", False, "neither a camera device nor a file"),
        (".", True, "no such file"),
    ],
)
def test_what_is_no_source_is_told_with_a_cure(text: str, replay: bool, message: str, video: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_sources([text.format(video=video)], replay)
    assert "secret" not in str(caught.value)
