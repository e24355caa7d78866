"""Cores and memory that this process may use, with a container's limits, which usual calls overlook."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
# Parameters of glibc's mallopt: how much free memory at the end makes it give that back, and how many blocks may be
# mapped on their own.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def num_cores() -> int:
    """Cores that this process may use, whole ones and at least 1: those it is bound to, or fewer by a container's quota
    (``docker run --cpus``, a Kubernetes limit)."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(bound, int(core_quota() or bound)))


def num_processes(wanted: int | None = None) -> int:
    """Processes for work that decodes: as wanted, else one a core, 8 at most."""
    return wanted or min(num_cores(), 8)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread for a while: in a chain of small products threads mostly wait for one another."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def core_quota() -> float | None:
    """Cores that a container may use on average, from cgroups of version 2 or 1; None where there is no limit."""
    quota, period = [*_words(_CGROUP / "cpu.max"), "", ""][:2]
    if not quota:
        quota, period = (" ".join(_words(_CGROUP / "cpu" / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    if not (quota.isdigit() and period.isdigit()):  # max, -1, or no container
        return None
    return int(quota) / int(period)


def free_memory_bytes() -> int | None:
    """Memory that can be had without swapping, within the container's limit; None where the system does not say."""
    known = [free for free in (_free_of_machine(), _free_of_container()) if free is not None]
    return min(known, default=None)


def pick_device(name: str | torch.device) -> torch.device:
    """Return the device of that name that torch computes on; ``auto`` is the GPU if there is one.

    Raises:
        UserError: torch has no such device here; says which it has.
    """
    import torch

    here = _torch_devices()
    if name == "auto":
        return torch.device("cuda" if "cuda" in here else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or (f"{device.type}:{device.index}" if device.index else device.type) not in here:
        raise UserError(
            f"device {str(name)!r}: torch {torch.__version__} has {', '.join(here)} here; choose one of these, or auto"
        )
    return device


def _torch_devices() -> list[str]:
    import torch

    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "xpu": torch.xpu.device_count()}
    counts["mps"] = int(torch.backends.mps.is_available())
    return [f"{kind}:{index}" if index else kind for kind, count in counts.items() for index in range(count)]


def keep_freed_memory() -> bool:
    """Lets this process keep the memory that it frees, up to 2 GiB, for what it asks for next; whether that could be
    set (on Linux with glibc). For training on a CPU: glibc gives every block of 32 MiB or more back to the system when
    it is freed, and each step's activations then are mapped anew, page by page. EfficientNet-Lite0 learned from 95
    instead of 73 frames a second at 128 px (two cores, small pages)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def _free_of_machine() -> int | None:
    lines = _MEMINFO.read_text().splitlines() if _MEMINFO.exists() else []
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kilobytes[0]) * 1024 if kilobytes else None


def _free_of_container() -> int | None:
    limit = " ".join(_words(_CGROUP / "memory.max"))
    counts = _words(_CGROUP / "memory.stat")
    held = dict(zip(counts[::2], counts[1::2], strict=False))
    if not limit.isdigit() or "anon" not in held:
        return None
    # What caches files does not count: it gives way.
    return max(0, int(limit) - int(held["anon"]) - int(held.get("shmem", 0)))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
