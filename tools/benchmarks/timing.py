"""Time of several contestants in one run, in interleaved rounds; and what it ran on."""

from __future__ import annotations

import os
import platform
import random
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

Contestants = Mapping[str, Callable[[], object]]
_WARM_UP_ROUNDS = 2


@dataclass(frozen=True)
class Times:
    """Seconds of every round of every contestant."""

    seconds: dict[str, list[float]]

    def milliseconds(self, name: str) -> float:
        """The median round."""
        return 1e3 * median(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> float:
        """How many times as long ``slow`` takes: the median over rounds of the ratio within a round, so that a busy
        spell of the machine, which hits both, cancels out."""
        return median(a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True))

    def share_of_parts(self, whole: str, parts: Sequence[str], *, overlap: bool) -> float:
        """``whole`` over its parts, each timed alone: over their sum, or, where they can overlap, over the longest."""
        by_round: list[tuple[float, ...]] = list(zip(*(self.seconds[part] for part in parts), strict=True))
        alone = [max(seconds) if overlap else sum(seconds) for seconds in by_round]
        return median(a / b for a, b in zip(self.seconds[whole], alone, strict=True))


def interleaved(contestants: Contestants, rounds: int, device: str, *, num_warm_ups: int = _WARM_UP_ROUNDS) -> Times:
    """Runs each contestant once a round, in another order each round."""
    for run in contestants.values():
        for _ in range(num_warm_ups):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in random.Random(turn).sample(list(contestants), len(contestants)):
            seconds[name].append(_seconds_of(contestants[name], device))
    return Times(seconds)


def _seconds_of(run: Callable[[], object], device: str) -> float:
    _wait_for(device)
    start = perf_counter()
    run()
    _wait_for(device)
    return perf_counter() - start


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def machine(device: str) -> dict[str, Any]:
    """Hardware, versions and commit, for the record."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"
