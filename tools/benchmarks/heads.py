"""Temporal heads: ConvGRU against public code, precision, all heads over T, single steps, and training steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.tables import Findings, Lines, Table
from benchmarks.timing import Contestants, interleaved
from pipeline.cli.parser import read_experiment
from pipeline.config import ModelConfig
from pipeline.models.recognizer import Recognizer
from pipeline.models.temporal import fast, prepared
from pipeline.models.temporal.convgru import ConvGRU
from pipeline.models.temporal.fast import set_fast
from pipeline.models.temporal.head import State, TemporalHead
from pipeline.models.temporal.mingru import ConvMinGRU
from pipeline.models.temporal.stack import TEMPORAL_HEADS
from pipeline.training.module import parameter_groups
from tests.reference.naive_convgru import NaiveConvGRU


@dataclass(frozen=True)
class Size:
    """Input ``[batch, steps, channels, side, side]``, state of ``hidden`` channels."""

    batch: int
    steps: int
    channels: int
    side: int
    hidden: int

    def __str__(self) -> str:
        return f"[{self.batch}, {self.steps}, {self.channels}, {self.side}, {self.side}] -> {self.hidden}"

    def maps(self, device: str) -> Tensor:
        """Random input, channels-last in memory, as a backbone leaves it."""
        x = torch.randn(self.batch, self.steps, self.side, self.side, self.channels, device=device)
        return x.permute(0, 1, 4, 2, 3).requires_grad_()

    @property
    def flops(self) -> float:
        """Of all convolutions of a ConvGRU's forward pass, products with the padding counted."""
        return 2 * self.batch * self.steps * self.side**2 * 9 * 3 * self.hidden * (self.channels + self.hidden)


SIZES = (Size(8, 16, 512, 7, 256), Size(4, 32, 576, 4, 128), Size(1, 64, 320, 7, 64))
_STEPS_TO_COMPILE = 32  # an unrolled loop of more steps compiles for many minutes
_PARTS = {
    "convolutions": ("mkldnn_convolution", "_convolution_pointwise", "cudnn_convolution", "conv2d"),
    "their gradients": ("convolution_backward",),
    "Winograd's products": ("aten::bmm", "aten::baddbmm"),
    "its transforms": ("aten::mm",),
    "reordering weights": ("mkldnn_reorder", "to_mkldnn"),
    "copies": ("copy_", "aten::cat", "aten::stack"),
}
_STEP_MAPS = ((320, 4), (320, 7), (1280, 7))  # channels and side of one frame's maps
_OVER_T = (8, 16, 32, 64, 128, 256)
_EXPERIMENTS = tuple(Path(__file__).parents[2] / "configs" / f"{name}.yaml" for name in ("folder", "motion"))
BOTH, LEFT_OUT = "both", ("without Winograd", "without derivatives by hand", "neither")
NAIVE, CLASSIC, RESET_AFTER, MINIMAL = "naive loop", "ours, classic", "ours, reset_after", "ours, convmingru"
ALONE, COMPILED = "the convolutions of ConvGRU alone", "torch.compile of the naive loop"


def by_autograd(head: TemporalHead) -> TemporalHead:
    """Give ``head`` its equations for the loop over time; its input convolution stays as it is."""
    head.recur = partial(_recur_plainly, head)  # type: ignore[method-assign]
    return head


