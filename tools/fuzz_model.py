"""Changes a model file and its exported ONNX files in many ways, loads each and lets it predict: nothing may end in a
traceback, take long, take much memory, or give other scores unsaid.

    python tools/fuzz_model.py --mutations 1000 --output benchmarks

The seed and a mutation's number decide all. An accident leaves the checksum as it was: the file must be refused in one
line, or, where nothing that counts was changed, give the scores that it gave. A forgery has a checksum that fits; it
may be a model of another kind, and then its scores are its own, but the rest holds as well. Each file is loaded, and
reads the same pictures, in a fork of this process, which has imported much and used nothing.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from random import Random
from time import monotonic
from types import ModuleType
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lies import model_files, onnx_files  # noqa: E402

# Much of it so that no fork has to; not onnxruntime, which starts a thread.
import pipeline.checkpoint  # noqa: E402
import pipeline.inference.onnx_runtime  # noqa: E402
import pipeline.inference.torch_runtime  # noqa: E402
import pipeline.models.published  # noqa: E402, F401
from pipeline.config import InferenceConfig  # noqa: E402
from pipeline.errors import UserError  # noqa: E402
from pipeline.inference import load_model  # noqa: E402

MAX_SECONDS, MAX_BYTES = 20.0, 1_500_000_000
_GUARD_BYTES = 4_000_000_000  # the system kills what asks for more
NUM_PICTURES = 12
SAME, OTHER, REFUSED, FAULTS = "same scores", "other scores", "refused", ("traceback", "died", "late", "large")
FILES = ("model.safetensors", "model.clip.onnx", "model.step.onnx", "model.int8.clip.onnx")


@dataclass(frozen=True)
class Outcome:
    """What became of one changed file."""

    number: int
    file: str
    lie: str
    is_forged: bool
    verdict: str
    """same scores, other scores, refused, traceback, died, late or large."""
    seconds: float
    megabytes: float
    """The most that the process held, the program itself included."""
    said: str

    @property
    def is_wrong(self) -> bool:
        """Whether it is a fault of clipgru's."""
        return self.verdict in FAULTS or (self.verdict == OTHER and not self.is_forged)


def make_files(folder: Path) -> None:
    """A small model on differences of frames, and what ``clipgru export`` makes of it, with 8 bits."""
    from pipeline.checkpoint import ModelFile, load_model_file, save_model
    from pipeline.config import (
        DecodeConfig,
        Experiment,
        ModelConfig,
        SamplingConfig,
        TrainingConfig,
        TransformConfig,
        to_dict,
    )
    from pipeline.export.assembly import assemble, describe_graph
    from pipeline.export.files import export_onnx
    from pipeline.export.int8 import quantize
    from pipeline.export.pieces import example_frames, make_pieces
    from pipeline.inference.onnx_file import sealed
    from pipeline.models.recognizer import Recognizer

    torch.manual_seed(0)
    model = ModelConfig(backbone="tiny", weights="none", heads=("convgru", "gru"), hidden_channels=8)
    sampling, transform = SamplingConfig(5.0, 4), TransformConfig("stretch", 40, 32, "rgb_diff")
    training = TrainingConfig(freeze_batch_norm=False)
    experiment = Experiment(model=model, sampling=sampling, transform=transform, training=training)
    labels = ("opens", "closes", "rests")
    provenance = {"clipgru": "0.1.0", "torch": "2", "python": "3", "experiment": to_dict(experiment)}
    recognizer = Recognizer(model, len(labels)).eval()
    file = ModelFile(recognizer, labels, sampling, transform, DecodeConfig(), provenance, {"val_accuracy": 0.5})
    save_model(folder / FILES[0], file)
    file = load_model_file(folder / FILES[0])
    export_onnx(file, folder / "model")
    small = quantize(file, make_pieces(file), [example_frames(file, 2, sampling.num_frames)])
    graph = assemble(file, small)["clip"]
    describe_graph(graph, file, "clip", small.slots, precision="int8")
    (folder / FILES[3]).write_bytes(sealed(graph.SerializeToString()))


def scores_of(path: Path) -> list[list[float]]:
    """Of each window, or each frame, of pictures that are the same for every file."""
    pictures = np.random.default_rng(0).integers(0, 256, (NUM_PICTURES, 48, 64, 3), dtype=np.uint8)
    model = load_model(path, "cpu")
    frames = np.stack([model.fit(picture, Fraction(1)) for picture in pictures])
    scorer = model.scorer(InferenceConfig(mode="stream" if ".step." in path.name else "windows"))
    return [s.probabilities.tolist() for s in [*scorer.push(model.embedder().push(frames)), *scorer.finish()]]


