"""clipgru: video action recognition, a CNN for frames and a recurrent head for time.

The flow, in the order data takes it, and where each part lives:

    source -> decode -> sampling -> transforms -> backbone -> temporal head -> scores -> timeline
              decode/   sampling    transforms    models/                      inference  timeline

``datasets/`` reads annotations and feeds ``training/``; ``checkpoint`` is the model file; ``evaluation`` and
``protocols`` measure; ``prediction`` and ``report`` write, ``run_report`` the page of a run; ``streaming/`` watches
cameras; ``config`` holds every setting; ``cli`` wires it together.

The public names below are all a user of the package needs. They are imported when first used, so that
``import pipeline`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.version import __version__

if TYPE_CHECKING:
    from pipeline.clip import Clip, Prediction, Segment, VideoInfo
    from pipeline.config import Experiment
    from pipeline.decode import open_video
    from pipeline.errors import DecodeError, UserError
    from pipeline.evaluation import evaluate_model
    from pipeline.inference import load_model
    from pipeline.training.fit import train

_HOMES = {
    "Clip": "pipeline.clip",
    "DecodeError": "pipeline.errors",
    "Experiment": "pipeline.config",
    "Prediction": "pipeline.clip",
    "Segment": "pipeline.clip",
    "UserError": "pipeline.errors",
    "VideoInfo": "pipeline.clip",
    "evaluate_model": "pipeline.evaluation",
    "load_model": "pipeline.inference",
    "open_video": "pipeline.decode",
    "train": "pipeline.training.fit",
}

__all__ = [
    "Clip",
    "DecodeError",
    "Experiment",
    "Prediction",
    "Segment",
    "UserError",
    "VideoInfo",
    "__version__",
    "evaluate_model",
    "load_model",
    "open_video",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
