"""Does a model use time? The same test clips with their frames put in another order, or taken away.

A model that scores as well on shuffled frames as on the clips themselves has learned pictures, not actions. Every
variant keeps the number of steps, so that a head sees nothing unusual but the order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoint import ModelFile
from pipeline.confidence import mcnemar_p_value, wilson_interval
from pipeline.config import DataConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.datamodule import make_loader
from pipeline.datasets.loading import lost_workers
from pipeline.datasets.videos import ClipBatch, fixed_clips
from pipeline.embedding.clips import ClipEmbedder
from pipeline.errors import UserError
from pipeline.evaluation import check_known
from pipeline.transforms.frames import ClipTransform

_NUM_SHUFFLES = 4
_NUM_FRACTIONS = 8


# name -> the frames to show, in order, once or several times; scores of several are averaged
ORDERS: dict[str, Callable[[int, torch.Generator], list[list[int]]]] = {
    "as filmed": lambda num_frames, generator: [list(range(num_frames))],
    "shuffled": lambda num_frames, generator: [
        torch.randperm(num_frames, generator=generator).tolist() for _ in range(_NUM_SHUFFLES)
    ],
    "reversed": lambda num_frames, generator: [list(range(num_frames))[::-1]],
    "one frame": lambda num_frames, generator: [[num_frames // 2] * num_frames],
    "frame average": lambda num_frames, generator: [[place] * num_frames for place in range(num_frames)],
}


@dataclass(frozen=True)
class Diagnosis:
    """A model's answers for the test videos that could be read. Shares are 0 to 1.

    Attributes:
        labels: class names, ``[K]``.
        truth: class index of each video, int64 ``[V]``.
        by_order: probabilities ``[V, K]`` for each of ``ORDERS``.
        by_fraction: probabilities ``[V, K]`` after the first t steps of a clip, for some t.
        flicker: changes of the best label from one step to the next, a second, on average; None for a model that reads
            the future.
        num_errors: videos that could not be read.
        paths: of the videos, ``[V]``.
        num_left_out: videos that the model had seen; None if nobody looked for such.
    """

    labels: tuple[str, ...]
    truth: Tensor
    by_order: dict[str, Tensor]
    by_fraction: dict[float, Tensor]
    flicker: float | None
    num_errors: int
    paths: tuple[str, ...]
    num_left_out: int | None = None

    def accuracy(self, probabilities: Tensor) -> float:
        """Share of videos whose best label is right."""
        return float((probabilities.argmax(dim=1) == self.truth).float().mean())

    def hardest(self, count: int) -> list[int]:
        """Videos whose own label has the least probability, hardest first."""
        own = self.by_order["as filmed"].gather(1, self.truth[:, None])[:, 0]
        return own.argsort(stable=True)[:count].tolist()

    def most_confident_errors(self, count: int) -> list[int]:
        """Videos that are wrong, those with the highest score first."""
        scores, predicted = self.by_order["as filmed"].max(dim=1)
        wrong = (predicted != self.truth).nonzero()[:, 0]
        return wrong[scores[wrong].argsort(descending=True, stable=True)][:count].tolist()

    def summary(self) -> dict[str, Any]:
        """The figures, with 95 % intervals."""
        orders = {name: self._share(probabilities) for name, probabilities in self.by_order.items()}
        return {
            "num_videos": len(self.truth),
            "num_errors": self.num_errors,
            **({} if self.num_left_out is None else {"num_left_out": self.num_left_out}),
            "accuracy_by_order": orders,
            "lost_by_shuffling": orders["as filmed"]["accuracy"] - orders["shuffled"]["accuracy"],
            "accuracy_by_fraction_seen": {f"{seen:g}": self.accuracy(p) for seen, p in self.by_fraction.items()},
            "label_changes_a_second": self.flicker,
            "uses_time": self.uses_time(),
        }

    def uses_time(self) -> bool:
        """True if the frames' order helps, beyond chance: of the videos that are right either as filmed or shuffled,
        not both, significantly more are right as filmed (McNemar's test, exact, one-sided, 5 %)."""
        filmed, shuffled = (self.by_order[name].argmax(dim=1) == self.truth for name in ("as filmed", "shuffled"))
        gained, lost = int((filmed & ~shuffled).sum()), int((shuffled & ~filmed).sum())
        return mcnemar_p_value(gained, lost, one_sided=True) < 0.05

    def _share(self, probabilities: Tensor) -> dict[str, float]:
        accuracy = self.accuracy(probabilities)
        low, high = wilson_interval(round(accuracy * len(self.truth)), len(self.truth))
        return {"accuracy": accuracy, "low": low, "high": high}


@lost_workers()
def diagnose(
    model: ModelFile,
    rows: Sequence[VideoRow],
    data: DataConfig,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Diagnosis:
    """Runs a model over every row in every order.

    Args:
        model: on the device it should run on.
        rows: the videos with their true labels.
        data: batch size and workers.
        seed: of the shuffling.
        progress: called with the number of videos done in each batch.

    Raises:
        UserError: a row's label is none of the model's, or none of the videos can be read.
    """
    check_known(rows, model.labels)
    settings = model.clips_on(data, num_clips=1)
    generator = torch.Generator().manual_seed(seed)
    prober, parts, num_errors = _Prober(model, generator), [], 0
    for batch in make_loader(rows, model.labels, settings, fixed_clips):
        assert isinstance(batch, ClipBatch)
        num_errors += len(batch.bad)
        if len(batch.labels):
            parts.append((batch.rows, batch.labels, *prober.probe(batch.frames)))
        if progress:
            progress(len(batch.labels) + len(batch.bad))
    if not parts:
        raise UserError(f"none of the {len(rows)} videos can be read; clipgru check tells why")
    places, truth, orders, fractions, flickers = zip(*parts, strict=True)
    return Diagnosis(
        labels=model.labels,
        truth=torch.cat(truth),
        by_order={name: torch.cat([part[name] for part in orders]) for name in ORDERS},
        by_fraction={seen: torch.cat([part[seen] for part in fractions]) for seen in fractions[0]},
        flicker=None if flickers[0] is None else float(torch.cat(flickers).mean()),
        num_errors=num_errors,
        paths=tuple(str(rows[row].path) for row in torch.cat(places).tolist()),
    )


class _Prober:
    """Scores one batch of clips in every way."""

    def __init__(self, model: ModelFile, generator: torch.Generator) -> None:
        self._recognizer, self._sampling, self._calibration = model.recognizer, model.sampling, model.calibration
        self._embed = ClipEmbedder(model.recognizer, ClipTransform(model.transform, model.normalization))
        self._generator = generator
        self._device = next(model.recognizer.parameters()).device

    @torch.inference_mode()
    def probe(self, clips: Tensor) -> tuple[dict[str, Tensor], dict[float, Tensor], Tensor | None]:
        """uint8 ``[B, T + L, 3, S, S]`` -> probabilities ``[B, K]`` by order and by fraction seen, and label
        changes a second ``[B]``."""
        clips = clips.to(self._device)
        features = self._embed(clips)
        orders = {name: make(clips.shape[1], self._generator) for name, make in ORDERS.items()}
        by_order = {name: self._in_orders(clips, features, order) for name, order in orders.items()}
        num_steps = features.shape[1]
        steps = sorted({max(1, num_steps * part // _NUM_FRACTIONS) for part in range(1, _NUM_FRACTIONS + 1)})
        by_fraction = {step / num_steps: self._classify(features[:, :step]) for step in steps}
        return by_order, by_fraction, self._flicker(features)

    def _in_orders(self, clips: Tensor, features: Tensor, orders: list[list[int]]) -> Tensor:
        """Mean of the probabilities over the orders. What a frame looks like does not depend on its place, so that
        features are put in order; the change between frames does, and then the frames are."""
        whole = features.shape[1] == clips.shape[1]
        scores = [self._classify(features[:, order] if whole else self._embed(clips[:, order])) for order in orders]
        return torch.stack(scores).mean(dim=0)

    def _classify(self, features: Tensor) -> Tensor:
        return self._calibration.finite_probabilities(self._recognizer.classify(features)).cpu()

    def _flicker(self, features: Tensor) -> Tensor | None:
        if not self._recognizer.temporal.streams or features.shape[1] < 2:
            return None
        labels = self._recognizer.score(features)[0].argmax(dim=-1)
        return (labels[:, 1:] != labels[:, :-1]).float().mean(dim=1).cpu() * self._sampling.sample_fps
