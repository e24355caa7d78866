"""Figures against scikit-learn, and videos that cannot be read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from pipeline.checkpoint import load_model_file
from pipeline.confidence import wilson_interval, with_unseen
from pipeline.config import DataConfig, Experiment
from pipeline.datasets.annotations import VideoRow
from pipeline.errors import UserError
from pipeline.evaluation import Evaluation, VideoResult, evaluate_model
from pipeline.protocols.clips import (
    BASELINE,
    EvaluationSettings,
    FoldResult,
    ProtocolResult,
    frame_average,
    run_protocol,
)
from pipeline.protocols.folds import PROTOCOLS
from pipeline.protocols.running import MODEL
from tests.small import small_experiment, small_model

LABELS = tuple(f"class {i}" for i in range(8))
SCORES = (0.125,) * 8


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


def test_a_bootstrap_is_widened_by_what_it_cannot_see() -> None:
    """Where all are right, or all wrong, it is Wilson's interval; a wrong answer never makes it promise more."""
    for trials in (1, 5, 12, 300):
        assert with_unseen((1.0, 1.0), 1.0, trials) == pytest.approx(wilson_interval(trials, trials))
        assert with_unseen((0.0, 0.0), 0.0, trials) == pytest.approx(wilson_interval(0, trials))
    assert with_unseen((0.875, 1.0), 11.5 / 12, 12)[0] < with_unseen((1.0, 1.0), 1.0, 12)[0]
    assert with_unseen((0.3, 0.7), 0.5, 100) == (0.3, 0.7)
    low, high = with_unseen((0.0, 0.0), 0.0, 20, lowest=-1.0)  # of a difference: nobody differed
    assert low == -high == pytest.approx(-wilson_interval(0, 20)[1])


def test_two_seeds_without_an_error_promise_no_certainty() -> None:
    results = [VideoResult(f"{i}", LABELS[0], LABELS[0], SCORES) for i in range(12)]
    kinds = [(MODEL, 0), (MODEL, 1), (BASELINE, 0), (BASELINE, 1)]
    summary = ProtocolResult(tuple(as_fold(results, *key) for key in kinds)).summary()
    assert (summary["top1_low"], summary["top1_high"]) == pytest.approx(wilson_interval(12, 12))
    assert summary["gain_low"] < 0 < summary["gain_high"]


def as_fold(results: Sequence[VideoResult], kind: str = MODEL, seed: int = 0, fold: int = 1) -> FoldResult:
    return FoldResult(kind, seed, fold, Evaluation(LABELS, tuple(results)))


def test_a_protocol_counts_each_video_once() -> None:
    evaluation, _truth, _scores = random_results()
    halves = ProtocolResult((as_fold(evaluation.results[:50]), as_fold(evaluation.results[50:], fold=2)))
    assert halves.whole().top1 == pytest.approx(evaluation.top1)
    summary = halves.summary()
    assert (summary["num_folds"], summary["num_seeds"]) == (2, 1)
    right = sum(result.predicted == result.label for result in evaluation.results)
    assert (summary["top1_low"], summary["top1_high"]) == wilson_interval(right, evaluation.num_videos)
    assert "gain" not in summary


def test_several_seeds_and_the_baseline() -> None:
    answers = {  # right or wrong by video: two seeds of the model, two of the frame average
        (MODEL, 0): [1] * 60 + [0] * 40,
        (MODEL, 1): [1] * 80 + [0] * 20,
        (BASELINE, 0): [1] * 50 + [0] * 50,
        (BASELINE, 1): [1] * 50 + [0] * 50,
    }
    folds = [
        as_fold(
            [VideoResult(f"{i}", LABELS[0], LABELS[0 if right else 1], SCORES) for i, right in enumerate(row)], *key
        )
        for key, row in answers.items()
    ]
    summary = ProtocolResult(tuple(folds)).summary()
    assert summary["top1"] == pytest.approx(0.7)
    assert summary["seed_deviation"] == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert summary["frame_average_top1"] == pytest.approx(0.5)
    assert summary["gain"] == pytest.approx(0.2)
    shares = (np.array(answers[MODEL, 0]) + answers[MODEL, 1]) / 2
    theirs = bootstrap((shares,), np.mean, method="percentile", rng=0).confidence_interval
    assert (summary["top1_low"], summary["top1_high"]) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    gains = shares - answers[BASELINE, 0]
    theirs = bootstrap((gains,), np.mean, method="percentile", rng=0).confidence_interval
    assert (summary["gain_low"], summary["gain_high"]) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_the_frame_average_sees_single_pictures(motion_root: Path, tmp_path: Path) -> None:
    experiment = small_experiment(motion_root, tmp_path)
    experiment = replace(experiment, transform=replace(experiment.transform, input="rgb_diff"))
    baseline = frame_average(experiment)
    assert (baseline.model.heads, baseline.transform.input) == (("mean",), "rgb")
    assert baseline.training == experiment.training


def test_the_own_split_with_two_seeds_and_the_frame_average(motion_root: Path, tmp_path: Path) -> None:
    experiment = small_experiment(motion_root, tmp_path, epochs=1)
    (fold,) = PROTOCOLS["own_split"](experiment)
    got = list(run_protocol(experiment, "own_split", num_seeds=2, baseline=True, quiet=True))
    assert [(result.kind, result.seed) for result in got] == [(MODEL, 0), (BASELINE, 0), (MODEL, 1), (BASELINE, 1)]
    for result in got:
        assert [video.path for video in result.evaluation.results] == [str(row.path) for row in fold.test]
    first, _, second, _ = (result.evaluation.results for result in got)
    assert first[0].probabilities != second[0].probabilities


def test_a_protocol_asks_its_models_as_told(motion_root: Path, tmp_path: Path) -> None:
    experiment = small_experiment(motion_root, tmp_path, epochs=1)
    settings = EvaluationSettings(num_clips=2, mirror=True)
    (got,) = run_protocol(experiment, "own_split", evaluation=settings, quiet=True)
    (fold,) = PROTOCOLS["own_split"](experiment)
    model = load_model_file(next(experiment.run_dir.rglob("model.safetensors")))
    told, plain = (evaluate_model(model, fold.test, experiment.data, **how) for how in (asdict(settings), {}))
    assert got.evaluation.results == told.results != plain.results
    with pytest.raises(UserError, match="folds of other settings"):
        list(run_protocol(experiment, "own_split", quiet=True))


def test_official_splits_where_there_are_none(motion_root: Path, tmp_path: Path) -> None:
    experiment = small_experiment(motion_root, tmp_path)
    experiment = replace(experiment, data=replace(experiment.data, format="folder", root=str(motion_root / "train")))
    with pytest.raises(UserError, match="no official splits; use the protocol own_split"):
        list(run_protocol(experiment, "official_splits"))


def test_all_official_splits_are_folds(tmp_path: Path) -> None:
    names = [f"Walk/v_Walk_g{group:02d}_c01.avi" for group in range(1, 5)]
    lists = {"classInd.txt": "1 Walk\n"}
    for number in range(1, 4):
        lists[f"trainlist0{number}.txt"] = "".join(f"{name} 1\n" for name in names if name != names[number])
        lists[f"testlist0{number}.txt"] = f"{names[number]}\n"
    for name, text in (lists | dict.fromkeys(names, "")).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    experiment = Experiment(data=DataConfig(format="ucf101", root=str(tmp_path), split=2))
    folds = PROTOCOLS["official_splits"](experiment)
    assert [[row.name for row in fold.test] for fold in folds] == [[name] for name in names[1:]]
    assert [len(fold.train) for fold in folds] == [3, 3, 3]
