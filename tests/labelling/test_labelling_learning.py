"""Learning from labels: the small model and the whole one, drafts, rejected drafts, offers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoint import load_model_file
from pipeline.cli import main
from pipeline.config import DecodeConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.motion_files import write_video
from pipeline.datasets.sequences import IGNORED
from pipeline.labelling.proposals import (
    FrameEvidence,
    Offer,
    apart,
    moving_stretches,
    random_offers,
    rank_offers,
    runs_of,
)
from pipeline.learning import timelines
from pipeline.learning.timelines import (
    Example,
    draft_experiment,
    fit_basis,
    fold_in,
    hold_out,
    make_examples,
    timeline_scores,
    train_small,
)

LABELS = ("walk", "run", "background")


def made_videos(count: int = 4) -> dict[str, tuple[torch.Tensor, list[VideoRow]]]:
    """Features whose first number says walk, whose second says run, in noise."""
    torch.manual_seed(0)
    videos = {}
    for number in range(count):
        features, rows = 0.3 * torch.randn(240, 40), []
        for place, start in enumerate(range(10 + number, 200, 45)):
            features[start : start + 20, place % 2] += 3
            path = Path(f"v{number}.mp4")
            rows.append(VideoRow(path, LABELS[place % 2], f"g{number}", start / 4, start / 4 + 5, path.name))
        videos[f"v{number}.mp4"] = features.half(), rows
    return videos


@pytest.fixture(autouse=True, scope="module")
def _few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timelines, "_NUM_STEPS", 20)
        yield


@pytest.fixture(scope="module")
def learned() -> tuple[list[Example], timelines.Basis, torch.nn.Module]:
    videos = made_videos()
    basis = fit_basis([features for features, _ in videos.values()])
    projected = {name: basis.project(features) for name, (features, _) in videos.items()}
    rows = [row for _, some in videos.values() for row in some]
    examples = make_examples(rows, projected, LABELS, draft_experiment(".", DecodeConfig()))
    return examples, basis, train_small(examples, LABELS, draft_experiment(".", DecodeConfig()), 0)


def test_a_head_learns_what_is_labelled(learned: tuple[list[Example], timelines.Basis, torch.nn.Module]) -> None:
    examples, _, model = learned
    right = [(timeline_scores(model, e.features, 4).argmax(dim=1) == e.targets).float().mean() for e in examples]
    assert min(right) > 0.85


def test_held_out_figures_are_of_videos_that_were_not_seen(
    learned: tuple[list[Example], timelines.Basis, torch.nn.Module],
) -> None:
    examples, _, _ = learned
    found = hold_out(examples, LABELS, draft_experiment(".", DecodeConfig()))
    assert found.figures["frame accuracy"] > 0.8
    assert frozenset.union(*found.groups) == {e.group for e in examples}
    assert 0.05 < found.calibration.temperature < 20


def test_the_whole_model_answers_as_the_small_one() -> None:
    """The projection and its norm have become a part of the GRU's input weights."""
    torch.manual_seed(0)
    experiment = draft_experiment(".", DecodeConfig())
    features = 3 * torch.randn(60, 2560).relu() + 1
    basis = fit_basis([features])
    targets = torch.arange(60) // 20
    small = train_small([Example("v", "g", basis.project(features), targets)], LABELS, experiment, 0)
    whole = fold_in(small, basis, experiment, len(LABELS))
    with torch.inference_mode():
        ours, theirs = whole.score(features[None])[0], small.score(basis.project(features)[None])[0]
    assert torch.allclose(ours, theirs, atol=2e-3)


def test_what_lies_beside_a_stretch_is_background_only_where_none_is_labelled() -> None:
    experiment = draft_experiment(".", DecodeConfig())
    features = {"v": torch.zeros(40, 3)}
    walk = VideoRow(Path("v"), "walk", "v", 0.0, 2.0, "v")
    rest = VideoRow(Path("v"), "unlabelled", "v", 2.0, None, "v")
    (example,) = make_examples([walk, rest], features, LABELS, experiment)
    assert example.targets.tolist() == [0] * 7 + [IGNORED] * 33
    (filled,) = timelines._with_margins([example], LABELS, 16)
    assert filled.targets.tolist() == [0] * 7 + [2] * 16 + [IGNORED] * 17
    nothing = VideoRow(Path("v"), "background", "v", 2.0, 4.0, "v")
    (example,) = make_examples([walk, nothing, replace(rest, start_seconds=4.0)], features, LABELS, experiment)
    (filled,) = timelines._with_margins([example], LABELS, 16)
    assert filled.targets.tolist() == [0] * 7 + [2] * 8 + [IGNORED] * 25


