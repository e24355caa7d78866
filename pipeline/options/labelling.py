"""Options of ``clipgru label``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from pipeline.config import DecodeConfig, require


@dataclass(frozen=True)
class LabelOptions:
    """The page, and the help that it gives."""

    model: str | None = None
    """A model file whose answers are the first drafts; unset: stretches in which something moves."""
    order: Literal["useful", "random"] = "useful"
    """The order of offers: the stretch whose label would help most (like much of the rest, unlike what is labelled,
    rare labels and doubts first); random is the control."""
    labels: Literal["one", "several"] | None = None
    """one: stretches of different labels do not overlap; several: they may; unset: as in the manifest."""
    output: str | None = None
    """The model file that Learn writes; unset: model.safetensors in the folder."""
    seed: int = 0
    """Decides weights and chance."""
    serve: str = "127.0.0.1:8000"
    """HOST:PORT of the page; port 0 takes any free one. Needs pip install 'clipgru[serve]'."""
    allow_network: bool = False
    """Serve at an address that other machines reach; they see the videos and change labels without a password."""
    allowed_hosts: tuple[str, ...] = ()
    """HOST or HOST:PORT of a proxy's page, as it stands in the browser; several times for several. No other foreign
    name is answered, also with allow_network."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """Decoding settings, now and in the model file."""
    quiet: bool = False
    """Print nothing but errors."""

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed must not be negative, got {self.seed}")
        for host in self.allowed_hosts:
            is_host = re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?", host, re.ASCII)
            require(bool(is_host), f"--allowed_hosts {host!r}: write HOST or HOST:PORT, such as example.org:8443")
