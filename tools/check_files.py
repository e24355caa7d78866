"""Runs at the same moment that write the same files, and disks that are full: is a file ever lost, or half there?

    python tools/check_files.py pairs --pairs 20       # about 40 minutes on two cores
    python tools/check_files.py disks                  # as root: it mounts small disks of memory; about 10 minutes

Of each pair (predict to one file, train of one name, evaluate of one protocol, pool with one journal) one run has to
end with exit code 2 and one line, and what the other writes has to be what a run alone writes. On a full disk each
command that writes has to say so in one line and end with exit code 2, with nothing half-written left; a full cache
alone ends nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

DISKS = ("4k", "300k", "3m")
_SMALL = {
    "data.num_workers": 0,
    "data.batch_size": 8,
    "sampling.sample_fps": 5,
    "sampling.num_frames": 4,
    "transform.fit_size_px": 40,
    "transform.input_size_px": 32,
    "model.backbone": "tiny",
    "model.weights": "none",
    "model.hidden_channels": 8,
    "training.epochs": 1,
    "training.freeze_batch_norm": "false",
}


def prepare(folder: Path) -> list[str]:
    """A small set of videos and a model. Returns the options of a small training on them."""
    from pipeline.datasets.motion import MotionSetConfig, make_motion_set

    config = MotionSetConfig(num_train_clips=3, num_val_clips=1, num_test_clips=2, size_px=48, num_untrimmed=1)
    make_motion_set(folder / "motion", config)
    settings = _SMALL | {"data.root": folder / "motion"}
    options = ["--quiet", *(part for name, value in settings.items() for part in (f"--{name}", str(value)))]
    alone = run(["train", *options, "--output_dir", str(folder), "--name", "model"])
    assert alone.returncode == 0, alone.stderr
    return options


def command(args: Sequence[str]) -> list[str]:
    """The command line of this checkout."""
    return [sys.executable, "-m", "pipeline", *args]


def environment() -> dict[str, str]:
    """One thread a process; the cache of a user is left alone."""
    cache = str(Path(tempfile.gettempdir(), "clipgru-check-files"))
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": cache}


def run(args: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """One run, to its end."""
    return subprocess.run(command(args), capture_output=True, text=True, env=environment())


def digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Name -> digest of what stays the same from run to run; of a model file its weights, as its folder is in it."""
    return {name: hashlib.sha256(_lasting(folder / name)).hexdigest() for name in names}


def _lasting(path: Path) -> bytes:
    if path.suffix != ".safetensors":
        return path.read_bytes()
    from safetensors.numpy import load_file, save

    return save(load_file(path))


