"""What is shown of a memory: gates against a plain loop, maps against shapes whose place is known, files that play."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.checkpoint import ModelFile, load_model_file, save_model
from pipeline.cli import main
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.motion_files import write_video
from pipeline.datasets.motion_scene import ShapeTrack, draw_look, render
from pipeline.datasets.settled import make_splits
from pipeline.decode import open_video
from pipeline.demo import motion_experiment
from pipeline.errors import UserError
from pipeline.explanation.memory import MemoryTrace, remember, writing_of
from pipeline.explanation.overlay import seen_box
from pipeline.models.temporal.convgru import ConvGRU
from pipeline.models.temporal.gru import Recurrent
from pipeline.training.fit import train
from tests.small import small_model


def gates_one_by_one(head: nn.Module, x: Tensor) -> Tensor:
    """How open the update gate is at each step, by the equations in the heads' docstrings."""
    hidden, gates = None, []
    for step in x.unbind(1):
        if isinstance(head, ConvGRU):
            before = step.new_zeros(len(step), head.hidden_channels, *step.shape[2:]) if hidden is None else hidden
            from_past = nn.functional.conv2d(before, head.hidden_conv.weight, head.hidden_conv.bias, padding="same")
            update = torch.sigmoid((head.input_conv(step) + from_past).chunk(3, dim=1)[1])
            hidden = head(step[:, None], hidden)[1]
            gates.append(1 - update)
        elif isinstance(head, Recurrent):
            layer = head.layer
            before = step.new_zeros(len(step), layer.hidden_size) if hidden is None else hidden[0]
            joined = step @ layer.weight_ih_l0.T + layer.bias_ih_l0 + before @ layer.weight_hh_l0.T + layer.bias_hh_l0
            gates.append(1 - torch.sigmoid(joined.chunk(3, dim=1)[1]))
            hidden = head(step[:, None], hidden)[1]
        else:
            gates.append(torch.sigmoid(head.gates(step).chunk(2, dim=1)[0]))
    return torch.stack(gates, dim=1)


@pytest.mark.parametrize(
    ("heads", "settings"),
    [
        (("convgru",), {}),
        (("convgru",), {"reset_after": False}),
        (("gru",), {}),
        (("mingru",), {}),
        (("convmingru", "convmingru"), {}),
    ],
    ids=str,
)
@torch.no_grad()
def test_gates_are_those_of_a_plain_loop(heads: tuple[str, ...], settings: dict[str, object]) -> None:
    stack = small_model(heads=heads, **settings).recognizer.temporal
    size = (2, 5, _num_inputs(stack.heads[0]), *((3, 4) if stack.reads_maps else ()))
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    writing = writing_of(stack, x)
    expected = gates_one_by_one(stack.heads[0], x).mean(dim=2)
    torch.testing.assert_close(writing.gate, expected, atol=1e-5, rtol=1e-4)
    change = torch.stack([(x[:, t] - x[:, max(t - 1, 0)]).abs().mean(dim=1) for t in range(5)], dim=1)
    torch.testing.assert_close(writing.let_in, expected * change, atol=1e-5, rtol=1e-4)


def _num_inputs(head: nn.Module) -> int:
    if isinstance(head, Recurrent):
        return head.layer.input_size
    layer = head.input_conv if isinstance(head, ConvGRU) else head.gates
    return layer.weight.shape[1]


@pytest.mark.parametrize("settings", [{"heads": ("mean",)}, {"heads": ("rnn",)}, {"heads": ("lstm", "mean")}])
def test_a_head_without_an_update_gate_says_so(
    motion_root: Path, tmp_path: Path, settings: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "m.safetensors", small_model(**settings))
    (video,) = (motion_root / "untrimmed").glob("*.mp4")
    assert main(["explain", str(tmp_path / "m.safetensors"), str(video), "--output", str(tmp_path / "x.mp4")]) == 2
    assert "has no update gate" in capsys.readouterr().err
    assert not (tmp_path / "x.mp4").exists()
    both = small_model(heads=("gru",), bidirectional=True).recognizer
    with pytest.raises(UserError, match="reads both ways"):
        writing_of(both.temporal, torch.zeros(1, 3, _num_inputs(both.temporal.heads[0])))