def mutations(names: Sequence[str]) -> list[tuple[str, str, bool]]:
    """File, lie, whether it is forged: in turn of the files, so that a few mutations have some of each."""
    ways = {name: _ways(module_of(name)) for name in names}
    longest = max(map(len, ways.values()))
    return [(name, *ways[name][place % len(ways[name])]) for place in range(longest) for name in names]


def module_of(name: str) -> ModuleType:
    """The lies of a file's format."""
    return onnx_files if name.endswith(".onnx") else model_files


def _ways(module: ModuleType) -> list[tuple[str, bool]]:
    return [(lie, False) for lie in module.LIES] + [(lie, True) for lie in module.FORGED]


def mutate(content: bytes, name: str, lie: str, is_forged: bool, rng: Random) -> bytes:
    """A file that lies."""
    module = module_of(name)
    for _ in range(20):
        changed: bytes = module.LIES[lie](content, rng)
        changed = module.forged(changed) if is_forged else changed
        if changed != content:
            return changed
    return content


def try_one(path: Path, expected: Sequence[Sequence[float]]) -> tuple[str, float, float, str]:
    """Verdict, seconds, megabytes and what was said, by a fork that loads the file and predicts."""
    said, status, seconds, num_bytes = _ask_fork(path)
    verdict, words = _verdict(said, status, seconds, num_bytes, expected)
    return verdict, round(seconds, 3), round(num_bytes / 1_024_000, 1), words


def _ask_fork(path: Path) -> tuple[bytes, int, float, int]:
    """What a fork says of a file, how it ended, its seconds, and the most bytes that it held."""
    reading, writing = os.pipe()
    start = monotonic()
    child = os.fork()
    if child == 0:
        _tell(writing, path)
    os.close(writing)
    said = b""
    with os.fdopen(reading, "rb") as stream:
        while (left := start + MAX_SECONDS - monotonic()) > 0 and select.select([stream], [], [], left)[0]:
            if not (block := os.read(stream.fileno(), 1 << 16)):
                break
            said += block
    seconds = monotonic() - start
    if seconds >= MAX_SECONDS:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return said, status, seconds, usage.ru_maxrss * 1024


def _tell(writing: int, path: Path) -> None:
    """In the fork: writes what became of the file, and ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    faulthandler.dump_traceback_later(MAX_SECONDS - 1, file=writing)
    resource.setrlimit(resource.RLIMIT_DATA, (_held_bytes() + _GUARD_BYTES,) * 2)
    try:
        answer: dict[str, Any] = {"scores": scores_of(path)}
    except UserError as error:
        answer = {"refused": str(error)}
    except BaseException:  # noqa: BLE001 (whatever it is, it is told)
        answer = {"traceback": traceback.format_exc()}
    os.write(writing, json.dumps(answer).encode())
    os._exit(0)


def _held_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))


def _verdict(
    said: bytes, status: int, seconds: float, num_bytes: int, expected: Sequence[Sequence[float]]
) -> tuple[str, str]:
    if seconds >= MAX_SECONDS:
        return "late", said.decode(errors="replace")
    if status != 0:
        return "died", f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    answer = json.loads(said)
    if num_bytes > MAX_BYTES:
        return "large", json.dumps(answer)[:2000]
    if "traceback" in answer:
        return "traceback", answer["traceback"]
    if "refused" in answer:
        is_line = "\n" not in answer["refused"] and len(answer["refused"]) < 2000
        return (REFUSED if is_line else "traceback"), answer["refused"]
    got = answer["scores"]
    is_same = np.shape(got) == np.shape(expected) and np.allclose(got, expected, rtol=0, atol=1e-5)
    return (SAME, "") if is_same else (OTHER, "")


def fuzz(folder: Path, names: Sequence[str], num_mutations: int, seed: int) -> Iterator[Outcome]:
    """Tries that many changed files."""
    torch.set_num_threads(1)
    expected = {name: _expected(folder / name) for name in names}
    ways = mutations(names)
    with tempfile.TemporaryDirectory() as place:
        for number in range(num_mutations):
            name, lie, is_forged = ways[number % len(ways)]
            content = (folder / name).read_bytes()
            path = Path(place) / name
            path.write_bytes(mutate(content, name, lie, is_forged, Random(f"{seed}/{number}/{name}")))
            outcome = Outcome(number, name, lie, is_forged, *try_one(path, expected[name]))
            yield replace(outcome, said=outcome.said.replace(place, ""))


def _expected(path: Path) -> list[list[float]]:
    """The scores of a file that nobody changed."""
    found: list[list[float]] = json.loads(_ask_fork(path)[0])["scores"]
    return found


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts, and what must be zero."""
    counted = {"accidents": [o for o in outcomes if not o.is_forged], "forgeries": [o for o in outcomes if o.is_forged]}
    return {
        "mutations": len(outcomes),
        **{kind: dict(Counter(o.verdict for o in some)) for kind, some in counted.items()},
        "slowest_seconds": max(o.seconds for o in outcomes),
        "most_megabytes": max(o.megabytes for o in outcomes),
        "tracebacks": sum(o.verdict in ("traceback", "died") for o in outcomes),
        "past_20_seconds": sum(o.verdict == "late" for o in outcomes),
        "past_1500_megabytes": sum(o.verdict == "large" for o in outcomes),
        "accidents_with_other_scores": sum(o.verdict == OTHER for o in counted["accidents"]),
    }


