"""Ports of the loopback that are free."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return the number of a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
