"""What the hardware gives at most, and what share of it the ConvGRU reaches; frames a second from end to end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.heads import ALONE, MINIMAL, RESET_AFTER, SIZES, Size, forward, models_of
from benchmarks.tables import Findings, Table
from benchmarks.timing import Times, interleaved
from pipeline.config import ModelConfig, TransformConfig
from pipeline.embedding.clips import ClipEmbedder
from pipeline.files.cache import Store
from pipeline.models.recognizer import Recognizer
from pipeline.transforms.augmentation import TrainTransform

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GRAPH = "a step of a stream by CUDA graph"
_PRODUCT, _COPY = "a matrix product", "a copy in memory"
_SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices
_COPIED_BYTES = {"cpu": 2**28, "cuda": 2**30}
_NUM_FRAMES = {"cpu": 256, "cuda": 16_384}
_FRAMES_A_CALL = {"cpu": 32, "cuda": 512}
_STEPS_A_ROUND = {"cpu": 20, "cuda": 1000}
_SIDE_PX = 112


def measure(device: str, rounds: int, compiles: bool) -> Findings:
    """Ceilings, shares and rates, each against the others of its table."""
    torch.manual_seed(0)
    shares = [_shares_table(SIZES[0], name, device, rounds) for name in PRECISIONS]
    return Findings([*shares, _rates_table(device, rounds)])


def _shares_table(size: Size, precision: str, device: str, rounds: int) -> Table:
    """ConvGRU forward against a large matrix product in the same precision, in one run."""
    dtype, side = PRECISIONS[precision], _SIDE[device]
    matrices = [torch.randn(side, side, device=device, dtype=dtype) for _ in range(2)]
    source = torch.empty(_COPIED_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    x = size.maps(device).detach().to(dtype)
    models = {name: model.to(dtype) for name, model in models_of(size, device).items()}
    contestants: dict[str, Callable[[], object]] = {
        _PRODUCT: lambda: matrices[0] @ matrices[1],
        _COPY: lambda: target.copy_(source),
        **{name: forward(models[name], x) for name in (ALONE, RESET_AFTER, MINIMAL)},
    }
    times = interleaved(contestants, rounds, device)
    flops = {
        _PRODUCT: 2.0 * side**3,
        ALONE: size.flops,
        RESET_AFTER: size.flops,
        MINIMAL: size.flops * 2 * size.channels / (3 * (size.channels + size.hidden)),
    }
    rows = {name: _share(times, name, flops, 2.0 * len(source)) for name in contestants}
    note = f"Forward at {size}; the product of two {side}x{side} matrices counts as the ceiling. Padding is counted."
    return Table(f"Shares of the ceiling, {precision}", note, rows)


def _share(times: Times, name: str, flops: dict[str, float], num_bytes: float) -> dict[str, float | None]:
    seconds = times.milliseconds(name) / 1e3
    if name not in flops:
        return {"ms": 1e3 * seconds, "GFLOP/s": None, "% of the product's": None, "GB/s": num_bytes / seconds / 1e9}
    share = 100 * flops[name] / flops[_PRODUCT] * times.ratio(_PRODUCT, name)
    return {"ms": 1e3 * seconds, "GFLOP/s": flops[name] / seconds / 1e9, "% of the product's": share, "GB/s": None}


def _rates_table(device: str, rounds: int) -> Table:
    """Frames a second: offline from cached frames, and one by one."""
    count, steps = _NUM_FRAMES[device], _STEPS_A_ROUND[device]
    recognizer = Recognizer(ModelConfig(backbone="resnet18", weights="none", heads=("convgru",)), 10).to(device).eval()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        contestants = {
            "features of cached frames": _extraction(recognizer, Path(folder), device),
            "a step of a stream": _steps(recognizer, device),
        }
        if device == "cuda":
            contestants[GRAPH] = _graph_steps(recognizer)
        times = interleaved(contestants, rounds, device)
    rows: dict[str, dict[str, float | None]] = {
        name: {"frames a second": 1e3 * (count if "cached" in name else steps) / times.milliseconds(name)}
        for name in contestants
    }
    rows.setdefault(GRAPH, {"frames a second": None})
    note = (
        f"ResNet-18 at {_SIDE_PX} px with a ConvGRU of 128 channels, {'bfloat16' if device == 'cuda' else 'float32'}; "
        "offline, uint8 frames come from the frame cache on disk, and features stay on the device. A CUDA graph needs "
        "a GPU."
    )
    return Table("Frames a second", note, rows)


def _extraction(recognizer: Recognizer, folder: Path, device: str) -> Callable[[], object]:
    transform = TrainTransform(
        TransformConfig(fit_size_px=_SIDE_PX, input_size_px=_SIDE_PX), recognizer.backbone.normalization
    )
    embedder, store = ClipEmbedder(recognizer, transform), Store(folder, 2**33)
    frames = torch.randint(0, 256, (_NUM_FRAMES[device], _SIDE_PX, _SIDE_PX, 3), dtype=torch.uint8)
    store.put("frames", frames.permute(0, 3, 1, 2).numpy(), {})  # [N, H, W, 3] -> [N, 3, H, W]

    def run() -> None:
        entry = store.get("frames")
        assert entry is not None
        places = range(len(entry))
        for start in range(0, len(places), _FRAMES_A_CALL[device]):
            with _mixed(device):
                frames = torch.from_numpy(entry.read(places[start : start + _FRAMES_A_CALL[device]]))
                embedder(frames.unsqueeze(0).to(device))

    return run


def _steps(recognizer: Recognizer, device: str) -> Callable[[], object]:
    frame = torch.randn(1, 3, _SIDE_PX, _SIDE_PX, device=device)

    def run() -> None:
        state: Any = None
        for _ in range(_STEPS_A_ROUND[device]):
            _, state = _step(recognizer, frame, state, device)

    return run


def _step(recognizer: Recognizer, frame: Tensor, state: Any, device: str) -> tuple[Tensor, Any]:
    with _mixed(device):
        return recognizer.score(recognizer.embed(frame).unsqueeze(0), state)


def _graph_steps(recognizer: Recognizer) -> Callable[[], object]:
    """The same step, recorded once and replayed: frame and state are read from and written to fixed memory."""
    frame = torch.randn(1, 3, _SIDE_PX, _SIDE_PX, device="cuda")
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # as torch's notes on CUDA graphs want it: first some runs on another stream
        _, state = _step(recognizer, frame, None, "cuda")
        for _ in range(3):
            _step(recognizer, frame, state, "cuda")
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _, following = _step(recognizer, frame, state, "cuda")
        for kept, new in zip(_tensors(state), _tensors(following), strict=True):
            kept.copy_(new)

    def run() -> None:
        for _ in range(_STEPS_A_ROUND["cuda"]):
            graph.replay()

    return run


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    else:
        for part in state:
            yield from _tensors(part)


def _mixed(device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
