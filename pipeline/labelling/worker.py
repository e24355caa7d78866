"""The main functions of the page's two processes: one makes features, the other learns. They talk over a pipe.

Loading torch takes seconds, so both stay for as long as the page is there, and wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import DecodeConfig
from pipeline.errors import UserError
from pipeline.files.stopping import work_for_parent
from pipeline.labelling.messages import LearnJob, News, VideoDrafts, as_bytes
from pipeline.labelling.proposals import moving_stretches


def run_embedder(pipe: Connection, decode: DecodeConfig, model: str | None) -> None:
    """Make the features of videos as they are sent, ``(name, path)`` each, until the pipe is closed. The drafts of each
    are made first, which is quicker: by a model file, or by motion alone."""
    _begin(niceness=5)
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
        pipe.send(News("drafts", name, drafts=draft(path) if draft else _moving(maker, path)))
        if maker.find(path) is None:
            maker.make(path, lambda share: pipe.send(News("embedding", name, share=min(share, 1.0))))
        pipe.send(News("embedded", name))
    except UserError as error:
        pipe.send(News("bad", name, str(error)))


def _moving(maker: Any, path: Path) -> VideoDrafts:
    """Stretches in which something moves."""
    fps = maker.experiment.sampling.sample_fps
    segments = tuple(("?", start, end, 0.0) for start, end in moving_stretches(maker.motion(path), fps))
    return VideoDrafts((), fps, np.zeros((0, 0), np.uint8), segments)


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


def run_learner(pipe: Connection, decode: DecodeConfig) -> None:
    """Learn from each job that is sent, and draft each video whose ``(name, path)`` is, until the pipe is closed."""
    _begin(niceness=0)
    from pipeline.labelling.features import FeatureMaker
    from pipeline.labelling.teaching import Teacher

    teacher = Teacher(FeatureMaker(decode), pipe.send)
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
    import torch

    torch.set_num_threads(1)
    with suppress(OSError):
        os.nice(niceness)  # not before: until torch is there nobody has anything to look at
