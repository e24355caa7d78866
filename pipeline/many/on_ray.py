"""Workers on a Ray cluster, or on a Ray of this machine alone. Ray Data spreads the files over them.

Each actor has a worker process of its own: a file that ends this process costs neither the actor nor a retry. An actor
that dies itself, with its node or by Ray's memory monitor, is replaced and its file tried again. Ray Data would do so
for ever; here it is three times in all, and then the file's block is given up, which the caller records.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import warnings
from collections.abc import Generator, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.errors import UserError
from pipeline.machine import num_cores
from pipeline.many.job import FileResult, Job, result_of
from pipeline.many.worker import PredictionWorker

_RETRIES_OF_A_LOST_ACTOR = 2
_OBJECT_STORE_BYTES = 200_000_000  # names and rows only
# Ray on other machines is to run torch as here.
_SHARED_ENVIRONMENT = ("OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")


def run_on_ray(job: Job, paths: Sequence[str], num_workers: int | None) -> Generator[FileResult, None, None]:
    """The results as they come. A file whose actor was lost three times has none.

    Args:
        num_workers: actors with a CPU each; unset: all CPUs but one, which Ray Data needs for itself.

    Raises:
        UserError: Ray is not installed, has not that many CPUs, or no file can be worked on like this.
    """
    ray, data = _import("ray"), _import("ray.data")
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, num_workers)
    try:
        num_actors = _num_actors(int(ray.cluster_resources().get("CPU", 0)), num_workers)
        for row in _dataset(data, job, paths, min(num_actors, len(paths))).iter_rows():
            yield result_of(json.loads(row["result"]), "a Ray actor")
    finally:
        if is_ours:
            ray.shutdown()


def _connect(ray: Any, num_workers: int | None) -> None:
    """Connect to the cluster that ``RAY_ADDRESS`` names, else to a new Ray: one found by chance might end before us."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(address=address, **quiet)
        except ConnectionError as error:
            cure = "start it, unset that, or set RAY_AUTH_MODE as it was started"
            raise UserError(f"RAY_ADDRESS={address}: no Ray there that lets us in ({error}); {cure}") from error
        return
    num_cpus = num_workers + 1 if num_workers else max(num_cores(), 2)
    own = {"num_cpus": num_cpus, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    ray.init(address="local", **own, **quiet)


def _num_actors(num_cpus: int, num_workers: int | None) -> int:
    """One CPU stays free: Ray Data waits for ever, and says nothing, where actors take them all."""
    if (num_workers or 1) >= num_cpus:
        raise UserError(
            f"--workers {num_workers or 1}: Ray has {num_cpus} CPUs, and one must stay free; take fewer, or add nodes"
        )
    return num_workers or num_cpus - 1


def _dataset(data: Any, job: Job, paths: Sequence[str], num_actors: int) -> Any:
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # a lost block is a lost file, and no other
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    environment = {name: os.environ[name] for name in _SHARED_ENVIRONMENT if name in os.environ}
    files = data.from_items([json.dumps(path) for path in paths], override_num_blocks=len(paths))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how to limit retries is to change in a later Ray
        return files.map_batches(
            _RayWorker,
            batch_size=1,
            compute=data.ActorPoolStrategy(size=num_actors, max_tasks_in_flight_per_actor=1),
            fn_constructor_args=(job,),
            num_cpus=1,
            num_gpus=1 if job.options.device.startswith("cuda") else 0,
            runtime_env={"env_vars": environment},
            max_restarts=-1,
            max_task_retries=_RETRIES_OF_A_LOST_ACTOR,
        )


class _RayWorker:
    """An actor: it has a worker process, fed with one file at a time."""

    def __init__(self, job: Job) -> None:
        self._job, self._worker = job, PredictionWorker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Names in, results out, both as JSON."""
        return {"result": [self._process(json.loads(name)) for name in batch["item"]]}

    def _process(self, path: str) -> str:
        try:
            self._job.enter_folder()
            return json.dumps(asdict(self._worker.process(path)))
        except UserError as error:  # as a row: Ray Data would drop the block
            return json.dumps({"user_error": str(error)})


def _import(name: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"--engine ray needs Ray Data ({error}); pip install 'clipgru[ray]'") from error
