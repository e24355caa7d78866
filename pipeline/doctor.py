"""``clipgru doctor``: which decoder to use for these files, measured on the files themselves.

The truth is a plain sequential decode by PyAV. Each decoder reads evenly spread and random frames of each file in a
process of its own, so that one that hangs or crashes costs its time and no more; all carry the same overhead.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from pipeline.config import DecodeConfig
from pipeline.decode import DECODERS, VideoOpener
from pipeline.errors import DecodeError, UserError
from pipeline.files.failures import STDOUT
from pipeline.files.writing import write_atomically
from pipeline.found import find
from pipeline.options import DoctorOptions
from pipeline.sampling import spread
from pipeline.schema import to_json
from pipeline.terminal import PlainConsole, say

NUM_UNIFORM, NUM_RANDOM = 16, 8
# Decoders round differently when they convert colours, most of all from 10 bits. So a frame is right if it is nearer to
# the truth than to the frames before and after, and not far from it.
_MAX_MEAN_DIFFERENCE, _TIE = 8.0, 0.01
_COMPARED_SIDE_PX = 160
# PyAV reads everything, so another decoder must be clearly faster to be worth it.
_MIN_GAIN = 1.1


@dataclass
class Findings:
    """Results of one decoder on the files."""

    decoder: str
    num_exact: int = 0
    """Files of which every frame asked for came."""
    num_wrong: int = 0
    """Files of which another frame came."""
    refused: dict[str, str] = field(default_factory=dict)
    """File -> why the decoder does not read it."""
    seconds: dict[str, float] = field(default_factory=dict)
    """File -> median time to open it and read 16 evenly spread frames."""
    peak_memory_mb: float = 0.0
    """Peak memory of the decoding process."""
    missing: str = ""
    """Reason why the decoder is not there; empty if it is."""

    @property
    def frames_per_second(self) -> float:
        """Evenly spread frames read in a second, over all files it reads."""
        return NUM_UNIFORM * len(self.seconds) / sum(self.seconds.values()) if self.seconds else 0.0


@dataclass(frozen=True)
class _DecoderDiagnosis:
    """Everything that was measured, and what to do."""

    num_files: int
    unreadable: dict[str, str]
    """File -> why nothing reads it."""
    findings: tuple[Findings, ...]
    decoder: str
    """The one to use."""
    why: str

    @property
    def snippet(self) -> str:
        """The lines for the experiment's YAML file."""
        isolate = "true  # some files cannot be read; this keeps any that hang from stopping a run"
        return f"decode:\n  decoder: {self.decoder}\n  isolate: {isolate if self.unreadable else 'false'}\n"

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain values."""
        rates = {"frames_per_second": {found.decoder: round(found.frames_per_second, 1) for found in self.findings}}
        return asdict(self) | rates | {"snippet": self.snippet}


@dataclass(frozen=True)
class _Truth:
    """Some frames of a file by plain sequential decode, and their neighbours."""

    path: Path
    uniform: list[int]
    chosen: list[int]
    """These are compared."""
    frames: dict[int, Tensor]
    """Number -> uint8 ``[3, H', W']``, thinned out."""


def diagnose_decoders(files: Sequence[Path], config: DecodeConfig, rounds: int) -> _DecoderDiagnosis:
    """Measures every decoder on the files."""
    truths, unreadable = [], {}
    with VideoOpener(replace(config, decoder="pyav", isolate=True)) as opener:
        for path in files:
            truth = _truth(opener, path)
            if isinstance(truth, str):
                unreadable[str(path)] = truth
            else:
                truths.append(truth)
    findings = tuple(_measure(decoder, truths, config, rounds) for decoder in DECODERS)
    decoder, why = _choose(findings)
    return _DecoderDiagnosis(len(files), unreadable, findings, decoder, why)


def _truth(opener: VideoOpener, path: Path) -> _Truth | str:
    """The truth about a file, or why there is none. Holds the frames wanted, never the whole video."""
    try:
        with opener.open(path) as video:
            num_frames = video.info.num_frames
            uniform = spread(num_frames, NUM_UNIFORM)
            chosen = uniform + random.Random(path.name).choices(range(num_frames), k=NUM_RANDOM)
            wanted = {number + step for number in chosen for step in (-1, 0, 1)}
            kept, sizes = {}, set()
            for number, (frame, _) in enumerate(video):
                sizes.add(frame.shape)
                if number in wanted:
                    kept[number] = _thinned(frame)
        if len(sizes) > 1:
            return "decode: the resolution changes within the file; re-encode it"
        return _Truth(path, uniform, chosen, kept)
    except DecodeError as error:
        return f"{error.stage}: {error.cause}"


def _measure(decoder: str, truths: Sequence[_Truth], config: DecodeConfig, rounds: int) -> Findings:
    found = Findings(decoder)
    with VideoOpener(replace(config, decoder=decoder, isolate=True)) as opener:
        for truth in truths:
            try:
                with opener.open(truth.path) as video:
                    frames = video.frames(truth.chosen).frames
                times = [_seconds(opener, truth) for _ in range(rounds)]
            except DecodeError as error:
                found.refused[str(truth.path)] = error.cause
                continue
            except UserError as error:
                found.missing = str(error)
                return found
            is_exact = all(_is_frame(truth, k, frame) for k, frame in zip(truth.chosen, frames, strict=True))
            found.num_exact += is_exact
            found.num_wrong += not is_exact
            found.seconds[str(truth.path)] = median(times)
        found.peak_memory_mb = opener.peak_memory_mb()
    return found


def _seconds(opener: VideoOpener, truth: _Truth) -> float:
    start = perf_counter()
    with opener.open(truth.path) as video:
        video.frames(truth.uniform)
    return perf_counter() - start


def _thinned(frame: Tensor) -> Tensor:
    """Every n-th pixel each way, ``[3, H, W]`` -> ``[3, H', W']``."""
    step = 1 + min(frame.shape[1:]) // _COMPARED_SIDE_PX
    return frame[:, ::step, ::step].clone()


def _is_frame(truth: _Truth, number: int, frame: Tensor) -> bool:
    own, *others = (
        _difference(_thinned(frame), truth.frames[k]) for k in (number, number - 1, number + 1) if k in truth.frames
    )
    return own < _MAX_MEAN_DIFFERENCE and own <= min(others, default=own) + _TIE


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one.short() - other.short()).abs().float().mean()) if one.shape == other.shape else 255.0


def _choose(findings: Sequence[Findings]) -> tuple[str, str]:
    """The fastest decoder that reads everything, where it is clearly faster than PyAV."""
    pyav = next(found for found in findings if found.decoder == "pyav")
    whole = [found for found in findings if found.seconds and not (found.refused or found.num_wrong or found.missing)]
    best = max(whole, key=lambda found: found.frames_per_second, default=pyav)
    if best.frames_per_second < _MIN_GAIN * pyav.frames_per_second:
        best = pyav
    if best is not pyav:
        return best.decoder, f"exact on every file and {best.frames_per_second / pyav.frames_per_second:.2f} x pyav"
    return "pyav", "exact on every file that can be read, and no other that reads them all is clearly faster"


def run_doctor(paths: Sequence[str], options: DoctorOptions, config: DecodeConfig, console: PlainConsole) -> int:
    """Measures and prints. Returns 0, or 1 if a file cannot be read or comes out wrong."""
    files = list(find(paths).files)
    if not files:
        raise UserError(f"no video found in {', '.join(paths)}")
    chosen = [files[index] for index in spread(len(files), min(options.num_files, len(files)))]
    with Progress(console=console, transient=True, disable=options.quiet or not console.is_terminal) as progress:
        progress.add_task(f"measuring on {len(chosen)} of {len(files)} files", total=None)
        diagnosis = diagnose_decoders(chosen, config, options.rounds)
    if options.json:
        write_atomically(Path(options.json), to_json(diagnosis.to_json(), indent=1) + "\n")
    if not options.quiet:
        _print_diagnosis(diagnosis, console)
    say(diagnosis.snippet.rstrip("\n"), sys.stderr if options.json == STDOUT else sys.stdout)
    return 1 if diagnosis.unreadable or any(found.num_wrong for found in diagnosis.findings) else 0


def _print_diagnosis(diagnosis: _DecoderDiagnosis, console: PlainConsole) -> None:
    """A table of the decoders, the refusals, and the advice."""
    table = Table("decoder", "exact", "wrong", "refused", "frames/s", "peak MB")
    for found in diagnosis.findings:
        if found.missing:
            table.add_row(found.decoder, "not installed")
            continue
        figures = [found.num_exact, found.num_wrong, len(found.refused)]
        rates = [f"{found.frames_per_second:.0f}", f"{found.peak_memory_mb:.0f}"]
        table.add_row(found.decoder, *map(str, figures), *rates)
    console.print(table, soft_wrap=False)
    for path, why in diagnosis.unreadable.items():
        console.print(f"nothing reads {path}: {why}", style="red")
    for found in diagnosis.findings:
        for path, why in found.refused.items():
            console.print(f"{found.decoder} refuses {path}: {why}")
    console.print(f"use {diagnosis.decoder}: {diagnosis.why}")
