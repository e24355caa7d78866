"""Minutes of video that must be labelled until drafts are good: in the order that the page offers, and in random order.

    python tools/benchmark_labelling.py --config configs/ceiling.yaml --protocol leave_one_group_out --batch 4 --output benchmarks/labelling_ceiling
    python tools/benchmark_labelling.py --config configs/salads50.yaml --protocol official_splits --batch 40 --output benchmarks/labelling_salads50

An oracle stands in the user's place: it labels what is offered from the truth, presses Learn, and so on. The held-out
videos of a fold are never offered; drafts for them are judged after each learning. What learns and offers is the
labelling page's own; of the config only the data counts. Both orders begin with the same stretches, drawn by the seed.
"""  # noqa: E501 (commands are one line)

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from pipeline.cli.parser import read_experiment
from pipeline.config import BACKGROUND, UNLABELLED, Experiment
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.sequences import timeline_videos
from pipeline.embedding.feature_file import count_features, read_feature_file
from pipeline.labelling.features import FeatureMaker
from pipeline.labelling.messages import WINDOW_SECONDS, LearnJob, News
from pipeline.labelling.proposals import Offer
from pipeline.labelling.teaching import FeatureSource, Teacher
from pipeline.learning.timelines import draft_experiment
from pipeline.models.backbones import FILE_FEATURES
from pipeline.protocols.folds import PROTOCOLS, Fold
from pipeline.schema import to_json
from pipeline.timeline.labelled import Interval, LabelledSpan, parts_outside
from pipeline.timeline.metrics.segments import match_segments

ORDERS = ("useful", "random")
_ENOUGH, _MIN_IOU = 0.9, 0.25
_FOREVER = float("inf")


class FilesOfFeatures:
    """Features from files, at their own rate."""

    def __init__(self, experiment: Experiment, paths: Sequence[Path]) -> None:
        own = draft_experiment(experiment.data.root, experiment.decode)
        assert experiment.data.features_fps is not None
        self.experiment = replace(
            own,
            sampling=replace(own.sampling, sample_fps=experiment.data.features_fps),
            transform=replace(own.transform, input="rgb"),
        )
        self._num_features = count_features(paths)

    def find(self, path: Path) -> Tensor:
        """Return them, ``[G, D]``."""
        return torch.from_numpy(np.array(read_feature_file(path, self._num_features), np.float32))


def features_of(experiment: Experiment, paths: Sequence[Path]) -> FeatureSource:
    """What the page makes of videos, kept in the user's cache, or files of features."""
    if experiment.model.backbone == FILE_FEATURES:
        return FilesOfFeatures(experiment, paths)
    maker = FeatureMaker(experiment.decode)
    for path in paths:
        if maker.find(path) is None:
            print(f"features of {path.name}", file=sys.stderr)
            maker.make(path)
    return maker


class Oracle:
    """Labels stretches from the truth."""

    def __init__(self, rows: Sequence[VideoRow]) -> None:
        self._videos = {video.row.name: video for video in timeline_videos(rows)}
        self._looked_at: dict[str, list[Interval]] = {name: [] for name in self._videos}

    def label(self, offers: Sequence[Offer]) -> None:
        """Look at these stretches, and label all that happens in them, or that nothing does."""
        for offer in offers:
            self._looked_at[offer.video].append((offer.start_seconds, offer.end_seconds))

    def minutes(self) -> float:
        """Of video looked at."""
        return sum(end - start for some in self._looked_at.values() for start, end in some) / 60

    def rows(self) -> tuple[VideoRow, ...]:
        """What is labelled, as the page's store gives it."""
        return tuple(row for name in self._videos for row in self._rows_of(name))

    def _rows_of(self, name: str) -> list[VideoRow]:
        video, looked_at = self._videos[name], self._looked_at[name]
        if not looked_at:
            return []
        unknown = parts_outside([(0.0, _FOREVER)], looked_at, _FOREVER)
        spans = [
            (start, end, row.label)
            for row in video.stretches
            if row.label
            for start, end in parts_outside([(row.start_seconds, _end(row))], unknown, _FOREVER)
        ]
        named = [(start, end) for start, end, _ in spans]
        spans += [(start, end, BACKGROUND) for start, end in parts_outside(looked_at, named, _FOREVER)]
        spans += [(start, end, UNLABELLED) for start, end in unknown]
        return [replace(video.row, label=text, start_seconds=a, end_seconds=b) for a, b, text in spans]


def _end(row: VideoRow) -> float:
    return _FOREVER if row.end_seconds is None else row.end_seconds


