"""Labelled stretches through every format and back: what a format can hold comes back equal, the rest is named."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.datasets.formats import DATA_FORMATS
from pipeline.datasets.timelines.formats import TIMELINE_FORMATS
from pipeline.datasets.timelines.frames import Clock, by_clock, clock_at
from pipeline.datasets.timelines.names import rename_as
from pipeline.datasets.timelines.reading import read_timelines
from pipeline.datasets.timelines.writing import write_labelled
from pipeline.errors import UserError
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo

FPS = 5.0
WRITTEN = sorted(name for name, found in TIMELINE_FORMATS.items() if found.write)
FORMS = [*((name, "") for name in WRITTEN), ("boris", ".csv"), ("via", ".csv")]

labels = st.text(string.ascii_letters + string.digits + " _-&<>'éß跳.", min_size=1, max_size=8).filter(
    lambda text: text == text.strip() and text[0] != "." and text not in ("background", "unlabelled", "Ambiguous")
)


@st.composite
def videos(draw: st.DrawFn) -> list[LabelledVideo]:
    """A few videos of 6 s with stretches on a grid of 5 frames a second."""
    known = draw(st.lists(labels, min_size=1, max_size=3, unique_by=str.lower))
    spans = st.builds(
        lambda start, length, label, score: LabelledSpan(start / FPS, (start + length) / FPS, label, score),
        st.integers(0, 20),
        st.integers(0, 10),
        st.sampled_from(known),
        st.sampled_from([1.0, 1.0, 0.25, 0.875]),
    )
    names = draw(st.lists(st.sampled_from(["day1/a.mp4", "day1/b.avi", "c", "sub/d.mkv"]), min_size=1, unique=True))
    return [
        LabelledVideo(
            name,
            tuple(draw(st.lists(spans, max_size=5, unique=True))),
            draw(st.sampled_from([None, 6.0])),
            split=draw(st.sampled_from(["", "train", "test"])),
            group=draw(st.sampled_from(["", "kitchen"])),
            uncovered=draw(st.sampled_from(["background", "unlabelled"])),
        )
        for name in names
    ]


def clock_of(video: LabelledVideo) -> Clock:
    return clock_at(FPS, 6.0)


def there_and_back(
    given_videos: Sequence[LabelledVideo], name: str, suffix: str
) -> tuple[list[LabelledVideo], list[str]]:
    with TemporaryDirectory() as folder:
        found = TIMELINE_FORMATS[name]
        target = Path(
            folder, f"out{suffix or (found.suffixes[0] if found.suffixes and not found.is_per_video else '')}"
        )
        notes = write_labelled(given_videos, target, name, clock_of)
        read = [by_clock(video, clock_of(video)) for video in read_timelines(target, name)]
    return rename_as(given_videos, read), notes


def rounded(video: LabelledVideo) -> list[tuple[float, float, str, float]]:
    spans = [s for s in video.spans if s.label != "background"]
    return sorted((round(s.start_seconds, 6), round(s.end_seconds, 6), s.label, s.score) for s in spans)


def frames_of(video: LabelledVideo) -> list[tuple[set[str], bool]]:
    """Of each frame its labels, and true if nobody has looked at it: a loop, to compare with."""
    shown = []
    for frame in range(30):
        here = {s.label for s in video.spans if s.start_seconds - 1e-6 <= frame / FPS < s.end_seconds - 1e-6}
        shown.append(
            (
                here - {"unlabelled", "background"},
                "unlabelled" in here or (not here and video.uncovered == "unlabelled"),
            )
        )
    return shown


@pytest.mark.parametrize(("name", "suffix"), FORMS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(given_videos=videos())
def test_what_a_format_holds_comes_back(name: str, suffix: str, given_videos: list[LabelledVideo]) -> None:
    has_stretch = [v.spans or (v.uncovered == "unlabelled" and v.duration_seconds) for v in given_videos]
    if name == "thumos" and not any(has_stretch):
        with pytest.raises(UserError, match="no stretch to write"):
            there_and_back(given_videos, name, suffix)
        return
    found, notes = there_and_back(given_videos, name, suffix)
    said = " ".join(notes)
    by_name = {video.name: video for video in found}
    for video in given_videos:
        if video.name not in by_name:
            assert not video.spans
            assert "videos without a stretch" in said
        else:
            compare(video, by_name[video.name], said)


def compare(video: LabelledVideo, other: LabelledVideo, said: str) -> None:
    """What comes back of a video is what went in, but for what was said."""
    if "several labels at once" in said or "partly unlabelled" in said:
        return
    assert frames_of(other) == frames_of(video)
    if "one label" not in said and "moments" not in said and video.uncovered == "background":
        assert rounded(other) == rounded(without_scores(video) if "scores" in said else video)
    for fact, words in (("group", "groups of"), ("split", "parts of"), ("duration_seconds", "durations of")):
        if words not in said and getattr(video, fact):
            found, expected = getattr(other, fact), getattr(video, fact)
            assert found == expected or str(found).startswith(str(expected)) or found == pytest.approx(expected)


def without_scores(video: LabelledVideo) -> LabelledVideo:
    return replace(video, spans=tuple(replace(span, score=1.0) for span in video.spans))


def test_every_format_is_data_for_a_training() -> None:
    assert {*TIMELINE_FORMATS} <= DATA_FORMATS.keys()


A = LabelledVideo(
    "day1/a.mp4", (LabelledSpan(0.0, 1.0, "run", 0.5), LabelledSpan(0.5, 2.0, "jump"), LabelledSpan(3.0, 3.0, "jump")),
    6.0, split="train", group="g", uncovered="unlabelled",
)  # fmt: skip
B = LabelledVideo(
    "b.mp4", (LabelledSpan(1 / 3, 1.0, "run"), LabelledSpan(1.0, 2.0, "run"), LabelledSpan(1.5, 2.0, "run"))
)
LOSSES = {
    "scores": "scores: 1",
    "overlaps": "several labels at once: 1",
    "repeats": "stretches of one label that overlap, which become one: 1",
    "touching": "borders between stretches of one label, which become one: 1",
    "moments": "moments, stretches without length: 1",
    "empty": "videos without a stretch: 1",
    "groups": "groups of videos: 1",
    "splits": "parts of videos (split): 1",
    "durations": "durations of videos: 1",
    "fine": "times before 0 or finer than a millisecond, which are moved: 1",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_format_cannot_hold_is_named(name: str, tmp_path: Path) -> None:
    found = TIMELINE_FORMATS[name]
    notes = write_labelled([A, B, LabelledVideo("c")], tmp_path / "out", name, clock_of)
    lacking = kinds_lacking(name)
    for kind, words in LOSSES.items():
        assert (f"{name} cannot hold {words}" in notes) == (kind in lacking), (kind, notes)
    assert bool([note for note in notes if "between frames" in note]) == found.in_frames


def kinds_lacking(name: str) -> set[str]:
    """Written down by hand, from each format's documentation."""
    apart = {"overlaps", "repeats", "touching", "moments"}
    table = {
        "activitynet": {"groups", "splits", "durations"},  # as predictions, for there is a score
        "boris": {"scores", "repeats", "groups", "splits"},
        "createml": {"scores", "empty", "groups", "splits", "durations"},
        "cvat": {"scores", "repeats", "touching", "moments", "groups", "splits", "durations", "fine"},
        "deepethogram": {"scores", "repeats", "touching", "moments", "groups", "splits", "fine"},
        "elan": {"scores", "moments", "groups", "splits", "durations", "fine"},
        "epic": {"scores", "empty", "splits", "durations", "fine"},
        "fiftyone": {"groups", "splits", "durations"},
        "label_studio": {"moments", "groups", "splits", "durations", "fine"},
        "manifest": set(),
        "ms_tcn": {"scores", *apart, "groups", "fine"},
        "segments": {"groups", "splits"},
        "srt": {"scores", "groups", "splits", "durations", "fine"},
        "thumos": {"empty", "groups", "durations"},
        "via": {"scores", "groups", "splits", "durations"},
        "vtrace": {"groups", "splits", "durations"},
        "vtt": {"scores", "groups", "splits", "durations", "fine"},
    }
    return table[name]
