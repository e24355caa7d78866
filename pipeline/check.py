"""``clipgru check``: what is wrong with videos and with what is written about them, before a training finds out."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from pipeline.config import DataConfig, DecodeConfig, Experiment, read_settings
from pipeline.datasets.annotations import Annotations, VideoRow, videos_below
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.tables import MANIFEST_SUFFIXES, read_manifest_rows
from pipeline.decode import VideoOpener
from pipeline.decode.health import DEGRADED, UNUSABLE, USABLE, Examination, FileHealth
from pipeline.duplicates import Groups, same_bytes, same_pictures
from pipeline.errors import UserError
from pipeline.files import write_atomically
from pipeline.machine import num_processes
from pipeline.options import CheckOptions
from pipeline.schema import read_checked, to_json

CONFIG_SUFFIXES = (".yaml", ".yml")
_MAX_LISTED = 20
_STYLES = {USABLE: "", DEGRADED: "yellow", UNUSABLE: "red"}


@dataclass
class Found:
    """What the paths on the command line name."""

    files: dict[Path, None] = field(default_factory=dict)
    """In order, each once."""
    rows: list[tuple[str, VideoRow]] = field(default_factory=list)
    """Split and row of every labelled video."""
    without_label: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What is wrong with annotations."""


@dataclass(frozen=True)
class CheckReport:
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

    @property
    def counts(self) -> dict[str, int]:
        """Files by verdict."""
        counted = Counter(health.verdict for health in self.files)
        return {verdict: counted[verdict] for verdict in (USABLE, DEGRADED, UNUSABLE)}

    @property
    def is_bad(self) -> bool:
        """Whether anything cannot be used: a file, a label without its file, or annotations."""
        return bool(self.counts[UNUSABLE] or self.labels_without_file or self.problems)

    def to_json(self) -> dict[str, Any]:
        """As plain values, the counts first."""
        return {"counts": self.counts} | asdict(self) | {"files": [health.to_json() for health in self.files]}

    def to_csv(self) -> str:
        """One line a file."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [item.name for item in fields(FileHealth)])
        writer.writeheader()
        for health in self.files:
            lists = {"reasons": " | ".join(health.reasons), "sizes": " ".join(health.sizes)}
            writer.writerow(asdict(health) | lists)
        return text.getvalue()


def find(paths: Iterable[str]) -> Found:
    """The videos and annotations that the paths name: video files, folders, manifests and experiment configs.

    Raises:
        UserError: a path does not exist, or a config is none.
    """
    found = Found()
    for name in paths:
        path = Path(name)
        if not path.exists():
            raise UserError(f"{name} does not exist; name video files, folders, manifests or experiment configs")
        if path.is_dir():
            found.files |= dict.fromkeys(videos_below(path))
        elif path.suffix.lower() in MANIFEST_SUFFIXES:
            _add_annotations(found, path.parent, lambda path=path: read_manifest_rows(path.parent, path))  # type: ignore[misc]
        elif path.suffix.lower() in CONFIG_SUFFIXES:
            data = _data_of(path)
            _add_annotations(found, Path(data.root), lambda data=data: _annotations_of(data))  # type: ignore[misc]
        else:
            found.files[path] = None
    return found


def _data_of(path: Path) -> DataConfig:
    settings = read_settings(Experiment, path)
    if "data" not in settings:
        raise UserError(f"{path}: no data section; name an experiment's config, such as configs/folder.yaml")
    return read_checked(DataConfig, settings["data"], str(path))


def _annotations_of(data: DataConfig) -> Annotations:
    root, annotations = Path(data.root), Path(data.annotations) if data.annotations else None
    if data.format == "shards":
        raise UserError(
            f"{root} holds shards: each video's checksum is verified whenever it is read; check the videos they were "
            "packed from"
        )
    if data.format == "manifest":
        return read_manifest_rows(root, annotations)
    return read_annotations("folder" if data.format == "motion" else data.format, root, annotations, data.split)


def _add_annotations(found: Found, root: Path, read: Callable[[], Annotations]) -> None:
    try:
        annotations = read()
    except UserError as error:
        found.problems.append(str(error))
        annotations = Annotations((), {})
    found.rows += [(split, row) for split, rows in annotations.splits.items() for row in rows]
    found.rows += [("", VideoRow(path, "", str(path))) for path in annotations.absent]
    labelled = {row.path for _, row in found.rows}
    below = videos_below(root) if root.is_dir() else []
    found.files |= dict.fromkeys([path for path in labelled if path.exists()] + below)
    found.without_label += [str(path) for path in below if path not in labelled]


def examine_all(files: Sequence[Path], config: DecodeConfig, workers: int) -> Iterator[Examination]:
    """The health of each file, in order, each in one of some processes that are killed when they hang."""
    with VideoOpener(replace(config, isolate=True)) as opener, ThreadPoolExecutor(workers) as threads:
        yield from threads.map(opener.examine, files)


def make_report(found: Found, examinations: Sequence[Examination]) -> CheckReport:
    """Joins what is known of the files with what is written about them."""
    rows = [(split, row) for split, row in found.rows if split]
    bytes_groups = same_bytes(found.files)
    alike = same_pictures(examinations)
    equal_bytes = {frozenset(pair) for group in bytes_groups for pair in combinations(group, 2)}
    pictures = tuple(
        group for group in alike if any(frozenset(pair) not in equal_bytes for pair in combinations(group, 2))
    )
    counts: dict[str, Counter[str]] = {}
    for split, row in rows:
        counts.setdefault(split, Counter())[row.label] += 1
    return CheckReport(
        files=tuple(examination.health for examination in examinations),
        same_bytes=bytes_groups,
        same_pictures=pictures,
        labels_without_file=tuple(dict.fromkeys(str(row.path) for _, row in found.rows if not row.path.exists())),
        files_without_label=tuple(dict.fromkeys(found.without_label)),
        shared_groups=_shared_groups(rows),
        leaks=_leaks(rows, (*bytes_groups, *pictures)),
        class_counts={split: dict(sorted(counted.items())) for split, counted in counts.items()},
        problems=tuple(found.problems),
    )


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


def run_check(paths: Sequence[str], options: CheckOptions, config: DecodeConfig, console: Console) -> int:
    """Checks everything and writes what ``options`` asks for. Returns 0, or 1 if anything cannot be used."""
    found = find(paths)
    if not found.files and not found.rows and not found.problems:
        raise UserError(f"no video found in {', '.join(paths)}")
    files = list(found.files)
    examinations = []
    with Progress(console=console, transient=True, disable=options.quiet or not console.is_terminal) as progress:
        task = progress.add_task("checking", total=len(files))
        for examination in examine_all(files, config, num_processes(options.workers)):
            examinations.append(examination)
            progress.advance(task)
    report = make_report(found, examinations)
    text = to_json(report.to_json(), indent=1, ensure_ascii=False) + "\n"
    if options.json and options.json != "-":
        write_atomically(Path(options.json), text.encode())
    if options.csv:
        write_atomically(Path(options.csv), report.to_csv().encode())
    if options.json == "-":
        print(text, end="")
    elif not options.quiet:
        print_report(report, console, options.all)
    return 1 if report.is_bad else 0


def print_report(report: CheckReport, console: Console, with_usable: bool) -> None:
    """A table of the files and lists of the rest."""
    listed = [health for health in report.files if with_usable or health.verdict != USABLE]
    if listed:
        table = Table("verdict", "frames", "size", "file, and why", show_lines=True)
        for health in listed:
            frames = f"{health.num_frames_exact} of {max(health.num_frames_claimed, health.num_packets)}"
            size = f"{health.width}x{health.height}" if health.width else ""
            why = "\n".join([health.path, *health.reasons])
            table.add_row(*map(escape, [health.verdict, frames, size, why]), style=_STYLES[health.verdict])
        console.print(table)
    for split, counts in report.class_counts.items():
        few, many = min(counts.values()), max(counts.values())
        summary = f"{sum(counts.values())} rows in {len(counts)} classes, {few} to {many} a class"
        console.print(f"{split}: {summary}", markup=False)
    for title, items in _lists(report):
        if items:
            console.print(f"{title} ({len(items)}):", style="yellow", markup=False)
            shown = items[:_MAX_LISTED] + (["..."] if len(items) > _MAX_LISTED else [])
            console.print("\n".join(f"  {item}" for item in shown), soft_wrap=True, markup=False)
    counts_text = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.items())
    console.print(f"{len(report.files)} files: {counts_text}", markup=False)


def _lists(report: CheckReport) -> list[tuple[str, list[str]]]:
    return [
        ("problems", list(report.problems)),
        ("labels without a file", list(report.labels_without_file)),
        ("files without a label", list(report.files_without_label)),
        ("the same bytes", [" = ".join(group) for group in report.same_bytes]),
        ("the same pictures", [" = ".join(group) for group in report.same_pictures]),
        ("the same on two sides of a split or under two labels", [" = ".join(pair) for pair in report.leaks]),
        ("sources on two sides of a split", list(report.shared_groups)),
    ]
