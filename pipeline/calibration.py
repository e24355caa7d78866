"""From logits to probabilities that mean what they say, and a rule for what a model has never seen.

A network's softmax is over- or under-confident. One number, the temperature, fitted on clips that were not trained on,
cures most of it and moves no label: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML
2017, https://arxiv.org/abs/1706.04599. A softmax also shares everything among the known classes, whatever is shown; the
rule for the unknown compares a measure of the logits with a threshold that most held-out known clips pass.

Both are saved in the model file, and applied here alone, wherever logits become probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.description import CalibrationNumbers, Measure
from pipeline.errors import no_finite_scores, unknown_name

NUM_BINS = 15
"""Equal parts of 0 to 1 in which confidence is compared with accuracy, as Guo et al. do."""

KEPT_SHARE = 0.9
"""Share of held-out known clips that the rule for the unknown keeps."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0

# name -> (logits [..., K], temperature) -> how known a clip looks, [...]; less is stranger
MEASURES: dict[str, Callable[[Tensor, float], Tensor]] = {
    # Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples", ICLR 2017
    "max_probability": lambda logits, temperature: (logits / temperature).softmax(dim=-1).amax(dim=-1),
    # Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022
    "max_logit": lambda logits, temperature: logits.amax(dim=-1),
    # Liu, Wang, Owens and Li, "Energy-based Out-of-distribution Detection", NeurIPS 2020: minus the energy
    "energy": lambda logits, temperature: temperature * (logits / temperature).logsumexp(dim=-1),
}


@dataclass(frozen=True)
class Calibration(CalibrationNumbers):
    """Calibration of a model's logits. By default nothing changes and nothing is unknown."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unknown_measure not in MEASURES:
            raise unknown_name("measure of the unknown", self.unknown_measure, MEASURES)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits ``[..., K]`` -> float32 probabilities ``[..., K]``."""
        return (logits.float() / self.temperature).softmax(dim=-1)

    def each_probability(self, logits: Tensor) -> Tensor:
        """Logits ``[..., K]`` of labels that may overlap -> float32 probabilities ``[..., K]``, each by itself."""
        return (logits.float() / self.temperature).sigmoid()

    def finite_probabilities(self, logits: Tensor) -> Tensor:
        """Logits ``[..., K]`` -> float32 probabilities ``[..., K]``. Raises ``UserError`` if one is not finite."""
        probabilities = self.probabilities(logits)
        if not probabilities.isfinite().all():
            raise no_finite_scores()
        return probabilities

    def knownness(self, logits: Tensor) -> Tensor:
        """Logits ``[..., K]`` -> the measure that the threshold applies to, float32 ``[...]``."""
        return MEASURES[self.unknown_measure](logits.float(), self.temperature)

    def is_unknown(self, logits: Tensor) -> Tensor:
        """Logits ``[..., K]`` -> bool ``[...]``, true below the threshold; all false without one."""
        if self.unknown_threshold is None:
            return torch.zeros(logits.shape[:-1], dtype=torch.bool, device=logits.device)
        return self.knownness(logits) < self.unknown_threshold


UNCALIBRATED = Calibration()


def fit_calibration(logits: Tensor, truth: Tensor, unknown_measure: Measure = "max_probability") -> Calibration:
    """Temperature and threshold from clips that were not trained on.

    Args:
        logits: ``[N, K]``.
        truth: int64 ``[N]``.
        unknown_measure: a key of ``MEASURES``.
    """
    calibration = Calibration(fit_temperature(logits, truth), unknown_measure)
    return Calibration(calibration.temperature, unknown_measure, threshold_of(calibration.knownness(logits)))


def fit_temperature(logits: Tensor, truth: Tensor) -> float:
    """The temperature of least cross entropy.

    Where all clips are right, that would be none at all; as in Platt's "Probabilistic Outputs for Support Vector
    Machines" (1999), targets are therefore those of N clips and one more of each class that was wrong: the truth has
    (N + 1) / (N + 2).

    Args:
        logits: ``[N, K]``.
        truth: int64 ``[N]``.
    """
    logits, num_classes = logits.double(), logits.shape[1]
    spread = 1 / (len(logits) + 2)
    targets = torch.full_like(logits, spread / max(1, num_classes - 1))
    targets[torch.arange(len(logits)), truth] = 1 - spread
    low, high = torch.tensor([MIN_TEMPERATURE, MAX_TEMPERATURE]).double().log().tolist()
    # In 1/T the loss is convex, so that it has one valley in log T too: golden-section search finds it.
    ratio = (5**0.5 - 1) / 2

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits * torch.tensor(-log_temperature).exp(), targets))

    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(torch.tensor((low + high) / 2).exp())


def threshold_of(knownness: Tensor) -> float | None:
    """The threshold that a new known clip passes with probability ``KEPT_SHARE`` at least, from ``knownness [N]`` of
    clips like it: the floor((N + 1) (1 - KEPT_SHARE))-th smallest (the conformal quantile: Vovk, Gammerman and Shafer,
    "Algorithmic Learning in a Random World", 2005). None if there are too few clips to promise that."""
    place = int((len(knownness) + 1) * (1 - KEPT_SHARE) + 1e-9)
    return float(knownness.sort().values[place - 1]) if place else None


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, by bins of confidence. Tensors ``[NUM_BINS]``."""

    counts: Tensor
    confidence: Tensor
    """Mean over the bin's clips; 0 in an empty bin."""
    accuracy: Tensor
    """Likewise."""

    @property
    def expected_error(self) -> float:
        """Expected calibration error: the bins' gaps between confidence and accuracy, weighted by their clips (Naeini,
        Cooper and Hauskrecht, AAAI 2015)."""
        gaps = (self.confidence - self.accuracy).abs() * self.counts
        return float(gaps.sum() / self.counts.sum().clamp_min(1))


def reliability(probabilities: Tensor, truth: Tensor) -> Reliability:
    """Of ``probabilities [N, K]`` and ``truth [N]``: each clip in the bin of its best label's probability."""
    confidence, predicted = probabilities.max(dim=1)
    return reliability_of(confidence, predicted == truth)


def reliability_of(confidence: Tensor, right: Tensor) -> Reliability:
    """Of answers given with ``confidence [N]``, of which ``right [N]`` (bool) are."""
    confidence = confidence.double()
    bins = (confidence * NUM_BINS).ceil().long().sub(1).clamp(0, NUM_BINS - 1)  # (low, high], as the papers have it
    counts = torch.bincount(bins, minlength=NUM_BINS)
    sums = [torch.zeros(NUM_BINS).double().index_add_(0, bins, v) for v in (confidence, right.double())]
    means = [total / counts.clamp_min(1) for total in sums]
    return Reliability(counts, means[0].float(), means[1].float())
