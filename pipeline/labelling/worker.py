"""What works for the page in processes of their own: one makes features, the other learns. They talk over a pipe.

Loading torch takes seconds, so both stay for as long as the page is there, and wait.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DecodeConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.errors import UserError
from pipeline.files.stopping import work_for_parent
from pipeline.labelling.proposals import Offer, moving_stretches

WINDOW_SECONDS = 8.0
"""Of a stretch that is offered."""


@dataclass(frozen=True)
class VideoDrafts:
    """What a model, or motion alone, says of a video."""

    labels: tuple[str, ...]
    sample_fps: float
    scores: NDArray[np.uint8]
    """``[G, K]``: probabilities times 255."""
    segments: tuple[tuple[str, float, float, float], ...]
    """Label (``?`` if it is not known), start and end in seconds, score."""


@dataclass(frozen=True)
class LearnJob:
    """What to learn from.

    Attributes:
        rows: labelled stretches.
        rejected: by video, drafts that were wrong, in seconds.
        paths: of all videos, the one that is waited for first.
        order: of what is offered: useful or random.
        output: the model file to write; None: none.
    """

    rows: tuple[VideoRow, ...]
    rejected: Mapping[str, Sequence[tuple[float, float]]]
    paths: Mapping[str, Path]
    order: str = "useful"
    output: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class News:
    """A message of a worker."""

    kind: str
    """embedding, embedded, bad, stage, drafts, learned, failed."""
    video: str = ""
    words: str = ""
    share: float | None = None
    drafts: VideoDrafts | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    offers: tuple[Offer, ...] = ()


def run_embedder(pipe: Connection, decode: DecodeConfig, model: str | None) -> None:
    """Make the features of videos as they are sent, ``(name, path)`` each, until the pipe is closed. A model file's
    drafts are made first, where one is given."""
    _begin(niceness=10)
    from pipeline.labelling.features import FeatureMaker

    wanted: dict[str, Path] = {}
    maker = FeatureMaker(decode)
    draft = _drafter(model, decode) if model else None
    with suppress(EOFError, BrokenPipeError, OSError):
        while True:
            while pipe.poll(None if not wanted else 0):
                wanted = dict(pipe.recv()) | wanted
            name = next(iter(wanted))
            _embed_one(pipe, maker, draft, name, wanted.pop(name))


def _embed_one(
    pipe: Connection, maker: Any, draft: Callable[[Path], VideoDrafts] | None, name: str, path: Path
) -> None:
    try:
        if draft is not None:
            pipe.send(News("drafts", name, drafts=draft(path)))
        if maker.find(path) is None:
            maker.make(path, lambda share: pipe.send(News("embedding", name, share=min(share, 1.0))))
        moves = [] if draft else moving_stretches(maker.motion(path), maker.experiment.sampling.sample_fps)
        segments = tuple(("?", start, end, 0.0) for start, end in moves)
        empty = np.zeros((0, 0), np.uint8)
        drafts = None if draft else VideoDrafts((), maker.experiment.sampling.sample_fps, empty, segments)
        pipe.send(News("embedded", name, drafts=drafts))
    except UserError as error:
        pipe.send(News("bad", name, str(error)))


def _drafter(path: str, decode: DecodeConfig) -> Callable[[Path], VideoDrafts]:
    """Drafts by the engine, of any model file."""
    from contextlib import closing

    from pipeline.inference import load_model
    from pipeline.timeline.scores import FrameMeans

    model = load_model(path, "cpu")
    model.open_as(decode)

    def draft(video: Path) -> VideoDrafts:
        with model.opener.open(video) as reader:
            timeline, means = model.timeline(None, reader.info.duration_seconds), FrameMeans()
            scored, segments = [], []
            with closing(model.score_windows(reader)) as windows:
                for window in windows:
                    scored += means.push(window)
                    segments += timeline.push(window)
            segments += timeline.finish()
            scored += means.flush()
        scores = np.zeros((scored[-1][0] + 1 if scored else 0, len(model.labels)), np.float32)
        for place, values in scored:
            scores[place] = values
        found = tuple((s.label, s.start_seconds, s.end_seconds, float(s.score)) for s in segments)
        return VideoDrafts(model.labels, model.file.sampling.sample_fps, as_bytes(scores), found)

    return draft


def as_bytes(scores: NDArray[Any]) -> NDArray[np.uint8]:
    """Return probabilities times 255."""
    result: NDArray[np.uint8] = np.rint(np.clip(scores, 0, 1) * 255).astype(np.uint8)
    return result


def run_learner(pipe: Connection, decode: DecodeConfig) -> None:
    """Learn from each job that is sent, and draft each video whose ``(name, path)`` is, until the pipe is closed."""
    _begin(niceness=0)
    from pipeline.labelling.teaching import Teacher

    teacher = Teacher(decode, pipe.send)
    with suppress(EOFError, BrokenPipeError, OSError):
        while True:
            job = pipe.recv()
            try:
                if isinstance(job, LearnJob):
                    teacher.learn(job)
                else:
                    teacher.draft(*job)
            except UserError as error:
                pipe.send(News("failed", words=str(error)))


def _begin(niceness: int) -> None:
    work_for_parent()
    with suppress(OSError):
        os.nice(niceness)
    import torch

    torch.set_num_threads(1)


class StageClock:
    """Seconds by stage."""

    def __init__(self, tell: Callable[[News], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._tell = tell

    @contextmanager
    def stage(self, name: str, share: float) -> Any:
        """Count what is done while this is open."""
        self._tell(News("stage", words=name, share=share, seconds=dict(self.seconds)))
        begin = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - begin, 3)
