"""``FolderLabels``: the labels of a folder of videos in memory, and how changes act on them. Pure: no file is touched.

Changes are done by their content, so a journal can be done again on a manifest that was read anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pipeline.errors import UserError
from pipeline.labelling.stretches import (
    BACKGROUND,
    UNLABELLED,
    ConflictError,
    Edit,
    LabelChange,
    Rest,
    Span,
    Stretch,
    VideoLabels,
)

_SPECIAL = (BACKGROUND, UNLABELLED)


class FolderLabels:
    """The labels of all videos of a folder. Not for several threads at once.

    Attributes:
        videos: by name.
        may_overlap: stretches of different labels may.
    """

    def __init__(self) -> None:
        self.videos: dict[str, VideoLabels] = {}
        self.may_overlap = False
        self._gone: dict[tuple[str, Span], int] = {}
        """Numbers of stretches that are no longer there, which they get again if they come back."""
        self._last_number = 0
        self._labels: dict[str, None] = {}

    def begin_anew(self, names: Iterable[str], rejected: Mapping[str, list[Span]]) -> None:
        """Forget all stretches, but not their numbers; the videos are those named and those known before."""
        before = self.videos
        self.videos = {name: VideoLabels(name, rejected=rejected.get(name, [])) for name in (*names, *before)}
        for name, video in before.items():
            self.videos[name].revision = video.revision + 1
            self._gone |= {(name, stretch.span): stretch.id for stretch in video.stretches.values()}

    def video(self, name: str) -> VideoLabels:
        """Return a video. Raises ``UserError`` if there is none of that name."""
        if name not in self.videos:
            raise UserError(f"no video {name} in this folder")
        return self.videos[name]

    def number(self, name: str, span: Span) -> int:
        """Return the number of a stretch that comes back, or a new one."""
        before = self._gone.pop((name, span), 0)
        if before and before not in self.videos[name].stretches:
            return before
        self._last_number += 1
        return self._last_number

    def has_overlaps(self) -> bool:
        """Return true if stretches of different labels overlap in some video."""
        return any(map(_has_overlaps, self.videos.values()))

    def labels(self) -> list[str]:
        """Return the labels in use, in the order in which they came, without background and unlabelled."""
        used = {s.span.label: None for video in self.videos.values() for s in video.stretches.values()}
        self._labels |= used
        return [label for label in self._labels if label in used and label not in _SPECIAL]

    # Changes

    def plan(
        self, number: int, who: str, name: str, edits: Sequence[Edit], rest: Rest | None, reject: Iterable[Span]
    ) -> LabelChange:
        """Return the change that the edits make; nothing is done yet.

        Raises:
            ConflictError: somebody else has changed what it was to change.
            UserError: there is no such video, or the rest of it cannot be background.
        """
        video = self.video(name)
        removed, added = video.plan(edits, may_overlap=self.may_overlap)
        if rest == BACKGROUND and not video.stretches and not added:
            raise UserError("a video in which nothing happens is labelled background from its start to its end")
        return LabelChange(
            number,
            who,
            name,
            tuple(stretch.span for stretch in removed),
            tuple(added),
            (video.rest, rest) if rest and rest != video.rest else None,
            tuple(span for span in reject if span not in video.rejected),
        )

    def plan_undo(self, number: int, who: str, history: Iterable[LabelChange], *, redo: bool) -> LabelChange | None:
        """Return the change that takes back the last one of this person, or does again the last one taken back; None
        where there is nothing.

        Raises:
            ConflictError: somebody else has changed it since.
        """
        undone, redone = _stacks(history, who)
        last = (redone if redo else undone)[-1:]
        if not last:
            return None
        wanted = last[0] if redo else last[0].inverse()
        video = self.video(wanted.video)
        missing = [span for span in wanted.removed if video.find(span) is None]
        if missing:
            raise ConflictError(f"{missing[0]} has been changed by somebody else since")
        edits = [Edit(stretch.id, stretch.version, None) for stretch in map(video.find, wanted.removed) if stretch]
        video.plan([*edits, *(Edit(None, None, span) for span in wanted.added)], may_overlap=self.may_overlap)
        undoes, redoes = (None, last[0].number) if redo else (last[0].number, None)
        return replace(wanted, number=number, who=who, undoes=undoes, redoes=redoes)

    def carry_out(self, change: LabelChange, edits: Sequence[Edit] = (), *, is_replay: bool = False) -> None:
        """Do a change by its content.

        Args:
            change: to do.
            edits: those that it was planned from, if they are known: what they change keeps its number.
            is_replay: what is there already is not added again.
        """
        video = self.videos.setdefault(change.video, VideoLabels(change.video))
        self._take_out(video, change, edits)
        numbers = [edit.id for edit in edits if edit.to is not None] or [None] * len(change.added)
        for span, known in zip(change.added, numbers, strict=True):
            if not is_replay or video.find(span) is None:
                number = known or self.number(video.name, span)
                video.stretches[number] = Stretch(number, change.number + 1, span)
        if change.rest:
            video.rest = change.rest[1]
        video.rejected = [span for span in video.rejected if span not in change.restored]
        video.rejected += [span for span in change.rejected if span not in video.rejected]
        video.revision += 1

    def _take_out(self, video: VideoLabels, change: LabelChange, edits: Sequence[Edit]) -> None:
        known = [video.stretches[edit.id] for edit in edits if edit.id is not None]
        for place, span in enumerate(change.removed):
            found = known[place] if known else video.find(span)
            if found is not None:
                del video.stretches[found.id]
                self._gone[video.name, span] = found.id


def _has_overlaps(video: VideoLabels) -> bool:
    spans = sorted((stretch.span for stretch in video.stretches.values()), key=lambda span: span.start_seconds)
    end, label = 0.0, ""
    for span in spans:
        if span.start_seconds + 1e-3 < end and span.label != label:
            return True
        if span.end_seconds > end:
            end, label = span.end_seconds, span.label
    return False


def _stacks(changes: Iterable[LabelChange], who: str) -> tuple[list[LabelChange], list[LabelChange]]:
    """Return what this person can take back, and what do again, the next one last."""
    undone: list[LabelChange] = []
    redone: list[LabelChange] = []
    for change in changes:
        if change.who != who:
            continue
        if change.undoes is not None:
            redone += [undone.pop()] if undone else []
        elif change.redoes is not None:
            undone += [redone.pop()] if redone else []
        else:
            undone.append(change)
            redone.clear()
    return undone, redone
