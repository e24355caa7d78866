"""Cores and memory, with and without a container's limits."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import machine
from pipeline.config import Experiment
from pipeline.datasets import datamodule

BOUND = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1.0),
        ({"cpu.max": "99900000 100000"}, 999.0),
    ],
)
def test_a_containers_quota_counts(
    files: dict[str, str], quota: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.core_quota() == quota
    assert machine.num_cores() == max(1, min(BOUND, int(quota or BOUND)))
    assert machine.num_processes(3) == 3
    assert machine.num_processes() == min(machine.num_cores(), 8)


def test_free_memory_is_what_machine_and_container_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    assert machine.free_memory_bytes() is None
    (tmp_path / "meminfo").write_text("MemTotal: 2000 kB\nMemAvailable:    1000 kB\n")
    assert machine.free_memory_bytes() == 1_024_000
    (tmp_path / "memory.stat").write_text("anon 300000\nfile 500000\nshmem 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory_bytes() == 1_024_000
    (tmp_path / "memory.max").write_text("900000\n")
    assert machine.free_memory_bytes() == 500_000


def test_batches_ahead_fit_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment()
    size, frames = experiment.transform.fit_size_px, experiment.sampling.num_frames
    batch_bytes = experiment.data.batch_size * frames * 3 * size * size

    def ahead(free_bytes: int | None, workers: int = 2) -> int:
        monkeypatch.setattr(datamodule, "free_memory_bytes", lambda: free_bytes)
        return datamodule.num_prefetched(experiment.clips, workers)

    assert ahead(None) == 2
    assert ahead(10**12) == 4
    assert ahead(10 * 2 * batch_bytes * 3) == 3
    assert ahead(10 * 2 * batch_bytes * 3, workers=3) == 2
    assert ahead(0) == 1
    experiment = replace(experiment, data=replace(experiment.data, batch_size=1))
    assert ahead(10 * 2 * batch_bytes) == 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize("keeps", [True, False])
def test_freed_memory_is_kept(keeps: bool) -> None:
    """Another process, since the setting lasts: large blocks asked for again are not mapped again, page by page."""
    code = f"""
import resource, torch
from pipeline.machine import keep_freed_memory
if {keeps}: assert keep_freed_memory()
def step(): return [torch.ones(16_000_000), torch.ones(9_000_000), torch.ones(12_000_000)]
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): step()
before = faults()
for _ in range(5): step()
print(faults() - before)
"""
    environment = os.environ | {"THP_MEM_ALLOC_ENABLE": "0"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    num_pages = 5 * 4 * 37_000_000 // os.sysconf("SC_PAGE_SIZE")
    assert int(run.stdout) < num_pages // 10 if keeps else int(run.stdout) > num_pages // 2