def test_a_rejected_draft_is_learned_as_background(
    learned: tuple[list[Example], timelines.Basis, torch.nn.Module],
) -> None:
    examples, _, model = learned
    last = examples[-1]
    hidden = replace(last, targets=torch.full_like(last.targets, IGNORED))
    start = int((last.targets == 0).nonzero()[0])
    rejecting = replace(hidden, rejected=((start, start + 20),))
    after = train_small([*examples[:-1], rejecting], LABELS, draft_experiment(".", DecodeConfig()), 0)
    before = train_small([*examples[:-1], hidden], LABELS, draft_experiment(".", DecodeConfig()), 0)
    scores = [
        timeline_scores(m, last.features, 4)[start : start + 20].softmax(dim=1)[:, 2].mean() for m in (before, after)
    ]
    assert scores[1] > scores[0]
    assert model is not None


def test_labels_that_overlap_are_learned_each_by_itself() -> None:
    torch.manual_seed(0)
    experiment = draft_experiment(".", DecodeConfig())
    experiment = replace(experiment, sequence=replace(experiment.sequence, labels="several"))
    examples, labels = [], LABELS[:2]
    for number in range(4):
        features, rows, path = 0.3 * torch.randn(240, 40), [], Path(f"v{number}.mp4")
        for start in range(10 + number, 200, 60):
            for place in (0, 1):  # run begins while the other still lasts
                features[start + 10 * place : start + 10 * place + 20, place] += 3
                span = (start + 10 * place) / 4, (start + 10 * place) / 4 + 5
                rows.append(VideoRow(path, labels[place], f"g{number}", *span, path.name))
        examples += make_examples(rows, {path.name: features}, labels, experiment)
    found = hold_out(examples, labels, experiment)
    assert found.figures["frame accuracy"] > 0.85
    assert found.figures["F1@25"] > 0.7
    small = found.models[0]
    unseen = [example for example in examples if example.group in found.groups[0]]
    both = [timeline_scores(small, e.features, 4)[(e.targets == 1).all(dim=1)] > 0 for e in unseen]
    assert torch.cat(both).float().mean() > 0.8


# Proposals


def test_motion_alone_proposes_what_moves() -> None:
    motion = np.full(400, 1.0) + np.random.default_rng(0).normal(0, 0.05, 400)
    motion[100:140] += 6
    motion[300:316] += 4
    found = moving_stretches(motion, 4.0)
    assert np.array(found) == pytest.approx(np.array([(25, 35), (75, 79)]), abs=1)
    assert moving_stretches(np.zeros(100), 4.0) == []
    assert moving_stretches(np.zeros(0), 4.0) == []


def evidence(count: int, is_labelled: slice, unsure: slice) -> FrameEvidence:
    rng = np.random.default_rng(0)
    probabilities = np.full((2, count, 2), (0.99, 0.01))
    probabilities[:, unsure] = 0.5
    mask = np.zeros(count, bool)
    mask[is_labelled] = True
    return FrameEvidence(rng.normal(0, 0.01, (count, 3)), probabilities, mask)


def test_what_is_unsure_and_new_comes_first() -> None:
    one = evidence(320, slice(0, 160), slice(256, 288))
    one.features[256:288] += 5
    offers = rank_offers({"a": one}, 4.0, 8.0)
    assert (offers[0].start_seconds, offers[0].end_seconds) == (64.0, 72.0)
    assert all(offer.start_seconds >= 40 for offer in offers)
    disagreeing = replace(one, probabilities=one.probabilities.copy())
    disagreeing.probabilities[:] = (0.99, 0.01)
    disagreeing.probabilities[0, 192:224] = (0.01, 0.99)
    disagreeing.features[256:288] -= 5
    assert rank_offers({"a": disagreeing}, 4.0, 8.0)[0].why in ("two models disagree", "the model is unsure")
    assert rank_offers({"a": disagreeing}, 4.0, 8.0)[0].start_seconds == 48.0
    assert rank_offers({}, 4.0, 8.0) == []


