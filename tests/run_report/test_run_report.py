"""The page of a run: figures against other people's code, charts and pictures against the numbers and frames."""

from __future__ import annotations

import base64
import html
import json
import re
from collections import Counter
from dataclasses import replace
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torchmetrics.functional.classification import multiclass_calibration_error

from pipeline.cli import main
from pipeline.confidence import mcnemar_p_value
from pipeline.config import DataConfig, DecodeConfig
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.identities import LeftOut
from pipeline.datasets.settled import make_splits
from pipeline.datasets.summary import summarize_splits
from pipeline.decode import open_video
from pipeline.errors import UserError
from pipeline.evaluation import write_evaluation
from pipeline.report.charts import Axis, Series, axis_over
from pipeline.report.templates import template
from pipeline.run_report import page
from pipeline.run_report.clips import NUM_PICTURES, make_thumbnails
from pipeline.run_report.comparison import pair_up
from pipeline.run_report.journal import note_command
from pipeline.run_report.page import write_report
from pipeline.run_report.records import read_curves, read_run
from pipeline.run_report.results import classes_section, headline, reliability_by_score, worst
from tests.report.test_report_page import Elements
from tests.runs import made_results, make_run
from tests.videos import encode, painted_number


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty frames that say their number."""
    path = encode(tmp_path_factory.mktemp("video"), "mpeg4.mp4")
    assert path is not None
    return path


@pytest.fixture(scope="module")
def run(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "first", made_results(60, 4, video))


def test_the_calibration_error_agrees_with_torchmetrics(run: Path, video: Path) -> None:
    scores = torch.tensor([result.probabilities for result in made_results(60, 4, video).results if not result.error])
    truth = torch.tensor([place % 4 for place in range(60) if place % 10 != 9])
    expected = float(multiclass_calibration_error(scores, truth, num_classes=4, n_bins=15, norm="l1"))
    found = reliability_by_score(read_run(run).evaluations[0])
    assert found.expected_error == pytest.approx(expected, abs=1e-5)
    assert int(found.counts.sum()) == 54
    said = " ".join(text_of(write_report(run)).split())
    assert f"Expected calibration error {expected:.1%} over 15 bins" in said


def test_mcnemar_agrees_with_scipy() -> None:
    for first, second in ((0, 0), (1, 0), (5, 5), (9, 2), (0, 8), (40, 61), (3000, 3200)):
        expected = binomtest(first, first + second).pvalue if first + second else 1.0
        assert mcnemar_p_value(first, second) == pytest.approx(expected)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_an_axis_holds_its_values_between_round_ends(values: list[float]) -> None:
    axis = axis_over("", values)
    tolerance = 1e-6 * max(1.0, axis.high - axis.low)
    assert axis.low - tolerance <= min(values)
    assert max(values) <= axis.high + tolerance
    places = axis.ticks()
    assert 2 <= len(places) <= 12
    assert all(axis.low - tolerance <= place <= axis.high + tolerance for place in places)


def drawn(kind: str, *numbers: Any, **settings: Any) -> ElementTree.Element:
    return ElementTree.fromstring(getattr(template("report/charts.html").module, kind)(*numbers, **settings))


def test_a_line_goes_through_its_points() -> None:
    points = [(0.0, 0.2), (1.0, 0.9), (4.0, 0.5)]
    chart = drawn("line_chart", [Series("a <b>", points)], Axis("x", 0, 4), Axis("y", 0, 1), "a & b")
    assert chart.get("aria-label") == "a & b"
    (line,) = chart.findall("polyline")
    places = np.array([[float(part) for part in pair.split(",")] for pair in line.get("points", "").split()])
    # A straight line from numbers to pixels: the same scale and offset for all points; up is less.
    for column, sign in ((0, 1), (1, -1)):
        values = np.array(points)[:, column]
        scale, offset = np.polyfit(values, places[:, column], 1)
        assert sign * scale > 0
        np.testing.assert_allclose(scale * values + offset, places[:, column], atol=0.06)
    assert (places >= 0).all()
    assert (places <= [float(side) for side in chart.get("viewBox", "").split()[2:]]).all()
    assert [dot.findtext("title") for dot in chart.findall("circle")][1] == "a <b>: 0.9 at x 1"


def test_bars_are_as_high_as_their_numbers_and_do_not_overlap() -> None:
    points = [(0.1, 0.5), (0.3, 1.0), (0.5, 0.0)]
    both = [Series("a", points), Series("b", points, "s1")]
    chart = drawn("bar_chart", both, Axis("", 0, 1), Axis("", 0, 1), "", diagonal=True)
    bars = [{name: float(bar.get(name, "")) for name in ("x", "y", "width", "height")} for bar in chart.findall("rect")]
    assert bars[0]["height"] == pytest.approx(bars[1]["height"] / 2, abs=0.06)
    assert bars[2]["height"] == 0
    assert len({round(bar["y"] + bar["height"]) for bar in bars}) == 1
    starts = sorted((bar["x"], bar["x"] + bar["width"]) for bar in bars)
    assert all(end <= start + 0.11 for (_, end), (start, _) in pairwise(starts))


def test_the_matrix_has_a_cell_for_each_count() -> None:
    counts = [[5, 0, 1], [0, 2, 0], [3, 0, 3]]
    chart = drawn("matrix_chart", counts, ["a", "b & c", "d"], "m")
    said = [cell.findtext("title") for cell in chart.findall("rect[@class!='ground']")]
    assert said == [
        "a, right: 5 of 6",
        "a, taken for d: 1 of 6",
        "b & c, right: 2 of 2",
        "d, taken for a: 3 of 6",
        "d, right: 3 of 6",
    ]


def test_curves_of_a_resumed_run_are_one(tmp_path: Path) -> None:
    for part, text in {
        2: "epoch,step,train_loss_step,val_loss\n1,3,1.0,\n2,4,0.5,\n2,5,0.5,\n1,3,,0.7\n2,5,,0.6\n",
        1: "epoch,step,train_loss_step,val_loss\n0,0,3.0,\n0,1,2.0,\n0,1,,0.9\n1,2,1.5,\n",
    }.items():
        (tmp_path / f"logs_{part}").mkdir()
        (tmp_path / f"logs_{part}" / "metrics.csv").write_text(text)
    curves = read_curves(tmp_path)
    assert curves["val_loss"] == ((1, 0.9), (2, 0.7), (3, 0.6))
    assert curves["step_loss"] == ((0.5, 3.0), (1, 2.0), (1.5, 1.5), (2, 1.0), (2.5, 0.5), (3, 0.5))
    assert "val_accuracy" not in curves


def text_of(page: Path) -> str:
    """What is read on it: no tags, no styles."""
    content = re.sub(r"<(style|script)>.*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", " ", content)).replace("\u00a0", " ")


def test_the_page_says_what_the_run_left(run: Path) -> None:
    said = " ".join(text_of(write_report(run)).split())
    record = read_run(run)
    (evaluation,) = record.evaluations
    assert f"{100 * evaluation.num_right / 60:.1f} %" in said
    assert "6 unreadable, counted as wrong" in said
    assert "over 15 bins of equal width and 54 answers" in said
    assert "With shuffled frames its accuracy falls by 50.0 points" in said
    for words in (
        "videos/<cut>.avi",
        "no frame at 1.2 s",
        "transform.fit_size_px",
        "sampling.sample_fps",
        "7 videos could not be read",
    ):
        assert words in said
    assert said.count("</script><b>&") > 5
    (folder,) = (path for path in run.iterdir() if path.name == "evaluation_test")
    summary = json.loads((folder / "summary.json").read_text())
    assert f"{100 * summary['mean_class_accuracy']:.1f} %" in said
    assert f"{100 * summary['top1']:.1f} %" in said


def test_the_page_needs_nothing_from_elsewhere_and_is_the_same_again(run: Path, tmp_path: Path) -> None:
    page = write_report(run)
    content = re.sub(r'data:image/jpeg;base64,[^"]*', "", page.read_text())
    assert len({item["id"] for _, item in Elements(content).found if "id" in item}) == content.count(' id="')
    assert not re.search(r'(src|href|action)="(?!#|data:,|")', content)
    assert "url(" not in content
    assert "://" not in content
    assert write_report(run, tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_several_answers_to_a_video_are_not_several_videos(tmp_path: Path, video: Path) -> None:
    """The interval of a class that two seeds were asked about is that of its videos."""
    results = made_results(40, 2, video)
    once, twice = (replace(results, results=results.results * times) for times in (1, 2))
    widths = []
    for name, evaluation in (("once", once), ("twice", twice)):
        (record,) = read_run(make_run(tmp_path / name, evaluation)).evaluations
        record = replace(record, summary={})
        widths.append([headline(record)["top-1 accuracy"][1], classes_section(record).html])
    assert widths[0][0] == widths[1][0]
    bars = [re.findall(r"from [0-9.]+ to [0-9.]+|left:[^\"]+", content) for _, content in widths]
    assert bars[0] == bars[1] != []


def test_the_page_says_what_was_left_out(tmp_path: Path, video: Path) -> None:
    results = replace(made_results(20, 2, video), left_out=(LeftOut("a.mp4", "trained on"),) * 3)
    assert "3 left out, which it had seen" in write_report(make_run(tmp_path / "run", results)).read_text()
    assert len((tmp_path / "run/evaluation_test/left_out.csv").read_text().splitlines()) == 4


def test_a_thumbnail_has_the_frames_of_its_stretch(run: Path, video: Path) -> None:
    answer = replace(worst(read_run(run).evaluations[0], 1)[0], start_seconds=0.4, end_seconds=2.0)
    absent = replace(answer, path=str(video.parent / "absent.mp4"))
    (_, none), (_, thumbnail) = make_thumbnails([absent, answer], DecodeConfig(), 10**6)
    assert none is None
    assert thumbnail is not None
    row = cv2.imdecode(np.frombuffer(base64.b64decode(thumbnail.address.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert row.shape[:2] == (thumbnail.height, NUM_PICTURES * thumbnail.width) == (96, NUM_PICTURES * 128)
    shown = [painted_number(picture) for picture in np.split(row, NUM_PICTURES, axis=1)]
    with open_video(video) as reader:
        times = reader.pts_seconds.numpy()
    middles = 0.4 + 1.6 * (np.arange(NUM_PICTURES) + 0.5) / NUM_PICTURES
    assert shown == [int(np.flatnonzero(times <= middle + 1e-6)[-1]) for middle in middles]


def test_thumbnails_stay_below_their_limit(run: Path) -> None:
    answers = worst(read_run(run).evaluations[0], 10)
    size = len(next(made for _, made in make_thumbnails(answers[:1], DecodeConfig(), 10**6) if made).address)
    made = [thumbnail for _, thumbnail in make_thumbnails(answers, DecodeConfig(), 3 * size + size // 2)]
    assert len(made) == 10
    assert 0 < sum(thumbnail is not None for thumbnail in made) <= 4
    assert sum(len(thumbnail.address) for thumbnail in made if thumbnail) <= 3.5 * size


def test_the_worst_come_first(run: Path) -> None:
    (evaluation,) = read_run(run).evaluations
    ranked = worst(evaluation, 54)
    assert not any(answer.error for answer in ranked)
    wrong = [answer for answer in ranked if not answer.right]
    assert ranked[: len(wrong)] == wrong
    assert [a.label_score for a in wrong] == sorted(a.label_score for a in wrong if a.label_score is not None)


def test_two_runs_on_one_page(run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = made_results(80, 4, video, seed=1)  # twenty videos more
    second = make_run(tmp_path / "second", other, heads=("mean",))
    output = tmp_path / "both.html"
    assert main(["report", str(run), str(second), "--output", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    (first_record,), (second_record,) = read_run(run).evaluations, read_run(second).evaluations
    first = {answer.name: answer.predicted == answer.label for answer in first_record.answers}
    both = Counter((first[a.name], a.predicted == a.label) for a in second_record.answers if a.name in first)
    pairs = pair_up(first_record, second_record)
    assert {(a, b): len(pairs.where(a, b)) for a in (True, False) for b in (True, False)} == {
        (a, b): both[a, b] for a in (True, False) for b in (True, False)
    }
    said = " ".join(text_of(output).split())
    assert "of the 60 videos that both saw" in said
    assert f"The {both[True, False] + both[False, True]} videos that exactly one of the two has right" in said
    expected = binomtest(both[True, False], both[True, False] + both[False, True]).pvalue
    assert f"p = {expected:.2g}" in said
    assert "model.heads [convgru] [mean]" in said
    assert "sampling.num_frames" not in said


def test_what_is_not_a_run_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, message in ((tmp_path / "absent", "no such folder"), (tmp_path, "nothing of a run is there")):
        assert main(["report", str(folder)]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "evaluation_test").mkdir()
    (tmp_path / "evaluation_test" / "videos.csv").write_text("path,label\na.mp4,run\n")
    with pytest.raises(UserError, match="not as clipgru writes it"):
        write_report(tmp_path)


def test_a_diagnosis_of_another_program_is_refused(tmp_path: Path, video: Path) -> None:
    folder = make_run(tmp_path / "run", made_results(8, 4, video))
    (folder / "diagnosis" / "diagnosis.json").write_text('{"uses_time": true}')
    with pytest.raises(UserError, match="not as clipgru writes it"):
        write_report(folder)


def test_a_run_s_folder_does_not_open_the_network(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come from anyone, with addresses for videos."""
    opened: list[DecodeConfig] = []

    def note(answers: object, decode: DecodeConfig, max_bytes: int) -> list[object]:
        opened.append(decode)
        return []

    monkeypatch.setattr(page, "make_thumbnails", note)
    folder = make_run(tmp_path / "run", made_results(8, 4, video))
    config = folder / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(settings | {"decode": {"allow_url": True, "isolate": True}}))
    write_report(folder)
    write_report(folder, decode={"allow_url": True})
    assert [(decode.allow_url, decode.isolate) for decode in opened] == [(False, True), (True, True)]


