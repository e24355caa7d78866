"""An exported model at work in ONNX Runtime, without torch.

A file that ``clipgru export`` wrote is one graph for whoever deploys it. Here it is cut where the backbone ends and
time begins, so that each frame passes the backbone once however much windows overlap:

    model.clip.onnx    frames -> features | scan over time (body: one step) -> scores
    model.step.onnx    frame  -> features | one step, with its states        -> scores

The body of the scan is the streaming step, so the first of these files serves both modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pipeline.clip import Image
from pipeline.description import StateDescription
from pipeline.errors import UserError
from pipeline.inference.onnx_file import (
    FEATURES,
    FRAMES,
    KNOWNNESS,
    LOGITS,
    SCORES,
    STEP_FEATURES,
    STEP_LOGITS,
    OnnxFile,
    import_onnx,
    read_onnx,
)
from pipeline.inference.runtime import Readings, Runtime, Scores, State
from pipeline.transforms.without_torch import fit_image

RunGraph = Callable[[Sequence[str], dict[str, Any]], list[Any]]
"""Names of outputs, inputs by name -> the outputs' values. Raises ``UserError`` where the graph cannot be run."""


def load_onnx(path: Path, device: str = "auto") -> tuple[OnnxFile, Runtime]:
    """Reads an exported file, ready to predict on the CPU.

    Raises:
        UserError: the file is missing, damaged, none of clipgru's, or a backbone alone; another device is asked for;
            ONNX Runtime is not installed.
    """
    if device not in ("auto", "cpu"):
        raise UserError(f"device {device!r}: an ONNX file runs on the CPU; leave --device out, or use the model file")
    onnx = import_onnx()
    file, model = read_onnx(path)
    if file.kind == "backbone":
        raise UserError(f"{path}: holds the {file.kind} alone, which cannot predict; use the file ending in .clip.onnx")
    try:
        return file, _runtime_of(model, file, onnx)
    except _graph_errors() as error:
        raise _broken_graph(str(path), error) from error


def _broken_graph(where: str, error: Exception) -> UserError:
    said = " ".join(str(error).split())[:300]
    return UserError(f"{where}: its graph cannot be run ({said}); export the model again, or update onnxruntime")


def _runtime_of(model: Any, file: OnnxFile, onnx: ModuleType) -> Runtime:
    parts = onnx.utils.Extractor(model)
    embed = partial(_embed, open_session(parts.extract_model([FRAMES], [FEATURES])))
    logits = LOGITS if file.kind == "clip" else STEP_LOGITS
    read = partial(_read_logits, open_session(parts.extract_model([logits], [SCORES, KNOWNNESS])), logits)
    heads = _OnnxHeads(file, _step_of(model, file, onnx), _windows_of(parts, file), read)
    return Runtime(partial(fit_image, config=file.transform), embed, heads, num_pieces=1)


def _graph_errors() -> tuple[type[Exception], ...]:
    """Exceptions for a graph that cannot be cut or run; ONNX Runtime's errors have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        ValueError,
        KeyError,  # a value is not there to be cut at
        state.Fail,
        state.InvalidGraph,
        state.InvalidArgument,
        state.NotImplemented,
        state.RuntimeException,
    )


def open_session(model: Any, num_threads: int = 0) -> RunGraph:
    """A session's ``run`` for a graph; 0 threads are as many as there are cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3  # errors
    # Threads that spin while they wait take the time from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def run(outputs: Sequence[str], inputs: dict[str, Any]) -> list[Any]:
        try:
            answers: list[Any] = session.run(outputs, inputs)
        except _graph_errors() as error:
            raise _broken_graph("the ONNX file", error) from error
        return answers

    return run


def initial_states(states: Sequence[StateDescription], batch: int) -> dict[str, Any]:
    """Zeros for each state, before the first frame."""
    shapes = {state.name: [batch if side == "batch" else side for side in state.shape] for state in states}
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def _step_of(model: Any, file: OnnxFile, onnx: ModuleType) -> RunGraph | None:
    """The step alone, from features: cut out of a step's graph, or the body of a clip's scan."""
    if not file.states:
        return None
    outputs = [STEP_LOGITS, *(f"next_{state.name}" for state in file.states)]
    if file.kind == "step":
        inputs = [STEP_FEATURES, *(state.name for state in file.states)]
        return open_session(onnx.utils.Extractor(model).extract_model(inputs, outputs))
    (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
    (body,) = (attribute.g for attribute in scan.attribute if attribute.name == "body")
    return open_session(onnx.helper.make_model(body, opset_imports=model.opset_import, ir_version=model.ir_version))


def _windows_of(parts: Any, file: OnnxFile) -> RunGraph | None:
    return open_session(parts.extract_model([FEATURES], [SCORES, KNOWNNESS])) if file.kind == "clip" else None


def _read_logits(run: RunGraph, name: str, logits: Scores) -> list[Any]:
    """``[N, K]`` -> scores ``[N, K]`` and how known each looks ``[N]``, by the file's own calibration."""
    return run([SCORES, KNOWNNESS], {name: logits})


def _embed(run: RunGraph, frames: Image) -> Any:
    """uint8 ``[B, T + context, 3, S, S]`` -> float32 ``[B, T, ...]``."""
    (features,) = run([FEATURES], {FRAMES: np.ascontiguousarray(frames)})
    return features


class _OnnxHeads:
    """``Heads`` of an exported file."""

    def __init__(
        self, file: OnnxFile, step: RunGraph | None, windows: RunGraph | None, read: Callable[[Scores], list[Any]]
    ) -> None:
        self._states, self._step, self._windows, self._read = file.states, step, windows, read
        self._num_classes = len(file.labels)
        self._threshold = -np.inf if file.unknown_threshold is None else file.unknown_threshold
        self.streams = self.reads_whole = step is not None
        self.reads_windows = windows is not None

    def score_windows(self, features: Any) -> Readings:
        assert self._windows is not None
        return self._readings(self._windows([SCORES, KNOWNNESS], {FEATURES: features}))

    def score_steps(self, features: Any, state: State) -> tuple[Readings, State]:
        assert self._step is not None
        state = initial_states(self._states, batch=1) if state is None else state
        outputs = [STEP_LOGITS, *(f"next_{name}" for name in state)]
        logits = []
        for frame in features:
            answer, *following = self._step(outputs, {STEP_FEATURES: frame[None], **state})
            state = dict(zip(state, following, strict=True))
            logits.append(answer[0])
        return self._readings(self._read(np.stack(logits))), state

    def _readings(self, read: list[Any]) -> Readings:
        probabilities, knownness = read
        if knownness.ndim != 1 or probabilities.shape != (len(knownness), self._num_classes):
            shape = list(probabilities.shape)
            raise UserError(f"the ONNX file gives scores of the shape {shape}; export the model again")
        return Readings(probabilities, knownness < self._threshold)