def _recur_plainly(head: TemporalHead, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
    set_fast(head, False)
    try:
        return type(head).recur(head, projected, state)
    finally:
        set_fast(head, True)


class ConvolutionsAlone(nn.Module):
    """The convolutions of a ConvGRU and nothing else: no gates, no step that waits for the one before."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.input_conv = nn.Conv2d(size.channels, 3 * size.hidden, 3, padding=1)
        self.hidden_conv = nn.Conv2d(size.hidden, 3 * size.hidden, 3, padding=1)
        self.hidden = size.hidden

    def forward(self, x: Tensor) -> Tensor:
        flat = x.permute(1, 0, 3, 4, 2).flatten(0, 1).permute(0, 3, 1, 2)  # [B, T, C, H, W] -> [T B, C, H, W]
        gates = self.input_conv(flat).unflatten(0, (x.shape[1], x.shape[0]))
        maps = gates[:, :, : self.hidden]
        return torch.stack([self.hidden_conv(m.contiguous(memory_format=torch.channels_last)) for m in maps])


class Compiled(nn.Module):
    """A model, compiled at its first call for each pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.run = torch.compile(model)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = self.run(x)
        return result


def models_of(size: Size, device: str) -> dict[str, nn.Module]:
    models = {
        NAIVE: NaiveConvGRU(size.channels, size.hidden),
        CLASSIC: ConvGRU(size.channels, size.hidden, reset_after=False),
        RESET_AFTER: ConvGRU(size.channels, size.hidden),
        MINIMAL: ConvMinGRU(size.channels, size.hidden),
        ALONE: ConvolutionsAlone(size),
    }
    return {name: model.to(device) for name, model in models.items()}


def forward(model: nn.Module, x: Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.no_grad():
            model(x)

    return run


def forward_and_backward(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """The gradient of all weights and of the input, from a given one of the output."""
    inputs, directions = [x, *model.parameters()], dict[torch.dtype, Tensor]()

    def run() -> None:
        y = model(x)
        y = y[0] if isinstance(y, tuple) else y
        if y.dtype not in directions:
            directions[y.dtype] = torch.randn_like(y)
        torch.autograd.grad(y, inputs, directions[y.dtype])

    return run


PASSES = {"forward": forward, "forward and backward": forward_and_backward}


def measure(device: str, rounds: int, compiles: bool) -> Findings:
    """All tables of this group."""
    torch.manual_seed(0)
    convgru = [convgru_table(size, name, device, rounds, compiles) for size in SIZES for name in PASSES]
    over_t, plot = heads_over_t(device, rounds)
    tables = [profile_table(device), precision_table(device, rounds), *over_t, step_table(device, rounds)]
    training = [training_table(rounds)] if device == "cpu" else []  # elsewhere nothing is written by hand
    return Findings([*convgru, *tables, *training], [plot])


def convgru_table(size: Size, name: str, device: str, rounds: int, compiles: bool) -> Table:
    _say(f"{size}, {name}")
    make, x, models = PASSES[name], size.maps(device), models_of(size, device)
    contestants = {model_name: make(model, x) for model_name, model in models.items()}
    # Public code leaves its input as it comes, and its maps in torch's usual order.
    contestants[NAIVE] = make(models[NAIVE], x.detach().contiguous().requires_grad_())
    contestants[f"{NAIVE}, channels-last"] = make(models[NAIVE], x)
    if compiles and size.steps <= _STEPS_TO_COMPILE:
        contestants[COMPILED] = make(Compiled(models[NAIVE]), x.detach().contiguous().requires_grad_())
    times = interleaved(contestants, rounds, device)
    rows: dict[str, dict[str, float | None]] = {
        row: {
            "ms": times.milliseconds(row),
            "naive / this": times.ratio(NAIVE, row),
            "ours, classic / this": times.ratio(CLASSIC, row),
        }
        for row in contestants
    }
    if COMPILED not in rows:
        rows[COMPILED] = dict.fromkeys(rows[NAIVE], None)
    gflops = (3 if name != "forward" else 1) * size.flops / times.milliseconds(RESET_AFTER) / 1e6
    share = 100 * times.ratio(ALONE, RESET_AFTER)
    note = (
        f"The whole of ours, reset_after, runs at {share:.0f} % of the FLOP rate of its convolutions alone "
        f"({gflops:.0f} GFLOP/s, padding counted)."
    )
    return Table(f"ConvGRU {size}, {name}", note, rows)


def profile_table(device: str) -> Table:
    """Where the time of a forward and backward pass goes, by torch's profiler."""
    rows: dict[str, dict[str, float | None]] = {}
    for size in SIZES:
        for name in (CLASSIC, RESET_AFTER, MINIMAL):
            _say(f"{size}, {name}, profile")
            run = forward_and_backward(models_of(size, device)[name], size.maps(device))
            run()
            with torch.profiler.profile() as profile:
                run()
            spent = dict.fromkeys([*_PARTS, "the rest"], 0.0)
            for event in profile.key_averages():
                part = next((part for part, words in _PARTS.items() if any(w in event.key for w in words)), "the rest")
                spent[part] += event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
            total = sum(spent.values())
            rows[f"{size}, {name}"] = {part: 100 * part_time / total for part, part_time in spent.items()}
    note = (
        "Per cent, forward and backward. The first column is every convolution forwards and the hidden ones backwards; "
        "the second the input's gradient and all weights' gradients."
    )
    return Table("Where the time goes", note, rows)


def precision_table(device: str, rounds: int) -> Table:
    """Mixed precision against float32."""
    rows: dict[str, dict[str, float | None]] = {}
    for size in SIZES:
        x, models = size.maps(device), models_of(size, device)
        for pass_name, make in PASSES.items():
            for name in (RESET_AFTER, MINIMAL):
                _say(f"{size}, {name}, {pass_name}, bf16")
                contestants = {"fp32": make(models[name], x), "bf16": _mixed(make(models[name], x), device)}
                times = interleaved(contestants, rounds, device)
                rows[f"{size}, {name}, {pass_name}"] = {
                    "fp32 ms": times.milliseconds("fp32"),
                    "bf16 ms": times.milliseconds("bf16"),
                    "fp32 / bf16": times.ratio("fp32", "bf16"),
                }
    return Table("bf16 against fp32", "Automatic mixed precision against float32, the same head.", rows)


def _mixed(run: Callable[[], object], device: str) -> Callable[[], object]:
    def mixed() -> None:
        with torch.autocast(device, torch.bfloat16):
            run()

    return mixed


def heads_over_t(device: str, rounds: int) -> tuple[list[Table], Lines]:
    """Every head, forward and backward, at growing T; and the plot of it."""
    milliseconds: dict[str, dict[str, float | None]] = {name: {} for name in TEMPORAL_HEADS}
    kept: dict[str, dict[str, float | None]] = {name: {} for name in TEMPORAL_HEADS}
    growth: dict[str, float | None] = {}
    for steps in _OVER_T:
        _say(f"all heads, T = {steps}")
        size = Size(4, steps, 256, 4, 128)
        contestants = dict(_each_head(size, device))
        classic = ConvGRU(size.channels, size.hidden, reset_after=False).to(device)
        contestants[CLASSIC] = forward_and_backward(classic, size.maps(device))
        times = interleaved(contestants, rounds, device)
        for name, run in contestants.items():
            if name in TEMPORAL_HEADS:
                milliseconds[name][f"T = {steps}"] = times.milliseconds(name)
                kept[name][f"T = {steps}"] = _megabytes_kept(run)
        growth[f"T = {steps}"] = times.ratio(CLASSIC, "convmingru")
    for name in TEMPORAL_HEADS:
        head = TEMPORAL_HEADS[name](256, ModelConfig(hidden_channels=128))
        milliseconds[name]["parameters"] = sum(p.numel() for p in head.parameters())
    lines = {name: [float(row[f"T = {steps}"] or 0) for steps in _OVER_T] for name, row in milliseconds.items()}
    what = "[4, T, 256, 4, 4] -> 128 for maps, [4, T, 256] -> 128 for vectors"
    return [
        Table("All heads: ms, forward and backward", f"{what}.", milliseconds),
        Table("All heads: MB kept for the backward pass", "Weights and input left out; the same runs.", kept),
        Table("Classic ConvGRU / convmingru over T", "Forward and backward, the same runs.", {"ratio": growth}),
    ], Lines("heads.png", "T (steps)", "ms, forward and backward", _OVER_T, lines)


def _each_head(size: Size, device: str) -> Iterator[tuple[str, Callable[[], object]]]:
    for name, build in TEMPORAL_HEADS.items():
        head = build(size.channels, ModelConfig(hidden_channels=size.hidden)).to(device)
        x = size.maps(device)
        yield name, forward_and_backward(head, x if head.reads_maps else x[..., 0, 0].detach().requires_grad_())


def _megabytes_kept(run: Callable[[], object]) -> float:
    """Storage that autograd holds on to at the end of the forward pass, that of leaves left out."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf or not tensor.requires_grad:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(storages.values()) / 1e6


def training_table(rounds: int) -> Table:
    """Whole training steps of shipped experiments from cached features, with and without what is written by hand."""
    rows: dict[str, dict[str, float | None]] = {}
    for path in _EXPERIMENTS:
        _say(f"training steps, {path.stem}")
        times = interleaved(_training_steps(path), rounds, "cpu")
        for name in times.seconds:
            rows[f"{path.stem}, {name}"] = {"ms": times.milliseconds(name), "this / both": times.ratio(name, BOTH)}
    note = "Head and classifier forward, backward and the optimizer's step; batch and sizes as shipped, fp32."
    return Table("A training step from cached features", note, rows)


def _training_steps(path: Path) -> Contestants:
    without = (
        _without_winograd(_training_step(path)),
        _training_step(path, by_autograd),
        _training_step(path, lambda head: set_fast(head, False)),
    )
    return {BOTH: _training_step(path), **dict(zip(LEFT_OUT, without, strict=True))}


def _training_step(path: Path, change: Callable[[TemporalHead], object] = lambda head: None) -> Callable[[], object]:
    experiment = read_experiment(path)
    size, config = experiment.transform.input_size_px, experiment.training
    recognizer = Recognizer(experiment.model, 10, load_weights=False, input_size_px=size).train()
    recognizer.backbone.freeze()
    for head in recognizer.temporal.heads:
        change(head)
    optimizer = torch.optim.AdamW(parameter_groups(recognizer, config), lr=config.learning_rate)
    batch = experiment.data.batch_size
    maps = recognizer.backbone.look(size)
    features = torch.randn(batch, experiment.sampling.num_frames, *maps.shape[-3:])
    labels = torch.arange(batch) % 10

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(recognizer.classify(features), labels).backward()
        optimizer.step()

    return run


def _without_winograd(run: Callable[[], object]) -> Callable[[], object]:
    def without() -> None:
        with patch.object(fast, "pays", return_value=False), patch.object(prepared, "pays", return_value=False):
            run()

    return without


def step_table(device: str, rounds: int) -> Table:
    """One frame of a stream: batch 1, T = 1, one thread, the state handed on."""
    rows: dict[str, dict[str, float | None]] = {}
    with _one_thread():
        for channels, side in _STEP_MAPS:
            _say(f"single steps, {channels} channels")
            times = interleaved(_steps(Size(1, 1, channels, side, 64), device), 20 * rounds, device)
            for name in times.seconds:
                rows.setdefault(name, {})[f"{channels}, {side}x{side}"] = times.milliseconds(name)
    return Table("One step of a stream", "ms; x [1, 1, C, H, W] -> 64 channels, one thread, state handed on.", rows)


def _steps(size: Size, device: str) -> Contestants:
    steps: dict[str, Callable[[], object]] = {}
    for name, build in TEMPORAL_HEADS.items():
        head = build(size.channels, ModelConfig(hidden_channels=size.hidden)).to(device).eval()
        x = size.maps(device).detach()
        steps[name] = _step(head, x if head.reads_maps else x[..., 0, 0])
    naive = NaiveConvGRU(size.channels, size.hidden).to(device).eval()
    steps[NAIVE] = _step(naive, size.maps(device).detach().contiguous())
    return steps


def _step(head: nn.Module, x: Tensor) -> Callable[[], object]:
    with torch.inference_mode():
        _, state = head(x)

    def run() -> None:
        with torch.inference_mode():
            head(x, state)

    return run


@contextmanager
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
