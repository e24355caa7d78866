"""On a GPU tensors lie on one device, and a training step never waits for it: found by shapes, without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorDeviceMismatchError
from torch.autograd.function import BackwardCFunction

from pipeline.config import ModelConfig, TransformConfig
from pipeline.datasets.videos import ClipBatch
from pipeline.models.backbones import BACKBONES, BUNDLED_BACKBONE
from pipeline.models.recognizer import Recognizer
from pipeline.models.scan_orders import SCAN_ORDERS
from pipeline.models.temporal import fast
from pipeline.models.temporal.stack import TEMPORAL_HEADS
from pipeline.training.module import ClipClassifier, parameter_groups
from pipeline.transforms.augmentation import TrainTransform
from pipeline.transforms.crops import draw_boxes, resize_crops
from tests.fake_cuda import CUDA, backward, fake_cuda
from tests.small import small_experiment, without_repeats

SIDE = 8
SMALL: dict[str, Any] = {"backbone": "pixels_4x4", "weights": "none", "hidden_channels": 4}
# torchvision's, then timm's.
PUBLISHED = ["resnet18", "squeezenet1_1", "tinynet_e", "resnet10t", "test_vit", "test_maxvit"]


def build(num_pictures: int = 1, size_px: int = SIDE, **model: Any) -> Recognizer:
    return Recognizer(ModelConfig(**(SMALL | model)), 3, input_size_px=size_px, num_pictures=num_pictures)


def learn(recognizer: Recognizer, clips: Tensor) -> list[Any]:
    """One backward pass; all weights get a gradient, which torch allows on their own device alone."""
    scores = recognizer.train()(clips)
    assert scores.shape == (2, 3)
    assert scores.device == CUDA
    nodes = backward(scores.square().sum())
    without = [name for name, weight in recognizer.named_parameters() if weight.grad is None]
    assert not without
    return nodes


def stream(recognizer: Recognizer) -> None:
    state = None
    features = recognizer.eval().embed(torch.rand(2, 3, SIDE, SIDE, device="cuda"))
    for _ in range(2):
        scores, state = recognizer.score(features.unsqueeze(1), state)
        assert scores.shape == (2, 1, 3)
        assert scores.device == CUDA


FORMS: list[dict[str, Any]] = [
    *({"heads": (name,)} for name in TEMPORAL_HEADS),
    *({"heads": (name,), "bidirectional": True} for name in TEMPORAL_HEADS),
    *({"heads": (name,), "norm": "group"} for name in ("convlstm", "convgru", "convmingru")),
    *({"heads": (head,), "scan": order} for order in SCAN_ORDERS for head in ("convgru", "gru")),
    {"heads": ("convgru",), "reset_after": False},
    {"heads": ("convgru", "change", "gru"), "checkpoint_steps": 2, "readout": "mean", "classifier_batch_norm": True},
]


@pytest.mark.parametrize("model", FORMS, ids=lambda model: "-".join(map(str, model.values())))
def test_every_head_learns_and_streams_on_the_device_of_its_input(model: dict[str, Any]) -> None:
    recognizer = build(**model)
    with fake_cuda(recognizer) as gpu:
        nodes = learn(recognizer, torch.rand(2, 3, 3, SIDE, SIDE, device="cuda"))
        assert not any(isinstance(node, BackwardCFunction) for node in nodes)  # the forms for a CPU
        if recognizer.temporal.streams:
            stream(recognizer)
        assert not gpu.waits


@pytest.mark.parametrize("name", [*BACKBONES, BUNDLED_BACKBONE, *PUBLISHED])
def test_every_kind_of_backbone_learns_on_the_device_of_its_input(name: str) -> None:
    recognizer = build(backbone=name, heads=("mean",), size_px=64)
    without_repeats(recognizer.backbone)
    with fake_cuda(recognizer) as gpu:
        learn(recognizer, torch.rand(2, 2, 3, 64, 64, device="cuda"))
        assert not gpu.waits


@pytest.mark.parametrize("input", ["rgb", "rgb_diff", "rgb+rgb_diff"])
@pytest.mark.parametrize(
    "augmentation",
    [
        {"grayscale": 0.5, "cutout_px": 4},
        {"min_crop_area": 1.0, "brightness": 0, "contrast": 0, "saturation": 0},
        {"min_crop_area": 1.0, "crop_padding_px": 2},
    ],
    ids=["resized", "fixed", "padded"],
)
def test_transforms_and_inputs(input: Any, augmentation: dict[str, Any]) -> None:
    config = TransformConfig(fit_size_px=SIDE + 4, input_size_px=SIDE, input=input, **augmentation)
    recognizer = build(config.num_pictures, rgb_diff_scale=1.0 if input == "rgb" else 2.0)
    transform = TrainTransform(config, recognizer.backbone.normalization)
    with fake_cuda(recognizer) as gpu:
        frames = torch.zeros(2, 3 + config.lookback_frames, 3, SIDE + 4, SIDE + 4, dtype=torch.uint8, device="cuda")
        clips = transform.train(frames)
        for given in (clips, transform.evaluate(frames)):
            assert (given.device, given.dtype) == (CUDA, torch.float32)
            assert given.shape == (2, 3, 3 * config.num_pictures, SIDE, SIDE)
        learn(recognizer, clips)
        assert not gpu.waits


def test_pictures_are_resized_in_float32_whatever_the_precision_of_the_network() -> None:
    with fake_cuda():
        frames = torch.zeros(2, 3, 3, 12, 12, dtype=torch.uint8, device="cuda")
        boxes = draw_boxes(2, TransformConfig(fit_size_px=12, input_size_px=8), CUDA)
        torch.set_autocast_enabled("cuda", True)
        try:
            assert torch.einsum("bc,dc->bd", boxes.float(), boxes.float()).dtype != torch.float32
            assert resize_crops(frames, boxes, boxes[0] > 1, 8).dtype == torch.float32
        finally:
            torch.set_autocast_enabled("cuda", False)


def optimizer_of(module: ClipClassifier) -> torch.optim.Optimizer:
    config = module.experiment.training
    groups = parameter_groups(module.recognizer, config)
    return torch.optim.AdamW(groups) if config.optimizer == "adamw" else torch.optim.SGD(groups, momentum=0.9)


STEPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mixup": {"mixup_alpha": 0.5},
    "cutmix": {"cutmix_alpha": 0.5},
    "frames drawn, SGD": {"train_frames": 2, "optimizer": "sgd"},
    "frozen": {"backbone_lr_scale": 0.0},
}


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("training", STEPS.values(), ids=STEPS.keys())
def test_a_training_step_never_waits(training: dict[str, Any]) -> None:
    """Loss, backward pass, clipping and step. The one exception is deliberate, and comes last: the loss is read."""
    experiment = small_experiment(Path(), Path(), **training)
    weights = None if training else torch.tensor([0.5, 1.0, 1.5])
    module = ClipClassifier(experiment, 3, weights)
    frames = torch.zeros(4, 4, 3, 40, 40, dtype=torch.uint8)
    with fake_cuda(module) as gpu:
        optimizer = optimizer_of(module)
        batch = ClipBatch(frames, torch.arange(4) % 3, torch.arange(4), ()).to("cuda", non_blocking=True)
        loss = module.training_step(batch, 0)
        assert loss is not None
        backward(loss)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        assert not gpu.waits
        with pytest.raises(AssertionError, match="waits for a number"):
            module.on_after_backward()


def test_the_hand_written_derivative_stays_on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU takes it; but it makes no tensor on another device than its input's."""
    monkeypatch.setattr(fast, "applies", lambda head, x: True)
    recognizer = build(heads=("convgru",))
    with fake_cuda(recognizer) as gpu:
        # Two steps: with three the weights are brought into the order of the CPU's library.
        nodes = learn(recognizer, torch.rand(2, 2, 3, SIDE, SIDE, device="cuda"))
        assert any(isinstance(node, BackwardCFunction) for node in nodes)
        assert not gpu.waits


