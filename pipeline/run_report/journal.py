"""Journal of the commands on a run, with time, duration and machine of each: ``commands.jsonl`` in its folder."""

from __future__ import annotations

import json
import os
import platform
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from pipeline.files.writing import LineFile
from pipeline.sources import shown_path
from pipeline.version import __version__

JOURNAL = "commands.jsonl"


def note_command(folder: Path, command: str, args: Sequence[str], began: datetime, outcome: str = "done") -> None:
    """Adds a line to the journal.

    Args:
        folder: the run's.
        command: ``train``, ``evaluate`` or ``diagnose``.
        args: as they were given to it; of addresses the journal has what may be seen.
        began: when, with its time zone.
        outcome: ``done``, or what ended it before.
    """
    line = {
        "command": command_line(command, args),
        "began": began.astimezone(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round((datetime.now(timezone.utc) - began).total_seconds(), 1),
        "outcome": outcome,
        "machine": _describe_machine(),
        "versions": {"clipgru": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    journal = LineFile(folder / JOURNAL, "a")
    journal.write(json.dumps(line, ensure_ascii=False) + "\n")
    journal.close()


def command_line(command: str, args: Sequence[str]) -> str:
    """Return a command as it was given; of addresses what may be seen."""
    return shlex.join(["clipgru", command, *map(_shown, args)])


def _shown(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return option + equals + shown_path(value)


def now() -> datetime:
    """This moment, for ``note_command``."""
    return datetime.now(timezone.utc)


def _describe_machine() -> dict[str, Any]:
    """Facts of the machine that speed depends on; names of hosts and users are left out."""
    gpus = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gb": _memory_gb(),
        "gpus": gpus,
    }


def _processor() -> str:
    """Name of the processor, by Linux; elsewhere by Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_gb() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
