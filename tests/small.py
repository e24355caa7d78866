"""Small experiments that train in seconds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn
from torch.overrides import TorchFunctionMode

from pipeline.checkpoint import ModelFile
from pipeline.config import (
    DataConfig,
    Experiment,
    ModelConfig,
    Normalization,
    SamplingConfig,
    TrainingConfig,
    TransformConfig,
)
from pipeline.models.backbone import Backbone
from pipeline.models.backbones import BACKBONES
from pipeline.models.recognizer import Recognizer


def small_experiment(motion_root: Path, output_dir: Path, **training: Any) -> Experiment:
    """Five steps an epoch of batches of 8 on the small motion set, with everything that involves chance switched on."""
    return Experiment(
        name="small",
        output_dir=str(output_dir),
        data=DataConfig(format="folder", root=str(motion_root), batch_size=8, num_workers=0),
        sampling=SamplingConfig(sample_fps=5, num_frames=4, num_eval_clips=2),
        transform=TransformConfig(fit_size_px=40, input_size_px=32),
        model=ModelConfig(backbone="tiny", weights="none", heads=("convgru",), hidden_channels=8, dropout=0.2),
        training=TrainingConfig(
            **{
                "epochs": 2,
                "backbone_lr_scale": 1.0,
                "freeze_batch_norm": False,
                "precision": "fp32",  # auto would choose by the processor
                **training,
            }
        ),
    )


def small_model(
    num_classes: int = 3,
    *,
    input: Any = "rgb",
    input_size_px: int | None = None,
    input_frames: int = 1,
    **model: Any,
) -> ModelFile:
    """An untrained model of ``num_classes`` classes. With ``input_frames`` its tiny backbone is a video network."""
    import torch

    torch.manual_seed(0)
    experiment = small_experiment(Path("."), Path("."))
    config = replace(experiment.model, **model)
    labels = tuple(f"class {index}" for index in range(num_classes))
    transform = replace(experiment.transform, input=input, input_frames=input_frames)
    if input_size_px is not None:
        transform = replace(transform, fit_size_px=input_size_px, input_size_px=input_size_px)
    with patch.dict(BACKBONES, {"tiny": partial(tiny_of_clips, input_frames)} if input_frames > 1 else {}):
        recognizer = Recognizer(
            config,
            num_classes,
            input_size_px=transform.input_size_px,
            num_pictures=transform.num_pictures,
            input_frames=input_frames,
        ).eval()
    return ModelFile(recognizer, labels, experiment.sampling, transform, experiment.decode, {"clipgru": "0.0.test"})


def tiny_of_clips(num_frames: int) -> Backbone:
    """Two convolutions over space and time, to which the order of the frames matters."""
    from pipeline.models.video_networks import _ClipFeatures

    network = nn.Sequential(nn.Conv3d(3, 8, 3, stride=(1, 4, 4), padding=1), nn.ReLU(), nn.Conv3d(8, 12, 2, stride=2))
    return Backbone([_ClipFeatures(network, num_frames)], Normalization((0.4,) * 3, (0.2,) * 3), 64, num_frames)


def difference_model() -> ModelFile:
    """One that reads changes from frame to frame, as the shared export has it."""
    return small_model(input="rgb_diff")


class NoDraws(TorchFunctionMode):
    """Weights that are replaced anyway need not be drawn, which takes as long as all else."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("uniform_", "normal_", "erfinv_"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def without_repeats(network: nn.Module) -> nn.Module:
    """In place: of blocks in a row that are alike the first two. More of them take long and show nothing more."""
    for module in list(network.modules()):
        for name, blocks in list(module.named_children()):
            if type(blocks) is nn.Sequential:
                kept: list[nn.Module] = []
                for block in blocks:
                    shapes = _shapes(block)
                    if len(kept) < 2 or not shapes or [shapes] * 2 != [_shapes(other) for other in kept[-2:]]:
                        kept.append(block)
                if len(kept) < len(blocks):
                    setattr(module, name, nn.Sequential(*kept))
    return network


def _shapes(block: nn.Module) -> list[tuple[str, Any]]:
    return [(name, weight.shape) for name, weight in block.named_parameters()]
