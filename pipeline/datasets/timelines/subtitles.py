"""Labelled stretches as subtitles: SubRip (.srt) and WebVTT (.vtt, W3C). A cue is a stretch, its text the label."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape, unescape
from pathlib import Path

from pipeline.datasets.annotations import read_text
from pipeline.datasets.timelines.frames import ClockOf
from pipeline.datasets.timelines.names import flat_names
from pipeline.datasets.timelines.spans import clock_text, one_line, read_span
from pipeline.errors import UserError
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo

_TIMES = re.compile(r"\s*([\d:]+[.,]\d+)\s+-->\s+([\d:]+[.,]\d+)(?:\s.*)?")
_PER_CENT = re.compile(r"(.+) \((\d{1,3})%\)")  # as ``predict`` writes its scores
_FOR_TAGS = str.maketrans("<>", "\u2039\u203a")  # SubRip players take <i> for a tag
_AS_TAGS = str.maketrans("\u2039\u203a", "<>")


def read_subtitles(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read a SubRip or WebVTT file; the video has its name. A text such as ``run (64%)``, as ``predict`` writes it, has
    a score. ``split`` does nothing.

    Raises:
        UserError: a cue without times or text, named ``file:line``.
    """
    is_vtt = path.suffix.lower() == ".vtt"
    return [LabelledVideo(path.stem, tuple(_cues(path, is_vtt)))]


def _cues(path: Path, is_vtt: bool) -> Iterator[LabelledSpan]:
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines):
        times = _TIMES.fullmatch(line)
        if times is None and "-->" in line:
            raise UserError(
                f"{path}:{number + 1}: expected times such as 00:00:01.500 --> 00:00:02.000, got {line[:80]!r}"
            )
        if times is None:
            continue
        texts = []
        for place, text in enumerate(lines[number + 1 :], number + 2):
            if not text.strip():
                break
            if "-->" in text:
                raise UserError(f"{path}:{place}: an empty line is missing before this cue; put one there")
            texts.append(text.strip())
        text = " ".join(texts)
        text = unescape(re.sub(r"</?[a-z][^<>]*>", "", text)) if is_vtt else text.translate(_AS_TAGS)
        scored = _PER_CENT.fullmatch(text)
        label, score = (scored[1], int(scored[2]) / 100) if scored else (text, 1.0)
        start, end = (time.replace(",", ".") for time in times.groups())
        yield read_span(f"{path}:{number + 1}", start, end, label, score)


def write_srt(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write a SubRip file a video, the cues in the order of time."""
    return {f"{name}.srt": _written(video, "", ",") for name, video in flat_names(videos).items()}


def write_vtt(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write a WebVTT file a video, the cues in the order of time."""
    return {f"{name}.vtt": _written(video, "WEBVTT\n\n", ".") for name, video in flat_names(videos).items()}


def _written(video: LabelledVideo, head: str, mark: str) -> str:
    cues = []
    spans = sorted(video.spans, key=lambda span: (span.start_seconds, span.end_seconds))
    for number, span in enumerate(spans, 1):
        start, end = (clock_text(time).replace(".", mark) for time in (span.start_seconds, span.end_seconds))
        label = one_line(span.label)
        if _PER_CENT.fullmatch(label):  # else its end would be read as a score
            label += " (100%)"
        text = escape(label, quote=False) if head else label.translate(_FOR_TAGS)
        cues.append(f"{number}\n{start} --> {end}\n{text}\n\n")
    return head + "".join(cues)
