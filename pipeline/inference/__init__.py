"""Inference: frames of a video or a camera become scores, each frame embedded once.

    stats       what a run did and where its time went
    ahead       decoding in a thread of its own, a bounded number of frames ahead
    cores       a batch in pieces, one for each core of a CPU
    folding     batch norms become part of the convolutions before them
    frames      a video's grid frames, fitted
    runtime     what runs a model: torch_runtime a model file, onnx_runtime an exported one; arrays: what they share
    scorers     that -> scores, by overlapping windows or by a state that is carried on
    engine      ``Model``: all of it, for a file

A camera takes the same way, one grid frame at a time, and so gets the same scores.
"""

from __future__ import annotations

from pipeline.inference.engine import Model, load_model
from pipeline.inference.stats import RunStats
from pipeline.machine import pick_device

__all__ = ["Model", "RunStats", "load_model", "pick_device"]
