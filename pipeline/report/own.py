"""The videos that ``predict`` writes beside others, and the signs that tell them from somebody's own."""

from __future__ import annotations

from pathlib import Path

ANNOTATED, PREVIEW = ".annotated.mp4", ".preview.mp4"
"""Endings of the names of the videos written for a video."""
MARK = "written by clipgru"
"""The comment in their metadata."""


def is_own(path: Path) -> bool:
    """True if ``predict`` wrote this video: by its name, and by the mark in it, so that somebody's own file that
    happens to have such a name is not taken for one."""
    if not path.name.lower().endswith((ANNOTATED, PREVIEW)):
        return False
    import av  # here, so that who only lists names need not load it

    try:
        with av.open(str(path.absolute()), container_options={"protocol_whitelist": "file"}) as container:
            return container.metadata.get("comment") == MARK
    except (OSError, av.FFmpegError):
        return False
