"""A model whose labels overlap, as a script says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.config import SequenceConfig
from pipeline.inference import Model
from pipeline.inference.runtime import Readings
from pipeline.inference.torch_runtime import torch_runtime
from tests.small import small_model

SCRIPT = np.full((20, 3), 0.1)
"""Of 20 frames, which come again and again: one label is there in the first 10, another in 6 from the sixth on."""
SCRIPT[:10, 0], SCRIPT[5:11, 2] = 0.8, 0.9


class ScriptedHeads:
    """Heads that score each frame as a script says, whatever is in it."""

    streams, reads_windows = True, False

    def __init__(self, script: np.ndarray) -> None:
        self._script = script.astype(np.float32)

    def score_steps(self, features: Any, state: int | None) -> tuple[Readings, int]:
        first = state or 0
        scores = self._script[np.arange(first, first + len(features)) % len(self._script)]
        return Readings(scores, np.zeros(len(scores), bool)), first + len(features)


def overlapping_model() -> Model:
    """Scores its frames by ``SCRIPT``, whatever they show."""
    file = replace(small_model(), task="timeline", sequence=SequenceConfig(labels="several"))
    return Model(file, replace(torch_runtime(file), heads=ScriptedHeads(SCRIPT)))