def pair_commands(folder: Path, options: Sequence[str], out: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Kind -> what is run, and the files to compare. Where they go is ``out``."""
    model, videos = str(folder / "model" / "model.safetensors"), str(folder / "motion" / "test")
    table = ["--parquet", str(out / "t.parquet"), "--quiet"]
    protocol = ["evaluate", "--protocol", "group_5_fold", "--no_baseline", "--data.val_fraction", "0"]
    here = ["--output_dir", str(out), "--name", "run"]
    return {
        "predict": (["predict", model, videos, "--json", str(out / "a.json"), "--quiet"], ["a.json"]),
        "train": (["train", *options, *here], ["run/model.safetensors"]),
        "evaluate": ([*protocol, *options, *here], ["run/evaluation/videos.csv", "run/evaluation/folds.csv"]),
        "pool": (["predict", model, videos, "--engine", "pool", "--workers", "2", *table], ["t.parquet"]),
    }


def check_pair(args: Sequence[str], folder: Path, names: Sequence[str], expected: dict[str, str]) -> list[str]:
    """What is wrong with a pair of runs at the same moment."""
    both = [
        subprocess.Popen(command(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    refused = [text for process, text in zip(both, said, strict=True) if process.returncode == 2]
    faults = [] if codes == [0, 2] else [f"exit codes {codes}: {said}"]
    faults += [f"says {text!r}" for text in refused if len(text.splitlines()) != 1]
    faults += [] if digests(folder, names) == expected else ["other files than a run alone writes"]
    left = [path.name for path in folder.rglob(".*")]
    return faults + ([f"left behind: {left}"] if left else [])


def check_pairs(num_pairs: int, only: str) -> int:
    """Prints a line a kind. Returns the number of faults."""
    num_faults = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = prepare(folder)
        for kind in filter(lambda kind: only in kind, pair_commands(folder, options, folder)):
            faults = []
            args, names = pair_commands(folder, options, folder / f"{kind}-alone")[kind]
            alone = run(args)
            assert alone.returncode == 0, alone.stderr
            expected = digests(folder / f"{kind}-alone", names)
            for number in range(num_pairs):
                out = folder / f"{kind}-{number}"
                args, names = pair_commands(folder, options, out)[kind]
                faults += check_pair(args, out, names, expected)
            print(f"{kind}: {num_pairs} pairs, {len(faults)} faults", *faults, sep="\n  ", flush=True)
            num_faults += len(faults)
    return num_faults


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of memory with so much room."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def writing_commands(folder: Path, options: Sequence[str], full: Path) -> dict[str, list[str]]:
    """Every command that writes, each to the full disk."""
    model, root, long = (
        str(folder / "model" / "model.safetensors"),
        str(folder / "motion"),
        f"{folder}/motion/untrimmed",
    )
    (video,) = map(str, Path(long).glob("*.mp4"))
    predict = ["predict", model, video, f"{root}/test", "--quiet"]
    commands = {f"predict --{name}": [*predict, f"--{name}", str(full / "out")] for name in _PREDICTIONS}
    config = folder / "shard.yaml"
    config.write_text(json.dumps({"data": {"format": "folder", "root": root}}))
    run_there = ["--output_dir", str(full), "--name", "run"]
    elsewhere = ["--output_dir", str(folder / f"runs-{full.name}"), "--data.cache_dir", str(full)]
    frozen = ["--training.backbone_lr_scale", "0"]
    return commands | {
        "predict --engine pool": [*predict, "--engine", "pool", "--workers", "2", "--parquet", str(full / "t")],
        "train": ["train", *options, *run_there],
        "train, tensorboard": ["train", *options, *run_there, "--machine.logger", "tensorboard"],
        "evaluate --protocol": ["evaluate", "--protocol", "own_split", *options, *run_there],
        "cache frames": ["train", *options, *elsewhere, "--name", "frames", "--data.cache", "frames"],
        "cache features": ["train", *options, *frozen, *elsewhere, "--name", "features", "--data.cache", "features"],
        "check": ["check", f"{root}/test", "--json", str(full / "c.json"), "--csv", str(full / "c.csv"), "--quiet"],
        "doctor": ["doctor", video, "--num_files", "1", "--rounds", "1", "--json", str(full / "d.json"), "--quiet"],
        "webcam": ["webcam", model, video, *_CAMERA, "--record", str(full / "r"), "--stats", str(full / "s.json")],
        "export": ["export", model, "--output", str(full), "--quiet"],
        "explain": ["explain", model, video, "--output", str(full / "e.mp4"), "--quiet"],
        "explain-sampling": ["explain-sampling", model, video, "--output", str(full / "e.png")],
        "evaluate": ["evaluate", model, "--output", str(full / "evaluation"), "--quiet"],
        "diagnose": ["diagnose", model, "--output", str(full / "diagnosis"), "--quiet"],
        "report": ["report", str(folder / "model"), "--output", str(full / "r.html")],
        "learn": [
            "learn",
            f"{root}/train",
            "--num_folds",
            "2",
            "--num_seeds",
            "1",
            "--output",
            str(full / "m"),
            "--quiet",
        ],
        "shard": ["shard", str(config), "--output", str(full / "shards"), "--quiet"],
        "demo": ["demo", "--output_dir", str(full / "demo"), "--quiet"],
    }


_PREDICTIONS = ("json", "csv", "jsonl", "parquet", "stats", "srt", "vtt", "video", "html")
_QUICKLY = ("--num_folds", "2", "--num_seeds", "1", "--quiet")
_CAMERA = ("--replay", "--headless", "--seconds", "4", "--quiet")


def check_full_disk(args: Sequence[str], full: Path, is_cache: bool) -> tuple[str, list[str]]:
    """How a run ended, and what is wrong with that."""
    done = run(args)
    lines = done.stderr.splitlines()
    left = [str(path.relative_to(full)) for path in full.rglob(".*")]
    faults = [f"left behind: {left}"] if left else []
    if done.returncode != 2 or is_cache:
        faults += [] if done.returncode == 0 else [f"exit code {done.returncode}: {done.stderr[-300:]}"]
        said = sum("nothing more is cached" in line for line in lines)
        return "whole" + (", and said" if said else ""), faults + (["said more than once"] if said > 1 else [])
    is_told = len(lines) == 1 and ": the disk is full: make room" in lines[0]
    return "told", faults + ([] if is_told else [f"says {done.stderr[-500:]!r}"])


def check_disks(sizes: Sequence[str], wanted: str) -> int:
    """Prints a line a disk and command. Returns the number of faults."""
    num_faults = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = prepare(folder)
        for size in sizes:
            for kind in writing_commands(folder, options, folder):
                if wanted not in kind:
                    continue
                with disk(folder / f"{size}-{kind.replace(' ', '-')}", size) as full:
                    args = writing_commands(folder, options, full)[kind]
                    ended, faults = check_full_disk(args, full, "cache" in kind)
                print(f"{size} disk, {kind}: {ended}", *faults, sep="\n  ", flush=True)
                num_faults += len(faults)
    return num_faults


def main() -> int:
    """Ends with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pairs", "disks"))
    parser.add_argument("--pairs", type=int, default=20, help="pairs of each kind")
    parser.add_argument("--disks", nargs="+", default=DISKS, help="sizes of the disks")
    parser.add_argument("--only", default="", help="commands whose name has this in it")
    arguments = parser.parse_args()
    if arguments.what == "pairs":
        return int(check_pairs(arguments.pairs, arguments.only) > 0)
    return int(check_disks(arguments.disks, arguments.only) > 0)


if __name__ == "__main__":
    sys.exit(main())
