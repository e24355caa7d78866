"""Backbones of torchvision and timm, by their names there: any image network that gives features of places, and
torchvision's video networks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import partial

import timm
import torchvision
from huggingface_hub.errors import GatedRepoError

from pipeline.config import VIDEO_BACKBONES
from pipeline.errors import UserError
from pipeline.models.backbone import Backbone, NoMapError
from pipeline.models.layouts import NO_CLASS_TOKEN
from pipeline.models.timm_networks import timm_backbone
from pipeline.models.torchvision_networks import torchvision_backbone
from pipeline.models.video_networks import trained_size_px, video_backbone

# What networks raise that do not take a picture of that size, or give something else than features of places.
_UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def published_backbone(
    name: str,
    weights: str,
    own_names: Sequence[str] = (),
    *,
    size_px: int,
    frame_vector: str = "mean",
    num_frames: int = 1,
) -> Backbone:
    """The network of that name, looked up in torchvision, then in timm.

    Args:
        name: as torchvision or timm has it.
        weights: ``default`` (the publisher's, downloaded once to the cache of torch or of the hub), ``none`` (random),
            or a path to a state dict.
        own_names: other names, for a guess at what was meant.
        size_px: side of its pictures.
        frame_vector: as ``ModelConfig.frame_vector``.
        num_frames: of a video network, those that it reads at once.

    Raises:
        UserError: unknown name, unfitting weights, no network, or no feature map of such pictures.
    """
    build: Callable[[str, str, int, str], Backbone] = torchvision_backbone
    if name in VIDEO_BACKBONES:
        build = partial(video_backbone, num_frames=num_frames)
    elif name not in torchvision_names():
        if re.fullmatch(r"\w[\w.]{0,99}", name) is None or not timm.is_model(name):  # timm takes more for an address
            raise _unknown(name, own_names)
        build = timm_backbone
    try:
        return build(name, weights, size_px, frame_vector)
    except GatedRepoError as error:
        raise UserError(
            f"the weights of {name!r} are gated: accept their licence on their page on the hub, then log in with hf "
            "auth login; or use other weights: none, bundled or a file"
        ) from error
    except OSError as error:  # urllib's and the hub's errors for a missing network are OSErrors
        raise UserError(
            f"cannot download the weights of {name!r} ({error}); go online, or use weights: none, bundled or a file"
        ) from error
    except _UNFIT as error:
        raise _unfit(name, size_px, error, num_frames) from error


def torchvision_names() -> list[str]:
    """Return the names of torchvision's networks for pictures."""
    return torchvision.models.list_models(module=torchvision.models)  # type: ignore[no-any-return]


def _unknown(name: str, own_names: Iterable[str]) -> UserError:
    known = dict.fromkeys([*own_names, *torchvision_names(), *VIDEO_BACKBONES, *timm.list_models()])
    close = get_close_matches(name[:100], known, n=3)
    guess = f" Did you mean {', '.join(close)}?" if close else ""
    return UserError(
        f"unknown backbone {name[:100]!r}.{guess} Any image network of torchvision or timm will do, for example "
        "resnet18, and torchvision's video networks; clipgru backbones lists them"
    )


def _unfit(name: str, size_px: int, error: BaseException, num_frames: int) -> UserError:
    """The reason why a network cannot be used, and one that most likely can: of its own size, or of another family."""
    if str(error) == NO_CLASS_TOKEN:
        return UserError(f"model.backbone {name} and model.frame_vector class_token: {error}")
    why = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    if name in VIDEO_BACKBONES:
        return UserError(
            f"backbone {name!r} cannot be used with {num_frames} pictures of {size_px}x{size_px} at once: {why}; its "
            f"weights are of transform.input_frames {VIDEO_BACKBONES[name]} and transform.input_size_px "
            f"{trained_size_px(name)}"
        )
    known = timm.get_pretrained_cfg(name)
    trained_px = known.input_size[-1] if known and not isinstance(error, NoMapError) else size_px
    size = f"set transform.input_size_px {trained_px}, which it was trained with, or " if trained_px != size_px else ""
    family = _family(name)
    others = [other for other in timm.list_models() if _family(other) != family]
    near = get_close_matches(name, others, n=1, cutoff=0)[0]
    return UserError(
        f"backbone {name!r} cannot be used with pictures of {size_px}x{size_px}: {why}; {size}choose another, such as "
        f"{near}"
    )


def _family(name: str) -> str:
    """The module that a network of timm comes from."""
    return str(timm.model_entrypoint(name).__module__) if timm.is_model(name) else name
