"""Settings as earlier versions wrote them, under the names of this one: for model files, configs and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import UserError

_BLOCKS = {"trainer": "machine"}
_RENAMED = {
    "transform": {"representation": "input"},
    "model": {
        "change_gain": "rgb_diff_scale",
        "read": "scan",
        "output_norm": "classifier_batch_norm",
        "recompute_steps": "checkpoint_steps",
    },
    "training": {"backbone_learning_rate_ratio": "backbone_lr_scale", "frames_per_clip": "train_frames"},
    "machine": {"tensorboard": "logger"},
}
_NEW_VALUES: dict[tuple[str, str], dict[Any, Any]] = {  # by the old name
    ("transform", "representation"): {"difference": "rgb_diff", "rgb_and_difference": "rgb+rgb_diff"},
    ("model", "read"): {"frames": "none"},
    ("model", "output_norm"): {"none": False, "batch": True},
    ("machine", "tensorboard"): {False: "none", True: "tensorboard"},
    ("model", "backbone"): {"whitened": "resnet9_whitened"},
}
# Settings that are gone, and the value that every model has now.
_GONE = {("model", "pooling"): "mean", ("machine", "strategy"): "ddp"}
_GONE_VALUES = {("model", "feature_norm"): ("power",), ("model", "heads"): ("max", "moments")}

_OPTIONS = {  # of predict
    "isolate": "decode.isolate true",
    "allow_url": "decode.allow_url true",
    "timeout_seconds": "decode.timeout_seconds",
}


def new_option(option: str) -> str | None:
    """Return the spelling of an option that had another in earlier versions, such as ``--decode.isolate true`` of
    ``--isolate``; None if it had no other."""
    block, _, name = option.removeprefix("--").rpartition(".")
    block = _BLOCKS.get(block, block)
    if not block:
        return f"--{_OPTIONS[name]}" if name in _OPTIONS else None
    new = f"--{block}.{_RENAMED.get(block, {}).get(name, name)}"
    return new if new != option else None


def with_new_names(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return settings by block, as a file of any version has them, under this version's names.

    Args:
        settings: block to its settings, such as ``{"model": {"read": "rows"}}``; other values stay.
        where: the file, for errors.

    Raises:
        UserError: a setting has a value that went with version 0.9.
    """
    blocks = {_BLOCKS.get(block, block): values for block, values in settings.items()}
    return {
        block: _renamed(block, values, where) if isinstance(values, Mapping) else values
        for block, values in blocks.items()
    }


def _renamed(block: str, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = {}
    for name, value in settings.items():
        _refuse_gone(block, name, value, where)
        if (block, name) not in _GONE:
            new_name = _RENAMED.get(block, {}).get(name, name)
            new_values = _NEW_VALUES.get((block, name), {})
            found[new_name] = new_values.get(value, value) if isinstance(value, str | bool) else value
    return found


def _refuse_gone(block: str, name: str, value: object, where: str) -> None:
    values: Sequence[object] = value if isinstance(value, list | tuple) else [value]
    for each in values:
        is_gone = each in _GONE_VALUES.get((block, name), ()) or each != _GONE.get((block, name), each)
        if is_gone:
            raise UserError(
                f"{where}: {block}.{name} {each} went with version 0.9, as measurements found it worth nothing. "
                "Train again with what is left, or use the version that wrote the file"
            )
