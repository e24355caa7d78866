"""Temperature, threshold and calibration error against scipy and torchmetrics; who applies them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torchmetrics.functional.classification import multiclass_calibration_error

from pipeline.calibration import (
    KEPT_SHARE,
    MEASURES,
    UNCALIBRATED,
    Calibration,
    fit_calibration,
    fit_temperature,
    reliability,
    threshold_of,
)
from pipeline.checkpoint import load_model_file, save_model
from pipeline.config import DataConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.errors import UserError
from pipeline.evaluation import Evaluation, evaluate_model
from pipeline.inference import Model
from tests.small import small_model
from tests.test_checkpoint import rewrite


def drawn(temperature: float, num_clips: int = 4000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right about their classes once divided by ``temperature``."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 2, (num_clips, 5))
    shares = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    truth = [rng.choice(5, p=row) for row in shares]
    return torch.tensor(honest * temperature, dtype=torch.float32), torch.tensor(truth)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_logits_is_found(temperature: float) -> None:
    logits, truth = drawn(temperature)
    found = fit_temperature(logits, truth)
    assert found == pytest.approx(temperature, rel=0.06)

    def loss(t: float) -> float:
        z = logits.double().numpy() / t
        z -= z.max(axis=1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        return float(-log_p[np.arange(len(z)), truth].mean())

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded")
    assert found == pytest.approx(best.x, rel=0.01)  # of 4,000 clips, the two that Platt adds weigh little
    calibrated, before = (
        reliability(reading.probabilities(logits), truth).expected_error
        for reading in (Calibration(found), UNCALIBRATED)
    )
    assert calibrated < 0.03
    assert calibrated <= before + 0.01


def test_clips_that_are_all_right_do_not_make_the_model_certain() -> None:
    logits = torch.eye(4).repeat(5, 1) * 3
    probabilities = Calibration(fit_temperature(logits, torch.arange(4).repeat(5))).probabilities(logits)
    torch.testing.assert_close(probabilities.max(dim=1).values, torch.full((20,), 21 / 22), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_calibration_error_is_that_of_torchmetrics(scale: float) -> None:
    logits, truth = drawn(1.0, 500, seed=3)
    probabilities = (logits * scale).softmax(dim=1)
    theirs = multiclass_calibration_error(probabilities, truth, num_classes=5, n_bins=15, norm="l1")
    found = reliability(probabilities, truth)
    assert found.expected_error == pytest.approx(float(theirs), abs=1e-5)
    assert int(found.counts.sum()) == 500


def test_the_threshold_keeps_its_promise_on_new_clips() -> None:
    """A new clip passes with the promised probability, over draws of the clips that set the threshold."""
    generator = torch.Generator().manual_seed(0)
    kept = []
    for _ in range(4000):
        values = torch.randn(30, generator=generator)
        threshold = threshold_of(values[:29])
        assert threshold is not None
        kept.append(float(values[29] >= threshold))
    assert np.mean(kept) == pytest.approx(KEPT_SHARE, abs=0.015)
    assert threshold_of(torch.randn(8)) is None  # eight clips can promise nothing


@pytest.mark.parametrize("measure", MEASURES)
def test_each_measure_tells_the_strange_from_the_known(measure: str) -> None:
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * 0.5
    truth = torch.arange(200) % 5
    known = logits + 6 * torch.nn.functional.one_hot(truth, 5)
    calibration = fit_calibration(known, truth, measure)
    assert calibration.is_unknown(known).float().mean() <= 1 - KEPT_SHARE
    assert calibration.is_unknown(logits).float().mean() > 0.95
    assert not replace(calibration, unknown_threshold=None).is_unknown(logits).any()


def test_the_file_holds_it_and_files_without_it_load(tmp_path: Path) -> None:
    calibration = Calibration(1.7, "energy", 2.5)
    save_model(tmp_path / "m.safetensors", replace(small_model(), calibration=calibration))
    assert load_model_file(tmp_path / "m.safetensors").calibration == calibration

    def forget(description: dict[str, object]) -> dict[str, object]:
        later = ("calibration", "sha256")
        return {name: value for name, value in description.items() if name not in later} | {"format": 1}

    rewrite(tmp_path / "m.safetensors", forget)
    assert load_model_file(tmp_path / "m.safetensors").calibration == UNCALIBRATED
    rewrite(tmp_path / "m.safetensors", lambda d: d | {"calibration": {"unknown_measure": "guess"}})
    with pytest.raises(UserError, match="guess"):
        load_model_file(tmp_path / "m.safetensors")


def test_windows_streams_and_evaluation_read_logits_alike(motion_root: Path) -> None:
    """All by the naive formula, from the logits of the network itself."""
    (video,) = (motion_root / "untrimmed").glob("*.mp4")
    plain = small_model(heads=("gru",))
    raw = [prediction.top_k for prediction in Model(plain).predict(video, top_k=3)]
    threshold = float(np.median([max(score**0.5 for _, score in top) / sum(s**0.5 for _, s in top) for top in raw]))
    model = Model(replace(plain, calibration=Calibration(2.0, "max_probability", threshold)))
    predictions = list(model.predict(video, top_k=3))
    for top, prediction in zip(raw, predictions, strict=True):
        total = sum(score**0.5 for _, score in top)  # at temperature 2 probabilities go as their square roots
        for (label, score), (expected_label, expected) in zip(prediction.top_k, top, strict=True):
            assert label == expected_label
            assert score == pytest.approx(expected**0.5 / total, abs=1e-4)
        if abs(prediction.score - threshold) > 1e-5:
            assert prediction.is_unknown == (prediction.score < threshold)
    assert {prediction.is_unknown for prediction in predictions} == {True, False}


def test_evaluation_says_what_the_calibration_did(motion_root: Path) -> None:
    rows = [
        VideoRow(path, f"class {number % 3}", path.name)
        for number, path in enumerate(sorted((motion_root / "test").rglob("*.*"))[:6])
    ]
    plain = small_model(heads=("gru",))
    sharp = replace(plain, calibration=Calibration(0.05, "max_probability", 1.1))  # nothing is known
    found = {name: evaluated(model, rows) for name, model in {"plain": plain, "sharp": sharp}.items()}
    assert found["sharp"].summary()["calibration_error_before"] == pytest.approx(
        found["plain"].summary()["calibration_error"], abs=1e-6
    )
    assert found["sharp"].top1 == found["plain"].top1
    assert max(found["sharp"].results[0].probabilities) > max(found["plain"].results[0].probabilities)
    assert (found["plain"].known_share, found["sharp"].known_share) == (1.0, 0.0)


def evaluated(model: object, rows: list[VideoRow]) -> Evaluation:
    return evaluate_model(model, rows, DataConfig(num_workers=0), num_clips=1)  # type: ignore[arg-type]