@dataclass(frozen=True)
class Point:
    """What a learning came to."""

    minutes: float
    f1_25: float


class Trial:
    """A folder of videos that is labelled, beside held-out ones."""

    def __init__(self, features: FeatureSource, fold: Fold, seed: int) -> None:
        self._features, self._fold, self._seed = features, fold, seed
        self._paths, self._held_out = ({row.name: row.path for row in rows} for rows in (fold.train, fold.test))

    def full(self) -> float:
        """F1 of all labels."""
        self._begin()
        self._oracle.label([Offer(name, 0.0, _FOREVER, "") for name in self._paths])
        self._learn("random")
        return self._f1()

    def curve(self, order: str, batch: int, max_minutes: float) -> list[Point]:
        """Label a batch of stretches before each learning, the first by chance."""
        self._begin()
        offers, points = self._first(batch), list[Point]()
        while offers and (not points or points[-1].minutes < max_minutes):
            self._oracle.label(offers[:batch])
            offers = self._learn(order)
            points.append(Point(self._oracle.minutes(), self._f1()))
        return points

    def _begin(self) -> None:
        self._oracle, self._news = Oracle(self._fold.train), list[News]()
        self._teacher = Teacher(self._features, self._news.append)

    def _first(self, count: int) -> list[Offer]:
        fps, offers = self._features.experiment.sampling.sample_fps, list[Offer]()
        for name, path in self._paths.items():
            features = self._features.find(path)
            assert features is not None
            starts = np.arange(0, len(features) / fps - WINDOW_SECONDS, WINDOW_SECONDS)
            offers += [Offer(name, start, start + WINDOW_SECONDS, "") for start in starts.tolist()]
        chosen = np.random.default_rng(self._seed).permutation(len(offers))
        return [offers[place] for place in chosen[:count].tolist()]

    def _learn(self, order: str) -> list[Offer]:
        """Learn, and return what is offered next."""
        self._news.clear()
        # Another seed each time: chance would otherwise draw equal places of lists that hardly differ.
        seed = self._seed + round(1000 * min(self._oracle.minutes(), 1e6))
        self._teacher.learn(LearnJob(self._oracle.rows(), {}, self._paths, order, seed=seed))
        return list(self._news[-1].offers)

    def _f1(self) -> float:
        """Of the drafts for held-out videos, the mean over them."""
        found = []
        for video in timeline_videos(self._fold.test):
            self._news.clear()
            self._teacher.draft(video.row.name, video.row.path)
            drafts = self._news[-1].drafts
            assert drafts is not None
            ours = [LabelledSpan(start, end, label) for label, start, end, _ in drafts.segments]
            theirs = [
                LabelledSpan(row.start_seconds, _end(row), row.label)
                for row in video.stretches
                if row.label not in ("", BACKGROUND, UNLABELLED)
            ]
            found.append(match_segments([s for s in ours if s.label != BACKGROUND], theirs, _MIN_IOU).f1)
        return mean(found)


def minutes_until(points: Sequence[Point], f1: float) -> float:
    """The first at which F1 is reached, between two learnings by the straight line; infinite if it never is."""
    before = Point(0.0, 0.0)
    for point in points:
        if point.f1_25 >= f1:
            share = (f1 - before.f1_25) / max(point.f1_25 - before.f1_25, 1e-9)
            return before.minutes + share * (point.minutes - before.minutes)
        before = point
    return _FOREVER


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean over runs at each learning; runs that ended early keep their last value."""
    length = max(map(len, curves))
    held = [[*curve, *[curve[-1]] * (length - len(curve))] for curve in curves]
    return [Point(mean(p.minutes for p in some), mean(p.f1_25 for p in some)) for some in zip(*held, strict=True)]


def rising(points: Sequence[Point]) -> list[Point]:
    """The nearest curve that never falls (isotonic regression): F1 jumps up and down from learning to learning, and a
    first jump over a bar is not the moment from which labels suffice."""
    f1 = IsotonicRegression().fit_transform([p.minutes for p in points], [p.f1_25 for p in points])
    return [Point(point.minutes, float(value)) for point, value in zip(points, f1, strict=True)]


def _share(until: Mapping[str, float], order: str, curves: Mapping[str, Sequence[Point]]) -> str:
    """Of random's minutes; where these do not end within its curve, of the whole curve at most."""
    if until["random"] < _FOREVER:
        return f"{until[order] / until['random']:.0%}"
    return f"under {until[order] / curves['random'][-1].minutes:.0%}" if until[order] < _FOREVER else "not known"