def test_a_run_that_was_only_trained_has_a_page(run: Path, tmp_path: Path) -> None:
    (tmp_path / "logs_1").mkdir()
    (tmp_path / "logs_1" / "metrics.csv").write_bytes((run / "logs_1" / "metrics.csv").read_bytes())
    said = text_of(write_report(tmp_path))
    assert "Learning curves" in said
    assert "clipgru diagnose" in said


def test_an_evaluation_elsewhere_has_a_page(video: Path, tmp_path: Path) -> None:
    evaluation = made_results(8, 4, video)
    write_evaluation(evaluation, tmp_path, evaluation.summary())
    said = text_of(write_report(tmp_path))
    assert "On the videos" in said
    assert "Learning curves" not in said


def test_models_of_several_seeds_answer_once_in_the_paired_test(run: Path) -> None:
    (evaluation,) = read_run(run).evaluations
    twice = replace(evaluation, answers=evaluation.answers + evaluation.answers[::-1])
    assert pair_up(twice, twice).answers == tuple(zip(evaluation.answers, evaluation.answers, strict=True))
    assert worst(twice, 20) == worst(evaluation, 20)


def test_folds_have_their_curves(run: Path, video: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        make_run(tmp_path / "model" / "seed_0" / f"fold_{number:02}", made_results(8, 4, video))
    make_run(tmp_path / "whole", made_results(8, 4, video)).joinpath("evaluation_test").rename(tmp_path / "evaluation")
    said = text_of(write_report(tmp_path))
    assert "On the videos of all folds" in said
    assert "seed 0, fold 2" in said


def test_the_journal_adds_lines(tmp_path: Path) -> None:
    began = datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc)
    note_command(tmp_path, "train", ["--name", "a b"], began, "interrupted")
    note_command(tmp_path, "evaluate", ["m"], began)
    lines = [json.loads(line) for line in (tmp_path / "commands.jsonl").read_text().splitlines()]
    assert [line["command"] for line in lines] == ["clipgru train --name 'a b'", "clipgru evaluate m"]
    assert [line["outcome"] for line in lines] == ["interrupted", "done"]
    assert lines[0]["began"] == "2026-01-02T03:04:00+00:00"
    assert lines[0]["machine"]["cores"] >= 1


def test_the_data_are_counted(motion_root: Path) -> None:
    config = DataConfig(root=str(motion_root))
    splits = make_splits(read_annotations(config), config, 0)
    found = summarize_splits(splits, DecodeConfig())
    for name in ("train", "val", "test"):
        folders = {path.name: len(list(path.iterdir())) for path in (motion_root / name).iterdir()}
        assert found["splits"][name]["class_counts"] == folders
        assert len(found["splits"][name]["durations_seconds"]) == sum(folders.values())
    with open_video(splits.train[0].path) as reader:
        assert found["splits"]["train"]["durations_seconds"][0] == pytest.approx(reader.info.duration_seconds, abs=1e-3)
    outside = replace(splits, test=(replace(splits.test[0], start_seconds=500.0, end_seconds=900.0),))
    assert summarize_splits(outside, DecodeConfig())["splits"]["test"]["durations_seconds"] == []
    stretch = replace(splits, test=(replace(splits.test[0], start_seconds=0.25, end_seconds=0.75),))
    assert summarize_splits(stretch, DecodeConfig())["splits"]["test"]["durations_seconds"] == [0.5]
