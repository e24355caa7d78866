"""The exact frames of a video that make its clips, and the worst clips of a diagnosis, as contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.checkpoint import ModelFile
from pipeline.config import ClipSettings
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.videos import ChooseClips, SampleKey, fixed_clips, random_clip
from pipeline.decode import VideoOpener
from pipeline.diagnosis import Diagnosis
from pipeline.files.writing import write_atomically
from pipeline.report.sheet import SheetRow, bars_and_curve, contact_sheet
from pipeline.sampling import grid_range, grid_seconds
from pipeline.schema import to_json
from pipeline.transforms.frames import fit_frames

_NUM_TRAINING_DRAWS = 3
DIAGNOSIS_FILES = ("diagnosis.json", "diagnosis.png", "hardest.png", "confident_errors.png")


def sampling_sheet(model: ModelFile, path: Path, seed: int) -> bytes:
    """A PNG with a row for each evaluation clip of a video and for some training clips, each frame with its time.

    Raises:
        DecodeError: the video cannot be read.
    """
    row = VideoRow(path, "", path.name)
    rows = _clip_rows(model, row, fixed_clips, SampleKey(0, 0), seed, "evaluation")
    for epoch in range(_NUM_TRAINING_DRAWS):
        rows += _clip_rows(model, row, random_clip, SampleKey(epoch, 0), seed, f"training, epoch {epoch + 1}")
    sampling = model.sampling
    title = f"{path.name}: {sampling.num_frames} frames at {sampling.sample_fps:g} a second, {sampling.mode}"
    return contact_sheet(rows, title)


def _clip_rows(
    model: ModelFile, row: VideoRow, choose: ChooseClips, key: SampleKey, seed: int, name: str
) -> list[SheetRow]:
    """The clips of a video as the data stage reads them, with the time of each frame."""
    settings = ClipSettings(model.decode, model.sampling, model.transform, seed=seed)
    fps, sheet = model.sampling.sample_fps, []
    with VideoOpener(model.decode) as opener, opener.open(row.source) as reader:
        end_seconds = min(row.end_seconds or reader.info.duration_seconds, reader.info.duration_seconds)
        grid = grid_range(fps, row.start_seconds, end_seconds)
        for number, clip in enumerate(choose(grid, key, settings), start=1):
            shown = reader.at(grid_seconds(clip, fps))
            notes = [f"{seconds:.2f} s" for seconds in shown.pts_seconds.tolist()]
            fitted = fit_frames(shown.frames, model.transform, reader.info.sample_aspect_ratio)
            pictures = fitted.permute(0, 2, 3, 1)  # [T, 3, S, S] -> [T, S, S, 3]
            sheet.append(SheetRow(f"{name}, clip {number}", pictures.numpy(), notes))
    return sheet


def write_diagnosis(
    diagnosis: Diagnosis, model: ModelFile, rows: Sequence[VideoRow], folder: Path, num_clips: int = 8
) -> list[Path]:
    """Writes the figures, a picture of them, and contact sheets of the hardest clips and the most confident errors.
    Returns what it wrote."""
    summary = diagnosis.summary()
    shares = {name: (row["accuracy"], row["low"], row["high"]) for name, row in summary["accuracy_by_order"].items()}
    curve = {float(seen): accuracy for seen, accuracy in summary["accuracy_by_fraction_seen"].items()}
    verdict = "the order of frames matters to it" if summary["uses_time"] else "the order of frames does not matter"
    by_path = {str(row.path): row for row in rows}
    files: dict[str, bytes | str] = {
        "diagnosis.json": to_json(summary, indent=1),
        "diagnosis.png": bars_and_curve(shares, curve, f"{summary['num_videos']} videos: {verdict}"),
    }
    for name, places in (
        ("hardest.png", diagnosis.hardest(num_clips)),
        ("confident_errors.png", diagnosis.most_confident_errors(num_clips)),
    ):
        if places:
            sheet = [_result_row(diagnosis, model, by_path[diagnosis.paths[place]], place) for place in places]
            files[name] = contact_sheet(sheet, name.removesuffix(".png").replace("_", " "))
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def _result_row(diagnosis: Diagnosis, model: ModelFile, row: VideoRow, place: int) -> SheetRow:
    scores = diagnosis.by_order["as filmed"][place]
    best, own = int(scores.argmax()), int(diagnosis.truth[place])
    labels = diagnosis.labels
    name = row.name or row.path.name
    caption = f"{name}: {labels[own]} ({scores[own]:.0%}), right"
    if best != own:
        caption = f"{name}: {labels[own]} ({scores[own]:.0%}), taken for {labels[best]} ({scores[best]:.0%})"
    one_clip = replace(model, sampling=replace(model.sampling, num_eval_clips=1))
    (clip,) = _clip_rows(one_clip, row, fixed_clips, SampleKey(0, 0), 0, name)
    return replace(clip, caption=caption)
