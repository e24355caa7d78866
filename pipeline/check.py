"""``clipgru check``: what is wrong with videos or pictures and with what is written about them, before a training
finds out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from hashlib import sha256
from itertools import chain, combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import Progress
from rich.table import Table

from pipeline.buckets import source_path
from pipeline.config import DataConfig, DecodeConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.formats import format_of
from pipeline.datasets.stretches import find_misfits
from pipeline.datasets.timelines.frames import FEATURE_SUFFIX
from pipeline.decode import VideoOpener
from pipeline.decode.health import DEGRADED, UNUSABLE, USABLE, Examination, FileHealth
from pipeline.duplicates import Groups, same_bytes, same_pictures
from pipeline.embedding.feature_file import check_feature_file
from pipeline.errors import DecodeError, UserError
from pipeline.files.writing import write_atomically
from pipeline.found import Found, Training, find
from pipeline.machine import num_processes
from pipeline.options import CheckOptions
from pipeline.report.tables import csv_text
from pipeline.schema import to_json
from pipeline.sources import shown_path
from pipeline.terminal import PlainConsole, printable

if TYPE_CHECKING:
    from pipeline.datasets.images import PictureFiles

_MAX_LISTED = 20
_STYLES = {USABLE: "", DEGRADED: "yellow", UNUSABLE: "red"}


@dataclass(frozen=True)
class _CheckReport:
    """Everything that was found."""

    files: tuple[FileHealth, ...]
    same_bytes: Groups
    """Groups of files with the same content."""
    same_pictures: Groups
    """Groups of files that show the same in different encodings."""
    labels_without_file: tuple[str, ...]
    files_without_label: tuple[str, ...]
    shared_groups: tuple[str, ...]
    """Sources with videos on two sides of a split."""
    leaks: tuple[tuple[str, str], ...]
    """Two files that are the same and lie on two sides of a split, or have two labels."""
    class_counts: dict[str, dict[str, int]]
    """Split -> label -> number of rows."""
    problems: tuple[str, ...]
    rows_outside: tuple[str, ...] = ()
    """Rows that begin after the end of their file."""
    rows_cut_off: tuple[str, ...] = ()
    """Rows that end well after the end of their file, where a training stops reading."""
    likely_cause: str = ""
    """Of rows that do not fit."""
    trainings: tuple[Training, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Files by verdict."""
        counted = Counter(health.verdict for health in self.files)
        return {verdict: counted[verdict] for verdict in (USABLE, DEGRADED, UNUSABLE)}

    @property
    def is_bad(self) -> bool:
        """True if anything cannot be used: a file, a row, a label without its file, or annotations."""
        return bool(self.counts[UNUSABLE] or self.labels_without_file or self.rows_outside or self.problems)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, the counts first."""
        return {"counts": self.counts} | asdict(self)

    def to_csv(self) -> str:
        """One line a file."""
        rows = [
            asdict(health)
            | {
                "reasons": " | ".join(health.reasons),
                "notes": " | ".join(health.notes),
                "sizes": " ".join(health.sizes),
            }
            for health in self.files
        ]
        return csv_text(rows, [item.name for item in fields(FileHealth)])


def _examine_all(files: Sequence[Path], config: DecodeConfig, workers: int) -> Iterator[Examination]:
    """The health of each file, in order, each in one of some processes that are killed when they hang."""
    with VideoOpener(replace(config, isolate=True)) as opener, ThreadPoolExecutor(workers) as threads:
        yield from threads.map(partial(_examine_file, opener), files)


def _examine_file(opener: VideoOpener, path: Path) -> Examination:
    """The health of a video, or of a file of features in its place."""
    if path.suffix.lower() != FEATURE_SUFFIX:
        return opener.examine(path)
    try:
        check_feature_file(path)
    except DecodeError as error:
        return Examination.of_unreadable(path, f"{error.stage}: {error.cause}")
    health = FileHealth(str(path), USABLE, (), path.stat().st_size, "features", FEATURE_SUFFIX[1:])
    return Examination(health, np.empty((0, 16, 16), np.uint8))


@dataclass(frozen=True)
class _PictureSet:
    """Pictures of one folder or archive."""

    root: Path
    files: PictureFiles
    names: tuple[str, ...]

    @classmethod
    def of(cls, data: DataConfig, config: DecodeConfig) -> _PictureSet:
        """Return the pictures that the settings name."""
        open_pictures = format_of(data).open_pictures
        assert open_pictures is not None
        files = open_pictures(data, config)
        return cls(Path(data.root), files, tuple(files.names()))

    def examine(self, name: str) -> tuple[Examination, str]:
        """Return the health of a picture, and a digest of its content; empty if it cannot be read."""
        path = self.root / name
        try:
            content = self.files.content(name)
            height, width, _ = self.files.read(name).shape
        except DecodeError as error:
            return Examination.of_unreadable(path, f"{error.stage}: {error.cause}"), ""
        kind = path.suffix.lower().removeprefix(".")
        health = FileHealth(str(path), USABLE, (), len(content), "picture", kind, width, height)
        one = replace(health, num_frames_claimed=1, num_packets=1, num_frames=1, num_frames_exact=1)
        return Examination(one, np.empty((0, 16, 16), np.uint8)), sha256(content).hexdigest()


def _examine_pictures(pictures: _PictureSet, workers: int) -> Iterator[tuple[Examination, str]]:
    with ThreadPoolExecutor(workers) as threads:
        yield from threads.map(pictures.examine, pictures.names)


def _make_report(found: Found, examinations: Sequence[Examination], same_content: Groups = ()) -> _CheckReport:
    """Joins what is known of the files with what is written about them."""
    rows = [(split, row) for split, row in found.rows if split]
    bytes_groups = same_bytes(found.files) + same_content
    alike = same_pictures(examinations)
    equal_bytes = {frozenset(pair) for group in bytes_groups for pair in combinations(group, 2)}
    pictures = tuple(
        group for group in alike if any(frozenset(pair) not in equal_bytes for pair in combinations(group, 2))
    )
    splits = dict.fromkeys(split for split, _ in rows)
    counts = {split: Counter(row.label for other, row in rows if other == split and row.label) for split in splits}
    files = tuple(examination.health for examination in examinations)
    examined = {health.path for health in files}  # a picture in an archive has no file of its own
    absent = [path for _, row in found.rows if (path := str(row.path)) not in examined and not row.path.exists()]
    known = {source_path(health.path): health for health in files if health.duration_seconds}
    labelled = [row for _, row in rows]
    misfits = find_misfits(labelled, known)
    too_many = _too_many_bad(labelled, files, len(misfits.outside), found.max_bad_fraction)
    return _CheckReport(
        files=tuple(replace(health, path=shown_path(health.path)) for health in files),
        same_bytes=bytes_groups,
        same_pictures=pictures,
        labels_without_file=tuple(map(shown_path, dict.fromkeys(absent))),
        files_without_label=tuple(dict.fromkeys(found.without_label)),
        shared_groups=_shared_groups(rows),
        leaks=_leaks(rows, (*bytes_groups, *pictures)),
        class_counts={split: dict(sorted(counted.items())) for split, counted in counts.items()},
        problems=(*found.problems, *too_many),
        rows_outside=misfits.outside,
        rows_cut_off=misfits.cut_off,
        likely_cause=misfits.likely_cause,
        trainings=tuple(found.trainings),
        notes=tuple(found.notes),
    )


def _too_many_bad(rows: Sequence[VideoRow], files: Sequence[FileHealth], num_outside: int, limit: float) -> list[str]:
    """A training counts rows, not files."""
    unusable = {health.path for health in files if health.verdict == UNUSABLE}
    num_bad = num_outside + sum(str(row.path) in unusable for row in rows)
    if num_bad <= limit * len(rows):
        return []
    return [
        f"{num_bad} of {len(rows)} rows cannot be read, more than data.max_bad_fraction {limit:g}: a training would end"
    ]


def _shared_groups(rows: Sequence[tuple[str, VideoRow]]) -> tuple[str, ...]:
    splits: dict[str, set[str]] = {}
    for split, row in rows:
        splits.setdefault(row.group, set()).add(split)
    return tuple(sorted(group for group, sides in splits.items() if len(sides) > 1))


def _leaks(rows: Sequence[tuple[str, VideoRow]], groups: Groups) -> tuple[tuple[str, str], ...]:
    about: dict[str, set[tuple[str, str]]] = {}
    for split, row in rows:
        about.setdefault(str(row.path), set()).add((split, row.label))
    pairs = [pair for group in groups for pair in combinations(group, 2)]
    return tuple((a, b) for a, b in pairs if a in about and b in about and about[a] != about[b])


def run_check(paths: Sequence[str], options: CheckOptions, config: DecodeConfig, console: PlainConsole) -> int:
    """Checks everything and writes what ``options`` asks for. Returns 0, or 1 if anything cannot be used."""
    found = find(paths, config.allow_url)
    if not (found.files or found.rows or found.problems or found.trainings):
        raise UserError(f"no video or picture found in {', '.join(paths)}")
    report = _make_report(found, *_examine_found(found, options, config, console))
    if options.json:
        text = to_json(report.to_json(), indent=1, ensure_ascii=False) + "\n"
        write_atomically(Path(options.json), text)
    if options.csv:
        write_atomically(Path(options.csv), report.to_csv())
    if not options.quiet:
        _print_report(report, console, options.all)
    return 1 if report.is_bad else 0


def _examine_found(
    found: Found, options: CheckOptions, config: DecodeConfig, console: PlainConsole
) -> tuple[list[Examination], Groups]:
    """Examine every video and picture; and tell which pictures have the same content."""
    files, workers = list(found.files), num_processes(options.workers)
    sets = [_PictureSet.of(data, config) for data in found.pictures]
    examinations, by_digest = [], defaultdict[str, list[str]](list)
    with Progress(console=console, transient=True, disable=options.quiet or not console.is_terminal) as progress:
        task = progress.add_task("checking", total=len(files) + sum(len(pictures.names) for pictures in sets))
        for examination in _examine_all(files, config, workers):
            examinations.append(examination)
            progress.advance(task)
        for examination, digest in chain.from_iterable(_examine_pictures(pictures, workers) for pictures in sets):
            examinations.append(examination)
            by_digest[digest].append(examination.health.path)
            progress.advance(task)
    return examinations, tuple(tuple(group) for digest, group in by_digest.items() if digest and len(group) > 1)


def _print_report(report: _CheckReport, console: PlainConsole, with_usable: bool) -> None:
    """A table of the files and lists of the rest."""
    listed = [health for health in report.files if with_usable or health.verdict != USABLE]
    if listed:
        table = Table("verdict", "frames", "size", "file, and why", show_lines=True)
        for health in listed:
            frames = f"{health.num_frames_exact} of {max(health.num_frames_claimed, health.num_packets)}"
            size = f"{health.width}x{health.height}" if health.width else ""
            why = "\n".join(map(printable, [health.path, *health.reasons]))
            table.add_row(health.verdict, frames, size, why, style=_STYLES[health.verdict])
        console.print(table, soft_wrap=False)
    for training in report.trainings:
        if training.refused not in report.problems:
            _print_training(training, report.counts[UNUSABLE], console)
    for title, items in _lists(report):
        if items:
            console.print(f"{title} ({len(items)}):", style="yellow")
            shown = items[:_MAX_LISTED] + (["..."] if len(items) > _MAX_LISTED else [])
            console.print("\n".join(f"  {printable(item)}" for item in shown))
    counts_text = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.items())
    console.print(f"{len(report.files)} files: {counts_text}")


def _print_training(training: Training, num_unusable: int, console: PlainConsole) -> None:
    """Print the classes and videos that a training would see, or the reason why it would end."""
    said = f"would see {len(training.labels)} classes" if not training.refused else f"would end: {training.refused}"
    console.print(f"{training.source}: a training {said}")
    if training.class_counts:
        table = Table("class", *training.class_counts)
        for label in training.labels[:_MAX_LISTED]:
            table.add_row(label, *(str(counts.get(label, 0)) for counts in training.class_counts.values()))
        if len(training.labels) > _MAX_LISTED:
            table.add_row("...")
        table.add_row("all", *(str(sum(counts.values())) for counts in training.class_counts.values()))
        console.print(table, soft_wrap=False)
        if num_unusable:
            console.print("unusable files are in these counts, and left out when a training comes to them")
    for note in training.notes:
        console.print(f"note: {note}")


def _lists(report: _CheckReport) -> list[tuple[str, list[str]]]:
    return [
        ("problems", list(report.problems)),
        (f"rows outside their file; {report.likely_cause}", list(report.rows_outside)),
        (f"rows that end after their file; {report.likely_cause}", list(report.rows_cut_off)),
        ("passed over", list(report.notes)),
        ("labels without a file", list(report.labels_without_file)),
        ("files without a label", list(report.files_without_label)),
        ("good to know", [f"{health.path}: {note}" for health in report.files for note in health.notes]),
        ("the same bytes", [" = ".join(group) for group in report.same_bytes]),
        ("the same pictures", [" = ".join(group) for group in report.same_pictures]),
        ("the same on two sides of a split or under two labels", [" = ".join(pair) for pair in report.leaks]),
        ("sources on two sides of a split", list(report.shared_groups)),
    ]