MUST_BE_ZERO = ("tracebacks", "past_20_seconds", "past_1500_megabytes", "accidents_with_other_scores")


_PAGE = """# Model files that lie

{mutations:,} seeded changes of a model file and its exported ONNX files, each loaded and asked for the scores of the
same pictures. An accident leaves the checksum as it was; a forgery has one that fits, and may be another model. Written
by

    python tools/fuzz_model.py --mutations {mutations} --seed {seed} --output benchmarks

| file | change | files | refused | same scores | other scores |
|---|---|---|---|---|---|
{rows}

| must be 0 | |
|---|---|
{zeros}

The slowest took {slowest_seconds:.1f} s. The largest process held {most_megabytes:,.0f} MB, the program
itself included. Forgeries with other scores are weights changed under a new checksum: a model of its own, like one that
somebody trained.
"""


def page(found: dict[str, Any], outcomes: Sequence[Outcome], seed: int) -> str:
    """The record of a run, for people."""
    rows = []
    for name in FILES:
        for is_forged in (False, True):
            some = [o for o in outcomes if o.file == name and o.is_forged == is_forged]
            counts = Counter(o.verdict for o in some)
            kind = "forged" if is_forged else "accident"
            rows.append(f"| {name} | {kind} | {len(some)} | {counts[REFUSED]} | {counts[SAME]} | {counts[OTHER]} |")
    zeros = [f"| {name.replace('_', ' ')} | {found[name]} |" for name in MUST_BE_ZERO]
    return _PAGE.format(rows="\n".join(rows), zeros="\n".join(zeros), seed=seed, **found)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mutations", type=int, default=1000, help="how many changed files to try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=Path, help=f"a folder that has {', '.join(FILES)}; default: made anew")
    parser.add_argument("--output", type=Path, help="folder for fuzz_model.json and fuzz_model.md")
    parser.add_argument("--make", type=Path, help="only make the files, in this folder")
    args = parser.parse_args()
    if args.make:
        make_files(args.make)
        return 0
    with tempfile.TemporaryDirectory() as made:
        folder = args.files or Path(made)
        if not args.files:  # in another process, since a fork of one that has computed may hang
            subprocess.run([sys.executable, __file__, "--make", made], check=True)
        names = [name for name in FILES if (folder / name).exists()]
        outcomes = list(fuzz(folder, names, args.mutations, args.seed))
    found = summary(outcomes)
    print(json.dumps(found, indent=1))
    wrong = [asdict(outcome) for outcome in outcomes if outcome.is_wrong]
    for row in wrong[:20]:
        print(json.dumps(row, indent=1), file=sys.stderr)
    if args.output:
        rows = [asdict(o) | {"said": o.said[:300]} for o in outcomes if o.is_wrong or o.verdict in (SAME, OTHER)]
        (args.output / "fuzz_model.json").write_text(
            json.dumps({"seed": args.seed} | found | {"of_interest": rows}, indent=1) + "\n"
        )
        (args.output / "fuzz_model.md").write_text(page(found, outcomes, args.seed))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
