"""The instrument on models whose use of time is known."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from pipeline.checkpoint import ModelFile, save_model
from pipeline.cli import main
from pipeline.confidence import mcnemar_p_value
from pipeline.config import DataConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.formats import read_annotations
from pipeline.diagnosis import ORDERS, Diagnosis, diagnose
from pipeline.errors import UserError
from tests.small import small_model

LABELS = ("class 0", "class 1", "class 2")


def labelled_rows(motion_root: Path) -> list[VideoRow]:
    rows = read_annotations(DataConfig(root=str(motion_root))).splits["test"][:6]
    return [replace(row, label=LABELS[place % 3]) for place, row in enumerate(rows)]


def diagnosis_of(motion_root: Path, file: ModelFile, seed: int = 0) -> Diagnosis:
    return diagnose(file, labelled_rows(motion_root), DataConfig(num_workers=0, batch_size=4), seed=seed)


def test_a_frame_average_is_blind_to_order(motion_root: Path) -> None:
    found = diagnosis_of(motion_root, small_model(heads=("mean",)))
    filmed = found.by_order["as filmed"]
    for name in ("shuffled", "reversed"):
        torch.testing.assert_close(found.by_order[name], filmed, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found.by_order["one frame"], filmed, atol=1e-5)
    assert found.summary()["lost_by_shuffling"] == 0
    assert not found.uses_time()


@pytest.mark.parametrize("input", ["rgb", "rgb_diff"])
def test_each_order_is_the_model_on_clips_in_that_order(motion_root: Path, input: str) -> None:
    file = small_model(heads=("convgru",))
    file = replace(file, transform=replace(file.transform, input=input))
    found = diagnosis_of(motion_root, file)
    clips = clips_of(motion_root, file)
    length = clips.shape[1]
    expected = {
        "as filmed": score(file, clips),
        "reversed": score(file, clips.flip(1)),
        "one frame": score(file, clips[:, [length // 2] * length]),
        "frame average": torch.stack([score(file, clips[:, [k] * length]) for k in range(length)]).mean(0),
    }
    for name, scores in expected.items():
        torch.testing.assert_close(found.by_order[name], scores, atol=1e-5, rtol=1e-4)
    assert set(found.by_order) == set(ORDERS)
    torch.testing.assert_close(found.by_fraction[1.0], expected["as filmed"], atol=1e-5, rtol=1e-4)


def clips_of(motion_root: Path, file: ModelFile) -> Tensor:
    """Each video's evaluation clip, from its frames by time."""
    from pipeline.decode import open_video
    from pipeline.sampling import evaluation_clips, grid_range, grid_seconds
    from pipeline.transforms.frames import fit_frames

    sampling, clips = replace(file.sampling, num_eval_clips=1), []
    for row in labelled_rows(motion_root):
        with open_video(row.path) as reader:
            grid = grid_range(sampling.sample_fps, 0.0, reader.info.duration_seconds)
            (clip,) = evaluation_clips(grid, sampling, file.transform.frames_for(sampling.num_frames))
            clips.append(fit_frames(reader.at(grid_seconds(clip, sampling.sample_fps)).frames, file.transform))
    return torch.stack(clips)


@torch.inference_mode()
def score(file: ModelFile, clips: Tensor) -> Tensor:
    from pipeline.transforms.frames import ClipTransform

    return file.recognizer(ClipTransform(file.transform, file.normalization).evaluate(clips)).softmax(-1)


def test_flicker_counts_changes_of_the_best_label(motion_root: Path) -> None:
    file = small_model(heads=("gru",))
    found = diagnosis_of(motion_root, file)
    assert found.flicker is not None
    with torch.inference_mode():
        steps = [
            score_prefixes.argmax(-1)
            for score_prefixes in (score(file, clips_of(motion_root, file)[:, :length]) for length in range(1, 5))
        ]
    changes = sum((a != b).float() for a, b in pairwise(steps)) / 3
    assert found.flicker == pytest.approx(float(changes.mean()) * file.sampling.sample_fps)
    assert diagnosis_of(motion_root, small_model(heads=("gru",), bidirectional=True)).flicker is None


def made(filmed_right: list[bool], shuffled_right: list[bool]) -> Diagnosis:
    def scores(right: list[bool]) -> Tensor:
        return torch.tensor([[0.9, 0.1] if is_right else [0.2, 0.8] for is_right in right])

    by_order = {name: scores(filmed_right) for name in ORDERS} | {"shuffled": scores(shuffled_right)}
    count = len(filmed_right)
    names, seen = tuple(str(place) for place in range(count)), {1.0: by_order["shuffled"]}
    return Diagnosis(("a", "b"), torch.zeros(count, dtype=torch.int64), by_order, seen, 0, 0, names)


def test_the_verdict_is_mcnemars_test() -> None:
    assert made([True] * 10, [True] * 5 + [False] * 5).uses_time()
    assert not made([True] * 10, [True] * 6 + [False] * 4).uses_time()
    assert not made([True] * 5 + [False] * 5, [False] * 5 + [True] * 5).uses_time()
    for gained, lost in ((5, 0), (9, 2), (3, 3), (0, 4), (0, 0)):
        expected = binomtest(gained, gained + lost, alternative="greater").pvalue if gained + lost else 1.0
        assert mcnemar_p_value(gained, lost, one_sided=True) == pytest.approx(expected)


def test_hardest_and_most_confident_errors() -> None:
    found = made([True, False, True, False], [True] * 4)
    found.by_order["as filmed"][3] = torch.tensor([0.4, 0.6])
    assert found.hardest(3) == [1, 3, 0]
    assert found.most_confident_errors(3) == [1, 3]


def test_unknown_labels_and_unreadable_videos(motion_root: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    bad = VideoRow(tmp_path / "bad.mp4", "class 0", "bad")
    data = DataConfig(num_workers=0)
    assert diagnose(small_model(), [*labelled_rows(motion_root), bad], data).num_errors == 1
    with pytest.raises(UserError, match="none of the 1 videos can be read"):
        diagnose(small_model(), [bad], data)
    with pytest.raises(UserError, match="labels the model does not know"):
        diagnose(small_model(), [replace(bad, label="other")], data)


def test_the_commands_write_pictures(motion_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tuple(sorted(path.name for path in (motion_root / "test").iterdir()))
    model = replace(small_model(len(labels)), labels=labels)
    save_model(tmp_path / "model.safetensors", model)
    data = ["--data.root", str(motion_root), "--data.num_workers", "0"]
    assert main(["diagnose", str(tmp_path / "model.safetensors"), *data, "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((tmp_path / "diagnosis" / "diagnosis.json").read_text())
    assert set(summary["accuracy_by_order"]) == set(ORDERS)
    for name in ("diagnosis.png", "hardest.png", "confident_errors.png"):
        assert (tmp_path / "diagnosis" / name).read_bytes().startswith(b"\x89PNG")
    video = str(labelled_rows(motion_root)[0].path)
    picture = tmp_path / "sampling.png"
    assert main(["explain-sampling", str(tmp_path / "model.safetensors"), video, "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["explain-sampling", str(tmp_path / "model.safetensors"), str(tmp_path / "absent.mp4")]) == 2
