"""Times parts of clipgru against what one would use instead, in one run, and writes tables and plots.

    python tools/benchmark.py --groups heads --rounds 9 --output benchmarks

Every table's contestants take turns, in another order each round; times are medians, and a ratio is the median over
rounds of the ratio within a round. Ratios travel to another machine, milliseconds do not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.cli import ENVIRONMENT
from pipeline.machine import keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # for tests.reference, where the slow versions live
os.environ.update(ENVIRONMENT | os.environ)  # before torch reads it
keep_freed_memory()  # both as under the commands that train

import torch  # noqa: E402
from benchmarks.tables import Findings  # noqa: E402
from benchmarks.timing import machine  # noqa: E402

from benchmarks import ceilings, export, heads, precision, start, training, windows  # noqa: E402

# name -> (device, rounds, whether torch.compile can work) -> what was found
GROUPS: dict[str, Callable[[str, int, bool], Findings]] = {
    "heads": heads.measure,
    "ceilings": ceilings.measure,
    "windows": windows.measure,
    "ten_minutes": windows.measure_ten_minutes,
    "lengths": windows.measure_lengths,
    "training": training.measure,
    "precision": precision.measure,
    "export": export.measure,
    "start": start.measure,
}


def write(group: str, found: Findings, device: str, rounds: int, folder: Path) -> None:
    """``<group>.json``, ``<group>.md`` and the plots; those of a GPU are called ``<group>_cuda``."""
    folder.mkdir(parents=True, exist_ok=True)
    name = group if device == "cpu" else f"{group}_{device}"
    on = machine(device)
    record = {"device": device, "rounds": rounds, "machine": on, "tables": found.as_json()}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    where = f"{on['gpu'] or on['cpu']}, {on['threads']} threads, torch {on['torch']}, commit {on['commit']}"
    head = (
        f"Median of {rounds} interleaved rounds; {where}. Written by\n\n    python tools/benchmark.py --groups {group}"
    )
    text = "\n\n".join([f"# {group}", head, *(table.markdown() for table in found.tables)])
    (folder / f"{name}.md").write_text(text + "\n")
    for plot in found.plots:
        plot.draw(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS), help="what to measure")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where")
    parser.add_argument("--rounds", type=int, default=9, help="how often each contestant runs")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "benchmarks", help="folder for the results")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile's rows out; they take minutes")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; leave --device out to measure on the CPU")
    compiles = not args.no_compile and (args.device == "cuda" or shutil.which("g++") is not None)
    for group in args.groups:
        found = GROUPS[group](args.device, args.rounds, compiles)
        write(group, found, args.device, args.rounds, args.output)
        print("\n\n".join(table.markdown() for table in found.tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
