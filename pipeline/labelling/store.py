"""``LabelStore``: the labels of a folder of videos, changed by several people at once and saved after every change.

Each change goes into the journal, then into memory, then into the manifest. Where a file cannot be written, the work
stays in memory and in the journal, ``problem`` says why, and ``save`` is tried again until it succeeds.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from pipeline.datasets.annotations import VideoRow, list_videos, read_text
from pipeline.datasets.delimited import UNKNOWN_GROUPS, composed, name_below
from pipeline.errors import UserError
from pipeline.files.lock import locked_file
from pipeline.files.writing import write_atomically
from pipeline.labelling.journal import LabelJournal
from pipeline.labelling.labels import FolderLabels
from pipeline.labelling.manifest import ManifestTable
from pipeline.labelling.rejected import read_rejected, write_rejected
from pipeline.labelling.stretches import (
    UNLABELLED,
    Edit,
    LabelChange,
    Rest,
    Span,
    VideoLabels,
    uncovered_parts,
)

_MANIFEST, _REJECTED = "manifest.csv", "rejected_drafts.csv"
_RETRY_SECONDS = 1.0
"""After which what could not be saved is tried again."""


class LabelStore:
    """The labels of the videos in a folder. Any thread may call it.

    Args:
        folder: the videos, and ``manifest.csv``, which need not be there.
        may_overlap: stretches of different labels may; None: if some in the manifest do.

    Attributes:
        revision: grows with every change of anything.
        problem: why the last change is not in the manifest yet; empty if it is.

    Raises:
        UserError: no folder, another program labels there, or the manifest cannot be read.
    """

    def __init__(self, folder: Path, *, may_overlap: bool | None = None) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name the folder that holds the videos")
        if (folder / "manifest.jsonl").exists() and not (folder / _MANIFEST).exists():
            raise UserError(
                f"{folder} has its labels in manifest.jsonl, and label keeps them in {_MANIFEST}: write them there, "
                "with the columns path,label,start_seconds,end_seconds, and move manifest.jsonl away"
            )
        self.folder, self.manifest, self._rejected = folder, folder / _MANIFEST, folder / _REJECTED
        self._mutex, self._held = threading.RLock(), ExitStack()
        self.revision, self.problem = 0, ""
        self._retry: threading.Timer | None = None
        self._lock()
        self._labels = FolderLabels()
        self._table_digest = ""
        self._load()
        self._journal = LabelJournal(self.manifest)
        self._replay()
        self._labels.may_overlap = self._labels.has_overlaps() if may_overlap is None else may_overlap

    @property
    def videos(self) -> dict[str, VideoLabels]:
        """The videos by name, as they stand in the manifest."""
        return self._labels.videos

    @property
    def may_overlap(self) -> bool:
        """True if stretches of different labels may overlap, as given or as found in the manifest."""
        return self._labels.may_overlap

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
        rejected = {name: video.rejected for name, video in self.videos.items()} or read_rejected(self._rejected)
        self._labels.begin_anew([*self._found(), *self._table.names], rejected)
        self._table.take_stretches(self.videos, self._labels.number)

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

    def _replay(self) -> None:
        """Do again what the manifest lacks, because the program was killed or the disk was full."""
        for change in self._journal.unsaved:
            self._labels.carry_out(change, is_replay=True)
        if self._journal.unsaved:
            self.save()

    def save(self) -> bool:
        """Write the manifest as things stand. Returns false, and says why in ``problem``, if it cannot be."""
        with self._mutex:
            try:
                self._refuse_foreign_change()
                write_rejected(self._rejected, self.videos.values())
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
            self._labels.carry_out(change, is_replay=True)
        self.revision += 1

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
    ) -> LabelChange:
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
        with self._mutex:
            change = self._labels.plan(self._next_number, who, name, edits, rest, reject)
            self._do(change, edits)
            return change

    def undo(self, who: str, *, redo: bool = False) -> LabelChange | None:
        """Take back the last change that this person made, or do again what was taken back last. Returns None where
        there is nothing.

        Raises:
            ConflictError: somebody else has changed it since.
        """
        with self._mutex:
            change = self._labels.plan_undo(self._next_number, who, self._journal.changes, redo=redo)
            if change is not None:
                self._do(change)
            return change

    @property
    def _next_number(self) -> int:
        return self._journal.changes[-1].number + 1 if self._journal.changes else 1

    def _do(self, change: LabelChange, edits: Sequence[Edit] = ()) -> None:
        """Journal, memory, manifest; what cannot be written is told by ``problem``."""
        try:
            self._journal.add(change)
        except UserError as error:
            self.problem = str(error)
        self._labels.carry_out(change, edits)
        self.revision += 1
        self.save()

    # What is known

    @property
    def labels(self) -> list[str]:
        """The labels in use, in the order in which they came, without background and unlabelled."""
        with self._mutex:
            return self._labels.labels()

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
