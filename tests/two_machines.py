"""torchrun on two machines that meet at this one: ``python -m tests.two_machines WORDS``, the words being torchrun's.

Launchers and workers are forks of this process, which is spared to import torch four times; torchrun itself starts
them as ``python -m pipeline``.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import lightning.pytorch  # noqa: F401 (for the forks)
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

import pipeline.training.fit  # noqa: F401
from pipeline.cli import main as clipgru


def launch(words: Sequence[str]) -> None:
    """What torchrun does on one machine, until its workers are done."""
    config, program, arguments = config_from_args(parse_args(words))
    assert (program, arguments[:3]) == (sys.executable, ["-u", "-m", "pipeline"])
    config.start_method = "fork"
    elastic_launch(config, work)(*arguments[3:])


def work(*words: str) -> None:
    code = clipgru(words)
    if code:
        sys.exit(code)


def main() -> int:
    machines = []
    for _ in range(2):
        machine = os.fork()
        if machine == 0:
            code = 1
            try:
                launch(sys.argv[1:])
                code = 0
            except BaseException:  # noqa: BLE001 (told; then the fork ends here)
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        machines.append(machine)
    codes = [os.waitstatus_to_exitcode(os.waitpid(machine, 0)[1]) for machine in machines]
    return max(codes, key=abs)


if __name__ == "__main__":
    sys.exit(main())