def draw(curves: dict[str, list[Point]], enough: float, path: Path) -> None:
    """F1 over minutes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for order, points in curves.items():
        (line,) = axes.plot([p.minutes for p in points], [p.f1_25 for p in points], "o", markersize=3, label=order)
        fitted = rising(points)
        axes.plot([p.minutes for p in fitted], [p.f1_25 for p in fitted], color=line.get_color())
    axes.axhline(enough, color="gray", linestyle="--", label="90 % of what all labels give")
    axes.set(xlabel="minutes of video labelled", ylabel="F1@25 on held-out videos", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Run all, print the table, and write it with the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--protocol", default="leave_one_group_out", choices=list(PROTOCOLS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, help="the first so many; all without")
    parser.add_argument("--batch", type=int, default=4, help="stretches that are labelled before each learning")
    parser.add_argument("--max_share", type=float, default=0.6, help="of the folder's minutes, at which a curve ends")
    parser.add_argument("--output", help="write NAME.md, NAME.json and NAME.png")
    parser.add_argument("settings", nargs="*", help="after --, as for clipgru train")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    experiment = read_experiment(Path(arguments.config), arguments.settings)
    folds = PROTOCOLS[arguments.protocol](experiment)[: arguments.folds]
    features = features_of(experiment, sorted({row.path for fold in folds for row in (*fold.train, *fold.test)}))
    fps, record = features.experiment.sampling.sample_fps, Path(f"{arguments.output}.json")
    is_begun = arguments.output and record.exists()
    runs: list[dict[str, Any]] = json.loads(record.read_text(encoding="utf-8"))["runs"] if is_begun else []
    for number, fold in enumerate(folds, start=1):
        frames = [features.find(path) for path in {row.path for row in fold.train}]
        total = sum(len(some) for some in frames if some is not None) / fps / 60
        for seed in range(arguments.seeds):
            if any((run["fold"], run["seed"]) == (number, seed) for run in runs):
                continue
            trial = Trial(features, fold, seed)
            run: dict[str, Any] = {"fold": number, "seed": seed, "minutes": round(total, 2), "full": trial.full()}
            for order in ORDERS:
                found = trial.curve(order, arguments.batch, arguments.max_share * total)
                run[order] = [(round(p.minutes, 2), round(p.f1_25, 4)) for p in found]
                run[f"{order}_until"] = minutes_until(found, _ENOUGH * run["full"])
            runs.append(run)
            if arguments.output:  # the same command goes on from here
                record.write_text(to_json({"runs": runs}, indent=1) + "\n", encoding="utf-8")
            said = ", ".join(f"{order} {run[f'{order}_until']:.1f}" for order in ORDERS)
            print(
                f"fold {number} seed {seed}: all labels {run['full']:.3f}; minutes until 90 % of it: {said}", flush=True
            )
    curves = {order: [[Point(*point) for point in run[order]] for run in runs] for order in ORDERS}
    full = [run["full"] for run in runs]
    means, enough = {order: mean_curve(some) for order, some in curves.items()}, _ENOUGH * mean(full)
    until = {order: minutes_until(rising(points), enough) for order, points in means.items()}
    first = {order: minutes_until(points, enough) for order, points in means.items()}
    rows = [
        f"| {order} | {until[order]:.1f} | {_share(until, order, means)} | {first[order]:.1f} | "
        f"{_share(first, order, means)} | {mean(p.f1_25 for p in means[order]):.3f} |"
        for order in ORDERS
    ]
    text = "\n".join([
        "| order | minutes until 90 % of the F1@25 of all labels, by the curve that never falls | share of random's | "
        "until the mean first reaches it | share of random's | mean over the curve |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"By the mean curve of {len(runs)} runs ({len(folds)} folds, {arguments.seeds} seeds), {arguments.batch} "
        f"stretches of {WINDOW_SECONDS:g} s before each learning, up to {arguments.max_share:.0%} of the folders, "
        f"which hold {mean(run['minutes'] for run in runs):.1f} minutes on average; "
        f"all labels give F1@25 {mean(full):.3f}.",
    ])  # fmt: skip
    print(text)
    if arguments.output:
        output = arguments.output
        command = shlex.join(["python", "tools/benchmark_labelling.py", *sys.argv[1:]])
        picture = f"![F1@25 over minutes]({Path(output).name}.png)"
        Path(f"{output}.md").write_text(f"Written by\n\n    {command}\n\n{text}\n\n{picture}\n", encoding="utf-8")
        record.write_text(to_json({"until": until, "first": first, "runs": runs}, indent=1) + "\n", encoding="utf-8")
        draw(means, enough, Path(f"{output}.png"))


if __name__ == "__main__":
    main()
