"""``LabelStore``: the labels of a folder of videos, changed by several people at once and saved after every change.

Each change goes into the journal, then into memory, then into the manifest. Where a file cannot be written, the work
stays in memory and in the journal, ``problem`` says why, and ``save`` is tried again until it succeeds.
"""

from __future__ import annotations

import csv
import hashlib
import io
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.datasets.annotations import VideoRow, list_videos, read_text
from pipeline.datasets.delimited import UNKNOWN_GROUPS, composed, name_below, read_table
from pipeline.errors import UserError
from pipeline.files.lock import locked_file
from pipeline.files.writing import write_atomically
from pipeline.labelling.journal import Journal
from pipeline.labelling.manifest import ManifestTable, as_text
from pipeline.labelling.stretches import (
    BACKGROUND,
    UNLABELLED,
    Change,
    ConflictError,
    Edit,
    Rest,
    Span,
    Stretch,
    VideoLabels,
    uncovered_parts,
)

MANIFEST, REJECTED = "manifest.csv", "rejected_drafts.csv"
_SPECIAL = (BACKGROUND, UNLABELLED)
_RETRY_SECONDS = 1.0
"""After which what could not be saved is tried again."""


class LabelStore:
    """The labels of the videos in a folder. Any thread may call it.

    Args:
        folder: the videos, and ``manifest.csv``, which need not be there.
        may_overlap: stretches of different labels may; None: if some in the manifest do.

    Attributes:
        videos: by name, as they stand in the manifest.
        revision: grows with every change of anything.
        problem: why the last change is not in the manifest yet; empty if it is.
        may_overlap: as given, or found.

    Raises:
        UserError: no folder, another program labels there, or the manifest cannot be read.
    """

    def __init__(self, folder: Path, *, may_overlap: bool | None = None) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name the folder that holds the videos")
        if (folder / "manifest.jsonl").exists() and not (folder / MANIFEST).exists():
            raise UserError(
                f"{folder} has its labels in manifest.jsonl, and label keeps them in {MANIFEST}: write them there, "
                "with the columns path,label,start_seconds,end_seconds, and move manifest.jsonl away"
            )
        self.folder, self.manifest = folder, folder / MANIFEST
        self._mutex, self._held = threading.RLock(), ExitStack()
        self.revision, self.problem = 0, ""
        self._retry: threading.Timer | None = None
        self._lock()
        self.videos: dict[str, VideoLabels] = {}
        self._next_id, self._table_digest = 0, ""
        self._gone: dict[tuple[str, Span], int] = {}
        self._labels: dict[str, None] = {}
        self._load()
        self._journal = Journal(self.manifest)
        self._replay()
        self.may_overlap = any(map(_has_overlaps, self.videos.values())) if may_overlap is None else may_overlap

    # Files

    def _lock(self) -> None:
        """Keep other programs from labelling here; where nothing can be written there is nothing to lock either."""
        try:
            self._held.enter_context(locked_file(self.manifest))
        except UserError as error:
            if error.__cause__ is None:  # not the disk, but another process
                raise
            self.problem = str(error)

    def _load(self) -> None:
        text = read_text(self.manifest) if self.manifest.exists() else ""
        raw = self.manifest.read_bytes() if self.manifest.exists() else b""
        self._table_digest = hashlib.sha256(raw).hexdigest()
        mark = "\ufeff" if raw.startswith(b"\xef\xbb\xbf") else ""
        self._table = ManifestTable(mark + _with_line_ends(text, raw), self.folder, self.manifest)
        rejected = {name: video.rejected for name, video in self.videos.items()} or self._read_rejected()
        before = self.videos
        names = dict.fromkeys([*self._found(), *self._table.names, *before])
        self.videos = {name: VideoLabels(name, rejected=rejected.get(name, [])) for name in names}
        for name, video in before.items():
            self.videos[name].revision = video.revision + 1
            self._gone |= {(name, stretch.span): stretch.id for stretch in video.stretches.values()}
        self._table.take_stretches(self.videos, self._number)

    def _found(self) -> Iterator[str]:
        for path in list_videos(self.folder).videos:
            yield composed(path.relative_to(self.folder).as_posix())

    def look_for_videos(self) -> bool:
        """Add the videos that have come into the folder. Returns true if there are some."""
        with self._mutex:
            new = [name for name in self._found() if name not in self.videos]
            for name in new:
                self.videos[name] = VideoLabels(name)
            self.revision += bool(new)
            return bool(new)

    def path_of(self, name: str) -> Path:
        """Return the file of a video, which may have gone."""
        return name_below("", name, self.folder)[1]

    def _read_rejected(self) -> dict[str, list[Span]]:
        found: dict[str, list[Span]] = {}
        path = self.folder / REJECTED
        for _, values in read_table(path, ("path", "label", "start_seconds", "end_seconds")) if path.exists() else ():
            span = Span(values["label"], float(values["start_seconds"]), float(values["end_seconds"]))
            found.setdefault(values["path"], []).append(span)
        return found

    def _replay(self) -> None:
        """Do again what the manifest lacks, because the program was killed or the disk was full."""
        for change in self._journal.unsaved:
            self._carry_out(change)
        if self._journal.unsaved:
            self.save()

    def save(self) -> bool:
        """Write the manifest as things stand. Returns false, and says why in ``problem``, if it cannot be."""
        with self._mutex:
            try:
                self._refuse_foreign_change()
                self._write_rejected()
                text = self._table.text(self.videos.values())
                content = text.encode("utf-8")
                if hashlib.sha256(content).hexdigest() != self._table_digest:
                    write_atomically(self.manifest, content)
                    self._table_digest = hashlib.sha256(content).hexdigest()
                self._journal.note_saved()
                problem = ""
            except UserError as error:
                problem = str(error)
            if problem != self.problem:
                self.problem = problem
                self.revision += 1
            if problem:
                self._try_again_later()
            return not problem

    def _try_again_later(self) -> None:
        if self._retry is None or not self._retry.is_alive():
            self._retry = threading.Timer(_RETRY_SECONDS, self.save)
            self._retry.daemon = True
            self._retry.start()

    def _refuse_foreign_change(self) -> None:
        """Another program may have written the manifest meanwhile: its lines are taken over, and ours done again."""
        try:
            digest = hashlib.sha256(self.manifest.read_bytes()).hexdigest()
        except FileNotFoundError:
            digest = hashlib.sha256(b"").hexdigest()
            if self._table_digest != digest and self.folder.is_dir():
                self._table_digest = digest  # somebody removed it: it is written anew, whole
            return
        except OSError as error:
            raise UserError(f"{self.manifest}: cannot be read: {error.strerror}") from error
        if digest == self._table_digest:
            return
        unsaved = self._journal.unsaved
        self._load()
        for change in unsaved:
            self._carry_out(change)
        self.revision += 1

    def _write_rejected(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "label", "start_seconds", "end_seconds"])
        for video in self.videos.values():
            for span in video.rejected:
                writer.writerow([video.name, span.label, as_text(span.start_seconds), as_text(span.end_seconds)])
        path = self.folder / REJECTED
        before = path.read_text(encoding="utf-8") if path.exists() else None
        if text.getvalue() != before and (before is not None or any(v.rejected for v in self.videos.values())):
            write_atomically(path, text.getvalue())

    def close(self) -> None:
        """Save what is not saved, and let other programs label here."""
        with self._mutex:
            if self.problem or self._journal.unsaved:
                self.save()
            if self._retry is not None:
                self._retry.cancel()
            self._journal.close()
            self._held.close()

    # Changes

    def change(
        self,
        name: str,
        who: str,
        edits: Sequence[Edit] = (),
        *,
        rest: Rest | None = None,
        reject: Iterable[Span] = (),
    ) -> Change:
        """Make a change and save it.

        Args:
            name: the video.
            who: the person, or the browser, for undo.
            edits: of its stretches.
            rest: meaning of what no stretch covers, from now on.
            reject: drafts that are wrong.

        Raises:
            ConflictError: somebody else has changed what it was to change; nothing is done.
            UserError: there is no such video.
        """
        with self._changing(name) as video:
            removed, added = video.plan(edits, may_overlap=self.may_overlap)
            turned = (video.rest, rest) if rest and rest != video.rest else None
            if rest == BACKGROUND and not video.stretches and not added:
                raise UserError("a video in which nothing happens is labelled background from its start to its end")
            change = Change(
                self._next_number,
                who,
                name,
                tuple(stretch.span for stretch in removed),
                tuple(added),
                turned,
                tuple(span for span in reject if span not in video.rejected),
            )
            kept = [edit.id if edit.id in video.stretches else None for edit in edits if edit.to is not None]
            self._do(change, {stretch.id: stretch for stretch in removed}, kept)
            return change

    def undo(self, who: str, *, redo: bool = False) -> Change | None:
        """Take back the last change that this person made, or do again what was taken back last. Returns None where
        there is nothing.

        Raises:
            ConflictError: somebody else has changed it since.
        """
        with self._mutex:
            undone, redone = _stacks(self._journal.changes, who)
            last = (redone if redo else undone)[-1:]
            if not last:
                return None
            wanted = last[0] if redo else last[0].inverse()
            video = self._video(wanted.video)
            missing = [span for span in wanted.removed if video.find(span) is None]
            if missing:
                raise ConflictError(f"{missing[0]} has been changed by somebody else since")
            edits = [Edit(stretch.id, stretch.version, None) for stretch in map(video.find, wanted.removed) if stretch]
            video.plan([*edits, *(Edit(None, None, span) for span in wanted.added)], may_overlap=self.may_overlap)
            undoes, redoes = (None, last[0].number) if redo else (last[0].number, None)
            change = replace(wanted, number=self._next_number, who=who, undoes=undoes, redoes=redoes)
            self._do(change)
            return change

    @property
    def _next_number(self) -> int:
        return self._journal.changes[-1].number + 1 if self._journal.changes else 1

    @contextmanager
    def _changing(self, name: str) -> Iterator[VideoLabels]:
        with self._mutex:
            yield self._video(name)

    def _video(self, name: str) -> VideoLabels:
        if name not in self.videos:
            raise UserError(f"no video {name} in {self.folder}")
        return self.videos[name]

    def _do(self, change: Change, removed: dict[int, Stretch] | None = None, kept: Sequence[int | None] = ()) -> None:
        """Journal, memory, manifest; what cannot be written is told by ``problem``."""
        try:
            self._journal.add(change)
        except UserError as error:
            self.problem = str(error)
        self._carry_out(change, removed or {}, kept)
        self.save()

    def _carry_out(
        self, change: Change, removed: dict[int, Stretch] | None = None, kept: Sequence[int | None] = ()
    ) -> None:
        """Do a change by its content. What is done already is left alone: a replay may come to that."""
        video = self.videos.setdefault(change.video, VideoLabels(change.video))
        taken = removed if removed else self._take_out(video, change.removed)
        for stretch in taken.values():
            video.stretches.pop(stretch.id, None)
            self._gone[video.name, stretch.span] = stretch.id
        ids = list(kept) or [None] * len(change.added)
        for span, id in zip(change.added, ids, strict=True):
            if video.find(span) is None or id is not None or removed is not None:
                self._put(video, span, id, taken)
        if change.rest:
            video.rest = change.rest[1]
        video.rejected = [span for span in video.rejected if span not in change.restored]
        video.rejected += [span for span in change.rejected if span not in video.rejected]
        video.revision += 1
        self.revision += 1

    def _take_out(self, video: VideoLabels, spans: Iterable[Span]) -> dict[int, Stretch]:
        return {stretch.id: stretch for stretch in map(video.find, spans) if stretch is not None}

    def _put(self, video: VideoLabels, span: Span, id: int | None, taken: dict[int, Stretch]) -> None:
        """A stretch that comes back has the number that it had, and so its line's other columns."""
        number = id or self._number(video.name, span)
        video.stretches[number] = Stretch(number, self._next_number + 1, span)
        taken.pop(number, None)

    def _number(self, name: str, span: Span) -> int:
        """The number of a stretch that comes back, or a new one."""
        before = self._gone.pop((name, span), 0)
        if before and before not in self.videos[name].stretches:
            return before
        self._next_id += 1
        return self._next_id

    # What is known

    @property
    def labels(self) -> list[str]:
        """The labels in use, in the order in which they came, without background and unlabelled."""
        with self._mutex:
            used = {s.span.label: None for video in self.videos.values() for s in video.stretches.values()}
            self._labels |= used
        return [label for label in self._labels if label in used and label not in _SPECIAL]

    def rows(self) -> list[VideoRow]:
        """The labelled stretches as rows of a data set; what nobody has looked at is labelled unlabelled."""
        with self._mutex:
            return [row for video in self.videos.values() if video.stretches for row in self._rows_of(video)]

    def _rows_of(self, video: VideoLabels) -> Iterator[VideoRow]:
        path = self.path_of(video.name)
        group = self._table.of_video(video.name, "group")
        group = video.name if group in UNKNOWN_GROUPS else group
        spans = [stretch.span for stretch in video.stretches.values()]
        for span in spans:
            end = None if span.end_seconds == float("inf") else span.end_seconds
            yield VideoRow(path, span.label, group, span.start_seconds, end, video.name)
        if video.rest == UNLABELLED:
            for start, end_seconds in uncovered_parts(spans, float("inf")):
                end = None if end_seconds == float("inf") else end_seconds
                yield VideoRow(path, UNLABELLED, group, start, end, video.name)


def _with_line_ends(text: str, raw: bytes) -> str:
    """The text as it is on disk: reading it in text mode made all line ends one."""
    return text if b"\r\n" not in raw else raw.decode("utf-8-sig")


def _has_overlaps(video: VideoLabels) -> bool:
    spans = sorted((stretch.span for stretch in video.stretches.values()), key=lambda span: span.start_seconds)
    end, label = 0.0, ""
    for span in spans:
        if span.start_seconds + 1e-3 < end and span.label != label:
            return True
        if span.end_seconds > end:
            end, label = span.end_seconds, span.label
    return False


def _stacks(changes: Iterable[Change], who: str) -> tuple[list[Change], list[Change]]:
    """What this person can take back, and what again do, the next one last."""
    undone: list[Change] = []
    redone: list[Change] = []
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
