"""Figures against scikit-learn, and videos that cannot be read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from pipeline.datasets.annotations import VideoRow
from pipeline.errors import UserError
from pipeline.evaluation import Evaluation, VideoResult, evaluate_model, wilson_interval
from pipeline.protocols import ProtocolResult
from tests.small import small_experiment, small_model

LABELS = tuple(f"class {i}" for i in range(8))


def random_results(count: int = 200) -> tuple[Evaluation, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 7, count)  # class 7 has no videos
    scores = rng.dirichlet(np.ones(8), count)
    scores[np.arange(count), truth] += rng.random(count) * 0.5
    scores /= scores.sum(axis=1, keepdims=True)
    results = tuple(
        VideoResult(f"{i}.mp4", LABELS[t], LABELS[s.argmax()], tuple(s))
        for i, (t, s) in enumerate(zip(truth, scores, strict=True))
    )
    return Evaluation(LABELS, results), truth, scores


def test_figures_agree_with_scikit_learn() -> None:
    evaluation, truth, scores = random_results()
    predicted = scores.argmax(axis=1)
    assert evaluation.top1 == pytest.approx(accuracy_score(truth, predicted))
    assert evaluation.top5 == pytest.approx(top_k_accuracy_score(truth, scores, k=5, labels=range(8)))
    assert evaluation.mean_class_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted))
    np.testing.assert_array_equal(evaluation.confusion.numpy(), confusion_matrix(truth, predicted, labels=range(8)))
    assert evaluation.class_recall["class 7"] is None


def test_an_unreadable_video_is_an_error_and_stays_in_the_denominator() -> None:
    evaluation, _truth, _scores = random_results()
    bad = tuple(VideoResult(f"bad{i}.mp4", "class 0", None, (), "decode: broken") for i in range(50))
    worse = Evaluation(LABELS, evaluation.results + bad)
    assert (worse.num_videos, worse.num_errors) == (250, 50)
    assert worse.top1 == pytest.approx(evaluation.top1 * 200 / 250)
    assert worse.top5 == pytest.approx(evaluation.top5 * 200 / 250)
    assert worse.class_recall["class 0"] < evaluation.class_recall["class 0"]  # type: ignore[operator]


def test_evaluating_a_folder_with_a_broken_video(motion_root: Path, tmp_path: Path) -> None:
    good = next((motion_root / "test" / "grows").iterdir())
    shutil.copy(good, tmp_path / good.name)
    (tmp_path / "broken.mp4").write_bytes(good.read_bytes()[:200])
    rows = [VideoRow(path, "class 1", path.name) for path in sorted(tmp_path.iterdir())]
    evaluation = evaluate_model(small_model(), rows, small_experiment(motion_root, tmp_path).data)
    by_name = {Path(result.path).name: result for result in evaluation.results}
    assert by_name["broken.mp4"].predicted is None
    assert by_name["broken.mp4"].error
    assert by_name[good.name].predicted in LABELS
    assert evaluation.num_videos == 2


def test_what_cannot_be_evaluated_is_refused(motion_root: Path, tmp_path: Path) -> None:
    data = small_experiment(motion_root, tmp_path).data
    with pytest.raises(UserError, match="labels the model does not know: jumping"):
        evaluate_model(small_model(), [VideoRow(tmp_path / "x.mp4", "jumping", "x")], data)
    with pytest.raises(UserError, match="no videos to evaluate"):
        evaluate_model(small_model(), [], data)


def test_wilson_agrees_with_scipy() -> None:
    for successes, trials in [(0, 10), (7, 10), (55, 60), (60, 60)]:
        theirs = binomtest(successes, trials).proportion_ci(method="wilson")
        assert wilson_interval(successes, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_a_protocol_counts_each_video_once() -> None:
    evaluation, _truth, _scores = random_results()
    halves = ProtocolResult((Evaluation(LABELS, evaluation.results[:50]), Evaluation(LABELS, evaluation.results[50:])))
    assert halves.whole.top1 == pytest.approx(evaluation.top1)
    assert halves.summary()["num_folds"] == 2
    assert halves.summary()["top1_low"] < evaluation.top1 < halves.summary()["top1_high"]
