"""Every backbone by name, and what is known of it: parameters and work at a size, licence and gating of its weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import VIDEO_BACKBONES
from pipeline.errors import UserError
from pipeline.models.backbones import BACKBONES, BUNDLED_BACKBONE, build_backbone
from pipeline.models.published import torchvision_names
from pipeline.models.video_networks import trained_size_px

# The hub hands these out to those alone who accepted their terms there.
_GATED_LICENCES = frozenset(("gemma",))
_UNGATED_OWNER = "timm/"


@dataclass(frozen=True)
class _BackboneFacts:
    """A name for ``model.backbone``, and what is known of it and its weights; None: not known, or not measured."""

    name: str
    source: str
    """clipgru, torchvision or timm."""
    has_weights: bool
    trained_size_px: int | None = None
    """Side of the pictures that the weights were trained on."""
    licence: str | None = None
    """Of the weights, as their publisher's library says."""
    is_gated: bool | None = None
    """True if the weights are given to those alone who accept their terms on the hub."""
    num_frames: int = 1
    """Frames that it reads at once: of a video network as many as its weights were trained on."""
    num_parameters: int | None = None
    gflops: float | None = None
    """Billions of operations for one picture, or the ``num_frames`` of a video network; a multiplication and an
    addition are two."""
    features: tuple[int, int, int] | None = None
    """Channels, rows and columns of the map of one picture."""
    why_not: str | None = None
    """The reason why it cannot be used at that size."""


def find_backbones(word: str) -> list[_BackboneFacts]:
    """Return the backbones that have a word in their name; all for an empty one.

    Raises:
        UserError: there is none; names a word that looks like it.
    """
    names = _all_names()
    found = [_facts(name, source) for name, source in names.items() if word.lower() in name]
    if not found:
        words = dict.fromkeys(part for name in names for part in re.split(r"[_.]", name))
        close = get_close_matches(word[:100].lower(), [*words, *names], n=1, cutoff=0.5)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(f"no backbone has {word[:100]!r} in its name.{guess} Without a word, all are listed")
    return found


def measured(facts: _BackboneFacts, size_px: int) -> _BackboneFacts:
    """Return the facts with parameters and work at a size. The network is built without memory; nothing is computed."""
    try:
        with torch.device("meta"):
            backbone = build_backbone(facts.name, "none", size_px=size_px, num_frames=facts.num_frames)
            backbone.requires_grad_(False)
            with FlopCounterMode(display=False) as counter:
                _, channels, rows, columns = backbone.look(size_px).shape
    except UserError as error:
        return replace(facts, why_not=str(error))
    return replace(
        facts,
        num_parameters=sum(weight.numel() for weight in backbone.parameters()),
        gflops=counter.get_total_flops() / 1e9,
        features=(channels, rows, columns),
    )


def _all_names() -> dict[str, str]:
    """Name -> where it is looked up: in this order, as ``build_backbone`` does."""
    with_weights = timm.list_models(pretrained=True)
    without_tags = {name.partition(".")[0] for name in with_weights}
    bare = [name for name in timm.list_models() if name not in without_tags]
    names: dict[str, str] = {}
    for source, some in (
        ("clipgru", [*BACKBONES, BUNDLED_BACKBONE]),
        ("torchvision", [*torchvision_names(), *VIDEO_BACKBONES]),
        ("timm", [*with_weights, *bare]),
    ):
        names |= {name: source for name in some if name not in names}
    return names


def _facts(name: str, source: str) -> _BackboneFacts:
    if name == BUNDLED_BACKBONE:
        return _BackboneFacts(name, source, True, 224, "apache-2.0", is_gated=False)
    if name in VIDEO_BACKBONES:
        size_px, num_frames = trained_size_px(name), VIDEO_BACKBONES[name]
        return _BackboneFacts(name, source, True, size_px, is_gated=False, num_frames=num_frames)
    if source != "timm":
        return _BackboneFacts(name, source, source == "torchvision", is_gated=False)
    known = timm.get_pretrained_cfg(name)
    if known is None or not known.has_weights:
        return _BackboneFacts(name, source, has_weights=False)
    owner, licence = known.hf_hub_id or "", known.license
    is_gated = True if licence in _GATED_LICENCES else False if owner.startswith(_UNGATED_OWNER) or not owner else None
    return _BackboneFacts(name, source, True, int(known.input_size[-1]), licence, is_gated)


def _trained_at(facts: _BackboneFacts) -> str:
    frames = f"{facts.num_frames} x " if facts.num_frames > 1 else ""
    return f"{frames}{facts.trained_size_px} px" if facts.trained_size_px else "?"


def as_table(backbones: Sequence[_BackboneFacts]) -> list[str]:
    """Return the backbones as lines, a head first; those that cannot be used end with the reason."""
    columns: dict[str, Callable[[_BackboneFacts], str]] = {
        "name": lambda facts: facts.name,
        "from": lambda facts: facts.source,
        "trained at": _trained_at,
        "licence": lambda facts: facts.licence or "?",
        "gated": lambda facts: {True: "yes", False: "no", None: "?"}[facts.is_gated],
    }
    if any(facts.num_parameters or facts.why_not for facts in backbones):
        columns |= {
            "parameters": lambda facts: f"{(facts.num_parameters or 0) / 1e6:.1f} M",
            "GFLOPs": lambda facts: f"{facts.gflops or 0:.2f}",
            "map": lambda facts: "x".join(map(str, facts.features or ())),
        }
    rows = [list(columns), *([cell(facts) for cell in columns.values()] for facts in backbones)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines[:1] + [
        f"{facts.name}: {facts.why_not}" if facts.why_not else line
        for line, facts in zip(lines[1:], backbones, strict=True)
    ]
