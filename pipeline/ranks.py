"""Several processes that train or evaluate as one, over devices and machines: who is who, and how they agree.

Lightning starts the processes, or finds those that torchrun or SLURM started; PyTorch's process group carries what they
say to each other (NCCL between GPUs, gloo between CPUs). With one device there is one rank, and nothing here costs it
anything.
"""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.config import MachineConfig
from pipeline.errors import UserError

T = TypeVar("T")
# How long the other processes may take to end once the first one has nothing more to do.
_END_SECONDS = 20.0


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together. Every method but ``refuse`` is to be called by all of them, at the
    same point of their work."""

    index: int = 0
    """Number of this rank among all, from 0."""
    count: int = 1
    """Number of ranks."""
    local_index: int = 0
    """Number of this rank among those on this machine, from 0."""
    local_count: int = 1
    """Number of ranks on this machine."""
    device: torch.device | None = None
    """Device that this rank computes on; None when it is alone and may choose."""

    @property
    def is_first(self) -> bool:
        """True for the rank that speaks for all: it writes the files and prints."""
        return self.index == 0

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in their order, on every rank."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks, on each of them; ``values`` stays as it is."""
        if self.count == 1:
            return values
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def largest(self, value: int) -> int:
        """The largest of the ranks' values."""
        if self.count == 1:
            return value
        values = torch.tensor([value], device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def wait(self) -> None:
        """Wait until all ranks are here. Raises ``RuntimeError`` after ``machine.timeout_seconds``."""
        self.gather(None)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Make files that all use: the first rank of each machine runs the block, then the others, who find it done."""
        if self.local_index > 0:
            self.wait()
        try:
            yield
        finally:
            if self.local_index == 0:
                self.wait()

    @contextmanager
    def agreement(self) -> Iterator[None]:
        """Do what one rank alone may refuse, such as where a disk is not mounted: then all end, with its message."""
        error: UserError | None = None
        try:
            yield
        except UserError as caught:
            if self.count == 1:
                raise
            error = caught
        found = [(index, other) for index, other in enumerate(self.gather(error)) if other is not None]
        if found:
            index, other = found[0]
            self.refuse(other if index == 0 else UserError(f"in process {index} of {self.count}: {other}"))

    def refuse(self, error: UserError) -> NoReturn:
        """Ends all ranks, which all found the same: the first one raises the error, the others end in silence.

        Their exit code is 0, because whoever started them would kill the first one, perhaps before it has spoken.
        """
        if self.is_first:
            raise error
        raise SystemExit(0)


ALONE = Ranks()


def current_rank() -> int:
    """This process's index among those that were joined; 0 if it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def join(config: MachineConfig) -> Ranks:
    """Starts or meets the other processes, if the settings ask for more than one. May be called again.

    Where nobody else started them (torchrun, SLURM), the other processes of this machine run this process's own command
    line once more: whatever it does before this call they do too.

    Raises:
        UserError: the devices are not there, or others started another number of processes.
    """
    count = config.devices * config.num_nodes
    started = int(os.environ.get("WORLD_SIZE", 1)) if dist.is_torchelastic_launched() else count
    if started != count:
        raise UserError(
            f"torchrun started {started} processes, and the settings ask for {count}: set machine.devices to the "
            "processes of one machine and machine.num_nodes to the machines"
        )
    if count == 1:
        return ALONE
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    for name in ("lightning.fabric", "lightning.pytorch"):  # they announce each process
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=DDPStrategy(timeout=timedelta(seconds=config.timeout_seconds)),
        )
        if not dist.is_initialized():
            fabric.launch()
            atexit.register(_leave, getattr(fabric.strategy.launcher, "procs", ()))
        else:
            fabric.strategy.setup_environment()
    except (MisconfigurationException, ValueError) as error:
        raise UserError(
            f"machine.devices {config.devices} on machine.accelerator {config.accelerator}: {error}"
        ) from error
    return Ranks(dist.get_rank(), dist.get_world_size(), fabric.local_rank, config.devices, fabric.device)


def _leave(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """At the end: lets go of the others, who then know (and whose threads might crash an interpreter that ends), and
    sees that no process outlives the one that started it."""
    if dist.is_initialized():
        dist.destroy_process_group()
    for process in processes:
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:  # noqa: PERF203
            process.kill()