def test_what_resembles_an_offer_waits_for_others() -> None:
    """Of three new stretches two look the same; the third, less new at first, is offered before the second of them."""
    one = evidence(480, slice(0, 64), slice(0, 0))
    one.features[128:160] += 5
    one.features[256:288] += 5
    one.features[384:416] -= 4
    starts = [offer.start_seconds for offer in rank_offers({"a": one}, 4.0, 8.0)[:3]]
    assert starts[:2] == [32.0, 96.0]
    assert starts[2] != 64.0


def test_a_little_that_may_be_rare_comes_before_much_that_is_common() -> None:
    one = evidence(480, slice(0, 160), slice(0, 0))
    one.features[:] = 0
    one.features[160:, 0] = 1
    assert rank_offers({"a": one}, 4.0, 8.0)[0].start_seconds == 40.0
    one.features[320:352] = (0, 1, 0)  # as far from all that is labelled
    assert rank_offers({"a": one}, 4.0, 8.0)[0].start_seconds == 40.0
    one.probabilities[:, 320:352] = (0.01, 0.99)
    first, second = rank_offers({"a": one}, 4.0, 8.0)[:2]
    assert (first.start_seconds, first.why) == (80.0, "it may hold a rare label")
    assert second.start_seconds == 40.0


def test_offers_of_very_many_videos_come_in_seconds() -> None:
    """A part of them is looked at; no table of all distances is made."""
    many = {str(number): evidence(2000, slice(0, 32 * (number % 3)), slice(64, 96)) for number in range(400)}
    offers = rank_offers(many, 4.0, 8.0)
    assert len(set(offers)) == 100


def test_chance_offers_every_stretch_that_is_open() -> None:
    one = evidence(480, slice(0, 64), slice(0, 0))
    orders = [[o.start_seconds for o in random_offers({"a": one}, 4.0, 8.0, seed)] for seed in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == [8.0 * place for place in range(2, 15)]
    assert orders[0] != orders[1]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6)), unique=True, max_size=10))
def test_neighbours_follow_each_other_only_where_nothing_else_is_left(places: list[tuple[str, int]]) -> None:
    offers = [Offer(video, 8.0 * place, 8.0 * place + 8, "") for video, place in places]
    order = apart(offers)
    assert sorted(order, key=str) == sorted(offers, key=str)
    for place in range(1, len(order)):
        if order[place].is_next_to(order[place - 1]):
            assert all(other.is_next_to(order[place - 1]) for other in order[place:])


@given(st.lists(st.booleans()))
def test_runs(values: list[bool]) -> None:
    runs = runs_of(np.array(values, bool))
    assert [any(a <= place < b for a, b in runs) for place in range(len(values))] == values
    assert all(b < c for (_, b), (c, _) in pairwise(runs))


def test_the_command_learns_from_a_labelled_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["path,label,start_seconds,end_seconds,group,split,uncovered"]
    for number in range(4):
        frames = np.random.default_rng(number).integers(0, 128 * (1 + number % 2), (10, 48, 48, 3), np.uint8)
        write_video(tmp_path / f"{number}.mp4", frames, 8, intra=True)
        lines.append(f"{number}.mp4,{'first' if number % 2 else 'second'},0,0.6,,,unlabelled")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    output = tmp_path / "out" / "model.safetensors"
    assert main(["learn", str(tmp_path), "--output", str(output), "--quiet"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {"held_out_frame_accuracy", "held_out_F1@25", "seconds"} <= answer.keys()
    model = load_model_file(output)
    assert (model.task, model.labels) == ("timeline", ("first", "second", "background"))
    assert model.videos is not None
    assert main(["predict", str(output), str(tmp_path / "0.mp4"), "--json", str(tmp_path / "answer.json")]) == 0