@pytest.mark.parametrize(
    "mix",
    [
        lambda there, here: there + here,
        lambda there, here: there[torch.arange(2), here.long()] @ here,
        lambda there, here: torch.cat([there, here]),
        lambda there, here: nn.Linear(2, 2)(there),
    ],
)
def test_a_mix_of_devices_is_found(mix: Callable[[Tensor, Tensor], Tensor]) -> None:
    with fake_cuda(), pytest.raises((FakeTensorDeviceMismatchError, RuntimeError), match="device"):
        mix(torch.rand(2, 2, device="cuda"), torch.rand(2, 2))


@pytest.mark.parametrize(
    "wait",
    [
        lambda there: there.cpu(),
        lambda there: there.add_(torch.rand(2).to("cuda")),
        lambda there: there.copy_(torch.rand(2)),
        lambda there: torch.tensor([1.0, 2.0], device=there.device),
        lambda there: there.new_tensor([1.0, 2.0]),
        lambda there: there.sum().item(),
        lambda there: bool((there > 0).all()),
        lambda there: there.tolist(),
        lambda there: there[there > 0],
        lambda there: there.nonzero(),
        lambda there: there.unique(),
    ],
)
def test_a_wait_is_found(wait: Callable[[Tensor], object]) -> None:
    with fake_cuda() as gpu:
        there = torch.rand(2, device="cuda")
        try:
            wait(there)
        except (AssertionError, DynamicOutputShapeException):
            return
        assert gpu.waits
