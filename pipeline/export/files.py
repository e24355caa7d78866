"""``export_onnx``: a model file in, ONNX files out, each with its name only once it is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint import ModelFile
from pipeline.config import DataConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.export.assembly import assemble, describe_graph
from pipeline.export.cost import measure_cost, timeline_cost
from pipeline.export.int8 import calibration_clips, quantize
from pipeline.export.outcome import Exported
from pipeline.export.parity import check_parity
from pipeline.export.pieces import Pieces, StateSlot, make_pieces
from pipeline.files.writing import write_atomically
from pipeline.inference.onnx_file import sealed


@dataclass(frozen=True)
class Int8Data:
    """Data that 8-bit files are calibrated on and judged by."""

    calibration_rows: Sequence[VideoRow]
    num_calibration_clips: int
    rows: Sequence[VideoRow]
    data: DataConfig
    progress: Callable[[int], None]


def export_onnx(file: ModelFile, stem: Path, int8: Int8Data | None = None) -> Exported:
    """Writes ``<stem>.backbone.onnx``, ``<stem>.clip.onnx``, and ``<stem>.step.onnx`` if the model can stream; with
    ``int8`` also ``<stem>.int8.*.onnx``.

    Raises:
        UserError: torch cannot export the network, or a graph computes something else; nothing is written then.
    """
    file.require_network("clipgru export")
    pieces = make_pieces(file)
    graphs = assemble(file, pieces)
    differences = check_parity(file, graphs, pieces.slots)
    paths = _write(file, graphs, pieces, stem, precision="float32", differences=differences)
    if int8 is None:
        return Exported(tuple(paths), differences)
    clips = calibration_clips(file, int8.calibration_rows, int8.data, int8.num_calibration_clips)
    small = quantize(file, pieces, clips)
    small_graphs = assemble(file, small)
    cost = _cost(file, graphs["clip"], small_graphs["clip"], pieces.slots, int8)
    paths += _write(file, small_graphs, small, Path(f"{stem}.int8"), precision="int8", cost=cost)
    return Exported(tuple(paths), differences, cost)


def _cost(file: ModelFile, plain: Any, small: Any, slots: Sequence[StateSlot], int8: Int8Data) -> dict[str, float]:
    if file.task == "clip":
        return measure_cost(file, plain, small, int8.rows, int8.data, int8.progress).summary()
    contents = []
    for graph, precision in ((plain, "float32"), (small, "int8")):
        described = type(graph)()
        described.CopyFrom(graph)
        describe_graph(described, file, "clip", slots, precision=precision)
        contents.append(sealed(described.SerializeToString(deterministic=True)))
    return timeline_cost(file, contents[0], contents[1], int8.rows, int8.progress)


def _write(file: ModelFile, graphs: dict[str, Any], pieces: Pieces, stem: Path, **said: Any) -> list[Path]:
    paths = []
    for kind, graph in graphs.items():
        slots = pieces.slots if kind in ("clip", "step") else ()
        describe_graph(graph, file, kind, slots, **said)
        path = Path(f"{stem}.{kind}.onnx")
        write_atomically(path, sealed(graph.SerializeToString(deterministic=True)))
        paths.append(path)
    return paths
