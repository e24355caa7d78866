"""``Assistant``: drafts for the videos of a folder, made in the background, and what to label next."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DecodeConfig
from pipeline.errors import UserError
from pipeline.labelling.messages import LearnJob, News, VideoDrafts
from pipeline.labelling.proposals import Offer
from pipeline.labelling.store import LabelStore
from pipeline.labelling.stretches import UNLABELLED, Span, VideoLabels, uncovered_parts
from pipeline.labelling.worker import run_embedder, run_learner

_LEAST_SECONDS = 0.25
"""Of what is left of a draft beside what is labelled."""
_FIRST_WORDS = "starting: drafts appear once the videos have been looked at"
_GRACE_SECONDS = 0.5
"""For a process to end by itself."""
_SAME_IOU = 0.5
"""A draft that overlaps so much with a rejected one of its label is that one again."""


@dataclass(frozen=True)
class Draft:
    """A stretch that is proposed."""

    span: Span
    """The part of it that nobody has labelled yet; the label ``?`` is not known."""
    whole: Span
    """The stretch as it was proposed."""
    score: float | None


class Assistant:
    """Two processes that make features and learn, and what they have said. Any thread may ask.

    Args:
        store: the labels.
        decode: how files are read.
        model: a model file for the first drafts; None: motion proposes some.
        order: of what is offered next: useful, or random, the control.
        output: the model file that Learn writes.

    Attributes:
        revision: grows with each piece of news.
    """

    def __init__(
        self,
        store: LabelStore,
        decode: DecodeConfig,
        *,
        model: str | None = None,
        order: str = "useful",
        output: Path | None = None,
        seed: int = 0,
    ) -> None:
        self._store, self._order, self._output, self._seed = store, order, output, seed
        self.revision = 0
        self._drafts: dict[str, VideoDrafts] = {}
        self._revisions: dict[str, int] = {}
        self._embedded: set[str] = set()
        self._bad: dict[str, str] = {}
        self._has_model = False
        self._outcome = ""
        """What the last learning came to, or why there is none."""
        self._sent: set[str] = set()
        """Videos that the learner drafts, or has drafted, with the last model."""
        self._state, self._words, self._share = "embedding", _FIRST_WORDS, None  # type: str, str, float | None
        self._figures: dict[str, str] = {}
        self._offers: list[Offer] = []
        self._passed: set[Offer] = set()
        """Offered since the last learning."""
        self._last_offer: Offer | None = None
        self._wanted: tuple[str | None, bool] | None = None
        """The video that waits for a learning, and whether it was asked for; None: none is wanted."""
        self._lock = threading.RLock()
        context = multiprocessing.get_context("spawn")
        self._embedder, self._embedding = _started(context, run_embedder, decode, model)
        self._learner, self._learning = _started(context, run_learner, decode)
        self._processes = self._embedding, self._learning
        self._bell, self._closing = context.Pipe()
        """The end of one is the end of the thread that listens to the other."""
        self._thread = threading.Thread(target=self._listen, name="assistant", daemon=True)
        self._thread.start()
        self.look_at(list(store.videos))
        if model is None and any(video.stretches for video in store.videos.values()):
            self._wanted = (None, False)

    # Work

    def look_at(self, names: Sequence[str]) -> None:
        """Make the features of these videos before all others; those that are there already cost nothing."""
        todo = [name for name in names if name not in self._embedded]
        labelled = [name for name in todo if self._store.videos[name].stretches]
        ordered = [*labelled, *(name for name in todo if name not in labelled)]
        _send(self._embedder, [(name, self._store.path_of(name)) for name in ordered])

    def learn(self, first: str | None = None) -> None:
        """Learn from what is labelled, as soon as its features are there; drafts of ``first`` come first.

        Raises:
            UserError: nothing is labelled, or the learner has ended.
        """
        if not self._store.labels:
            raise UserError("nothing is labelled yet: label a stretch or two, then learn")
        if not self._learning.is_alive():
            raise UserError("the process that learns has ended; start clipgru label again. What is labelled is saved")
        with self._lock:
            self._wanted = (first, True)
            self._try_to_learn()

    def _try_to_learn(self) -> None:
        if self._wanted is None or self._state == "learning":
            return
        labelled = [name for name, video in self._store.videos.items() if video.stretches]
        missing = [name for name in labelled if name not in self._embedded and name not in self._bad]
        if missing:
            self._tell("waiting", f"making features first: {len(missing)} of {len(labelled)} labelled videos to go")
            return
        first, is_asked = self._wanted
        self._wanted = None
        names = sorted(self._embedded, key=lambda name: name != first)
        rejected = {
            name: [(span.start_seconds, span.end_seconds) for span in self._store.videos[name].rejected]
            for name in names
        }
        paths = {name: self._store.path_of(name) for name in names}
        output = self._output if is_asked else None
        rows = tuple(row for row in self._store.rows() if row.name in self._embedded)
        self._outcome = ""
        self._tell("learning", "learning", 0.0)
        self._sent = set(names)
        _send(self._learner, LearnJob(rows, rejected, paths, self._order, output, self._seed, self._store.may_overlap))

    def _tell(self, state: str, words: str, share: float | None = None) -> None:
        self._state, self._words, self._share = state, words, share
        self.revision += 1

    # News

    def _listen(self) -> None:
        pipes = [self._embedder, self._learner]
        while self._closing not in (ready := wait([*pipes, self._closing])):
            for pipe in ready:
                assert isinstance(pipe, Connection)
                try:
                    news = pipe.recv()
                except (EOFError, OSError):
                    pipes.remove(pipe)
                    news = News("failed", words="a process that works for this page has ended")
                with self._lock:
                    self._take(news)

    def _take(self, news: News) -> None:
        if news.kind == "stage":
            self._tell("learning", f"learning: {news.words}", news.share)
        elif news.kind == "failed":
            self._outcome = news.words
            self._tell("idle", self._outcome)
        else:
            takers = {"embedding": self._take_embedding, "embedded": self._take_embedded, "bad": self._take_bad}
            takers |= {"drafts": self._take_drafts, "learned": self._take_learned}
            takers[news.kind](news)

    def _take_embedding(self, news: News) -> None:
        if self._state != "learning":
            share = f"{news.share or 0:.0%}"
            self._tell("embedding", f"looking at {news.video}: {share}; {len(self._embedded)} done", news.share)

    def _take_embedded(self, news: News) -> None:
        self._embedded.add(news.video)
        if self._has_model:
            self._draft_late_ones()
        self._tell_what_is_left()
        self._try_to_learn()

    def _tell_what_is_left(self) -> None:
        if self._state != "learning":
            left = len(self._store.videos) - len(self._embedded) - len(self._bad)
            words = f"{left} videos to look at" if left else self._idle_words()
            self._tell("embedding" if left else "idle", words)

    def _draft_late_ones(self) -> None:
        """Videos whose features came after the learning had begun."""
        for name in sorted(self._embedded - self._sent):
            _send(self._learner, (name, self._store.path_of(name)))
        self._sent |= self._embedded

    def _idle_words(self) -> str:
        if self._outcome:
            return self._outcome
        return "ready to learn from what is labelled" if self._store.labels else "label a few stretches, then learn"

    def _take_bad(self, news: News) -> None:
        self._bad[news.video] = news.words
        self._tell_what_is_left()
        self._try_to_learn()

    def _take_drafts(self, news: News) -> None:
        assert news.drafts is not None
        self._drafts[news.video] = news.drafts
        self._revisions[news.video] = self._revisions.get(news.video, 0) + 1
        self.revision += 1

    def _take_learned(self, news: News) -> None:
        self._has_model = True
        self._draft_late_ones()
        self._figures = {f"{name}, held out": f"{value:.1%}" for name, value in news.figures.items()}
        self._figures |= {name: f"{seconds:.1f} s" for name, seconds in news.seconds.items()}
        if news.offers:
            self._offers = list(news.offers)
            self._passed.clear()
        if "offers" in news.seconds:
            self._outcome = _summary(news)
            self._tell("idle", self._outcome)
            self._try_to_learn()
        else:
            self._tell("learning", "drafts are there; judging them on held-out videos", 0.5)

    # What is known

    def status(self) -> dict[str, Any]:
        """Return the state for the page."""
        can_learn = self._state != "learning" and bool(self._store.labels) and self._learning.is_alive()
        return {
            "state": self._state if self._state in ("learning", "waiting", "embedding") else "idle",
            "words": self._words,
            "share": self._share,
            "figures": dict(self._figures),
            "can_learn": can_learn,
        }

    def revision_of(self, name: str) -> int:
        """Return a number that grows when the drafts of a video change."""
        return self._revisions.get(name, 0)

    def scores_of(self, name: str) -> tuple[Sequence[str], float, NDArray[np.uint8]] | None:
        """Return labels, grid frames a second and ``[G, K]`` probabilities times 255, if there are some."""
        drafts = self._drafts.get(name)
        return None if drafts is None or not drafts.scores.size else (drafts.labels, drafts.sample_fps, drafts.scores)

    def drafts_of(self, video: VideoLabels) -> list[Draft]:
        """Return what is proposed where nothing is labelled, but for what was rejected, by start."""
        drafts = self._drafts.get(video.name)
        if drafts is None or video.rest != UNLABELLED:
            return []
        free = list(uncovered_parts((s.span for s in video.stretches.values()), float("inf")))
        found = []
        for label, start, end, score in drafts.segments:
            whole = Span(label, start, end)
            if not any(_is_same(whole, rejected) for rejected in video.rejected):
                found += list(_left(whole, free, score if label != "?" else None))
        return sorted(found, key=lambda draft: draft.span.start_seconds)

    def next_offer(self) -> Offer | None:
        """Return the stretch to label next: of those not labelled yet the best, but no neighbour of the last one."""
        with self._lock:
            offers = self._offers or self._first_offers()  # of as many videos as have been looked at by now
            free = (offer for offer in offers if offer not in self._passed and self._is_free(offer))
            found = next((offer for offer in free if not offer.is_next_to(self._last_offer)), None)
            if found is not None:
                self._passed.add(found)
                self._last_offer = found
            return found

    def _first_offers(self) -> list[Offer]:
        """Before anything is learned: where something moves, the videos in turn."""
        by_video = [
            [Offer(name, start, end, "something moves") for _, start, end, _ in drafts.segments]
            for name, drafts in self._drafts.items()
        ]
        if self._order == "random":
            offers = [offer for some in by_video for offer in some]
            return [offers[place] for place in np.random.default_rng(self._seed).permutation(len(offers))]
        longest = max(map(len, by_video), default=0)
        return [some[turn] for turn in range(longest) for some in by_video if turn < len(some)]

    def _is_free(self, offer: Offer) -> bool:
        video = self._store.videos.get(offer.video)
        if video is None or video.rest != UNLABELLED:
            return False
        free = uncovered_parts((s.span for s in video.stretches.values()), offer.end_seconds)
        open_seconds = sum(max(0.0, end - max(start, offer.start_seconds)) for start, end in free)
        return open_seconds > 0.5 * (offer.end_seconds - offer.start_seconds)

    def close(self) -> None:
        """End the processes: they ignore signals, and end when nobody is at the other end of their pipe."""
        self._bell.close()
        self._thread.join()
        for pipe in (self._embedder, self._learner, self._closing):
            pipe.close()
        for process in self._processes:
            process.join(_GRACE_SECONDS)
            process.kill()  # in the midst of something, all of which is written in one go
            process.join()


def _started(context: Any, target: Callable[..., None], *args: Any) -> tuple[Connection, Any]:
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _send(pipe: Connection, message: object) -> None:
    try:
        pipe.send(message)
    except OSError:  # the process has ended; who listens says so
        return


def _is_same(span: Span, rejected: Span) -> bool:
    shared = min(span.end_seconds, rejected.end_seconds) - max(span.start_seconds, rejected.start_seconds)
    longest = max(span.end_seconds, rejected.end_seconds) - min(span.start_seconds, rejected.start_seconds)
    return span.label == rejected.label and shared > _SAME_IOU * longest


def _left(whole: Span, free: Sequence[tuple[float, float]], score: float | None) -> Iterator[Draft]:
    for start, end in free:
        first, last = max(start, whole.start_seconds), min(end, whole.end_seconds)
        if last - first > _LEAST_SECONDS:
            yield Draft(Span(whole.label, first, last), whole, score)


def _summary(news: News) -> str:
    total = sum(news.seconds.values())
    if news.figures:
        return f"learned in {total:.1f} s; figures are of videos that were held out"
    return f"learned in {total:.1f} s; label a second video to know how good it is on videos it has not seen"