@pytest.fixture(scope="module")
def trained(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ConvGRU as in the demo, trained for a moment."""
    experiment = motion_experiment()
    data = replace(experiment.data, format="folder", root=str(motion_root), num_workers=0)
    training = replace(experiment.training, epochs=2)
    folder = str(tmp_path_factory.mktemp("explained"))
    experiment = replace(experiment, data=data, training=training, output_dir=folder)
    return train(experiment, make_splits(read_annotations(data), data, 0), quiet=True).model_path


def test_the_map_follows_the_moving_shape(trained: Path, tmp_path: Path) -> None:
    """Small shapes that cross the picture; half of the cameras sway."""
    model, rng = load_model_file(trained), np.random.default_rng(0)
    shares, by_chance, radius = [], [], 0.13
    for number in range(6):
        track = crossing(rng, radius, leftwards=number % 2 == 1, sway=0.03 if number >= 3 else 0.0)
        path = tmp_path / f"{number}.mp4"
        write_video(path, render((draw_look(rng, 96), track)), 10, intra=True)
        memory = remembered(model, path)
        assert memory.maps is not None
        for frame in range(1, len(track)):  # the first one has none before it
            inside = box(track, frame, 1.15 * radius)
            shares.append(mass_inside(memory.maps[frame], inside))
            by_chance.append(mass_inside(torch.rand(memory.maps.shape[1:]), inside))
    assert np.mean(shares) >= 3 * np.mean(by_chance)


def crossing(rng: np.random.Generator, radius: float, *, leftwards: bool, sway: float) -> ShapeTrack:
    def still(value: float) -> np.ndarray:
        return np.full(16, value, np.float32)

    ends = (0.8, 0.2) if leftwards else (0.2, 0.8)
    x = np.linspace(*ends, 16, dtype=np.float32)
    camera = (sway * np.sin(np.arange(16) / 8)).astype(np.float32)
    y, angle, roundness = rng.uniform(0.25, 0.75), rng.uniform(0, 6), rng.integers(2)
    return ShapeTrack(x, still(y), still(angle), still(radius), still(1), still(roundness), camera, still(0))


def box(track: ShapeTrack, frame: int, reach: float) -> np.ndarray:
    """Which of 96x96 pixels lie in the square around the shape; the polygons reach a little past their radius."""
    centres = (np.arange(96) + 0.5) / 96
    across, down = (np.abs(centres - place[frame]) <= reach for place in (track.x, track.y))
    return down[:, None] & across[None, :]


def mass_inside(heat: Tensor, inside: np.ndarray) -> float:
    shown = cv2.resize(heat.numpy(), inside.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return float((shown * inside).sum() / shown.sum())


def remembered(model: ModelFile, path: Path) -> MemoryTrace:
    with open_video(path) as reader:
        return remember(model, reader)


@torch.inference_mode()
def test_what_a_frame_is_worth_is_the_score_without_it(motion_root: Path) -> None:
    """A video of one window: the features of the file, a frame taken out, and the network run again."""
    from pipeline.sampling import grid_seconds
    from pipeline.transforms.frames import ClipTransform, fit_frames

    path = sorted((motion_root / "test" / "grows").iterdir())[0]
    file = small_model(heads=("gru",))
    file = replace(file, sampling=replace(file.sampling, num_frames=8))
    memory = remembered(file, path)
    assert memory.maps is None
    with open_video(path) as reader:
        frames = reader.at(grid_seconds(range(8), file.sampling.sample_fps)).frames
    pictures = ClipTransform(file.transform, file.normalization).evaluate(fit_frames(frames, file.transform))
    label = file.labels.index(memory.label)
    whole = file.recognizer(pictures[None]).softmax(dim=1)[0, label]
    assert float(whole) == pytest.approx(memory.score, abs=1e-5)
    for place in range(8):
        rest = torch.cat([pictures[:place], pictures[place + 1 :]])
        lost = whole - file.recognizer(rest[None]).softmax(dim=1)[0, label]
        assert float(memory.drops[place]) == pytest.approx(float(lost), abs=1e-5)
    ranked = memory.top_frames(8)
    assert ranked == sorted((p for p in range(8) if memory.drops[p] > 0), key=lambda p: -float(memory.drops[p]))


@pytest.mark.parametrize("head", ["convgru", "gru"])
def test_the_command_writes_a_video_a_picture_and_json(
    motion_root: Path, tmp_path: Path, head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "m.safetensors", small_model(heads=(head,)))
    video = sorted((motion_root / "test" / "grows").iterdir())[0]
    output = tmp_path / "x.mp4"
    command = ["explain", str(tmp_path / "m.safetensors"), str(video), "--output", str(output), "--top", "3"]
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 0  # once more: its own video may be replaced
    answer = json.loads(capsys.readouterr().out)
    record = json.loads(output.with_suffix(".json").read_text())
    assert answer["top_frames"] == record["top_frames"]
    assert (record["map_size"] is None) == (head == "gru")
    assert all(0 <= frame["gate"] <= 1 for frame in record["frames"])
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    with open_video(video) as source, open_video(output) as drawn:
        assert drawn.info.num_frames == source.info.num_frames
        assert drawn.info.width == source.info.width
        assert drawn.info.height > source.info.height  # the strip
    assert main(["explain", str(tmp_path / "m.safetensors"), str(video), "--output", str(tmp_path / "x.avi")]) == 2


def test_the_box_is_what_the_network_sees() -> None:
    transform = small_model().transform  # 32 of 40 pixels, stretched
    assert seen_box(200, 100, transform) == (20, 10, 180, 90)
    assert seen_box(200, 100, replace(transform, fit="crop")) == (60, 10, 140, 90)
