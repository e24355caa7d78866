"""Exported files compute what the model does, without torch, and say what they are."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from pipeline.calibration import MEASURES, Calibration
from pipeline.checkpoint import ModelFile, save_model
from pipeline.cli import main
from pipeline.config import InferenceConfig
from pipeline.datasets.annotations import VideoRow
from pipeline.errors import UserError
from pipeline.evaluation import evaluate_model
from pipeline.export.assembly import assemble
from pipeline.export.files import export_onnx
from pipeline.export.parity import check_parity
from pipeline.export.pieces import Pieces, make_pieces
from pipeline.export.programs import METADATA_NAME, export_programs
from pipeline.inference import Model, load_model
from pipeline.models.temporal.stack import TEMPORAL_HEADS
from pipeline.transforms.frames import ClipTransform
from tests.small import difference_model, small_experiment, small_model

pytestmark = pytest.mark.usefixtures("one_torchlib")

WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(["torch", "torchvision", "timm", "lightning"]))  # None: an import of it raises
from pipeline.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def video(motion_root: Path) -> Path:
    (path,) = (motion_root / "untrimmed").glob("*.mp4")
    return path


def run_without_torch(*args: object) -> str:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, args)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def clips(file: ModelFile, batch: int, steps: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randint(0, 256, (batch, steps + file.transform.lookback_frames, 3, 40, 40), dtype=torch.uint8)


def run_graph(path: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(str(path))
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (2, 4), (3, 9)])
def test_the_clip_has_any_batch_and_length(exported: Path, batch: int, steps: int) -> None:
    file = difference_model()
    frames = clips(file, batch, steps)
    with torch.inference_mode():
        pictures = ClipTransform(file.transform, file.normalization).evaluate(frames)
        expected = file.recognizer(pictures).softmax(-1)
        features = file.recognizer.embed(pictures[:, 0])
    got = run_graph(exported / "model.clip.onnx", {"frames": frames.numpy()})
    np.testing.assert_allclose(got["scores"], expected, atol=1e-5)
    got = run_graph(exported / "model.backbone.onnx", {"frames": frames[:, :2].numpy()})
    np.testing.assert_allclose(got["features"], features, atol=1e-4)


def test_the_step_carries_state_and_the_frame_before(exported: Path) -> None:
    """Fed frame by frame, by what its inputs are called alone."""
    file = difference_model()
    frames = clips(file, 2, 12)
    session = onnxruntime.InferenceSession(str(exported / "model.step.onnx"))
    states = {
        item.name: np.zeros([2 if side == "batch" else side for side in item.shape], np.float32)
        for item in session.get_inputs()
        if item.name.startswith("state_")
    }
    states["state_context"] = frames[:, :1].numpy()
    scores = []
    for number in range(1, 13):
        answers = session.run(None, {"frame": frames[:, number].numpy(), **states})
        by_name = dict(zip([output.name for output in session.get_outputs()], answers, strict=True))
        states = {name: by_name[f"next_{name}"] for name in states}
        scores.append(by_name["scores"])
    with torch.inference_mode():
        pictures = ClipTransform(file.transform, file.normalization).evaluate(frames)
        features = file.recognizer.embed(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
        logits, (state,) = file.recognizer.score(features)
    np.testing.assert_allclose(np.stack(scores, axis=1), logits.softmax(-1), atol=1e-5)
    np.testing.assert_allclose(states["state_0_convgru"], state, atol=1e-5)


def test_every_head_that_streams_can_be_exported() -> None:
    """All in one stack, those of maps first; each state under its own name."""
    heads = sorted(
        TEMPORAL_HEADS, key=lambda name: not TEMPORAL_HEADS[name](4, small_model().recognizer.config).reads_maps
    )
    file = small_model(heads=tuple(heads), readout="mean")
    pieces = make_pieces(file)
    graphs = assemble(file, pieces)
    assert set(graphs) == {"backbone", "clip", "step"}
    assert max(check_parity(file, graphs, pieces.slots).values()) < 1e-5
    assert {slot.name.split("_")[2] for slot in pieces.slots} == set(TEMPORAL_HEADS)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_calibration_goes_with_the_graphs(
    measure: str, pieces: Pieces, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probabilities, and which windows and frames are unknown, are those of the model in torch."""
    plain = difference_model()
    monkeypatch.setattr("pipeline.export.files.make_pieces", lambda file: pieces)
    config = {"windows": InferenceConfig(stride_frames=1), "stream": InferenceConfig(mode="stream")}
    logits = plain.recognizer.classifier.weight.new_tensor([[0.3, 0.1, -0.4]])
    middle = float(Calibration(1.7, measure).knownness(logits)[0])
    found = {}
    for threshold in (middle - 100, middle, middle + 100):
        file = replace(plain, calibration=Calibration(1.7, measure, threshold))
        paths = export_onnx(file, tmp_path / f"{threshold:.1f}").paths
        clip = next(path for path in paths if path.name.endswith(".clip.onnx"))
        for mode, settings in config.items():
            ours = list(load_model(clip).predict(video, config=settings))
            theirs = list(Model(file).predict(video, config=settings))
            assert [p.is_unknown for p in ours] == [p.is_unknown for p in theirs]
            np.testing.assert_allclose([p.score for p in ours], [p.score for p in theirs], atol=1e-5)
            found[threshold, mode] = {p.is_unknown for p in ours}
    assert found[middle - 100, "windows"] == found[middle - 100, "stream"] == {False}
    assert found[middle + 100, "windows"] == found[middle + 100, "stream"] == {True}


@pytest.mark.parametrize("mode", ["windows", "stream"])
def test_predict_without_torch_gives_what_torch_gives(exported: Path, video: Path, mode: str, tmp_path: Path) -> None:
    files = {"windows": ["clip"], "stream": ["clip", "step"]}[mode]
    options = ["--inference.mode", mode, "--quiet", "--timeline.min_seconds", "0", "--json"]
    assert (
        main(["predict", str(exported / "model.safetensors"), str(video), *options, str(tmp_path / "torch.json")]) == 0
    )
    (expected,) = json.loads((tmp_path / "torch.json").read_text())["videos"]
    for kind in files:
        run_without_torch("predict", exported / f"model.{kind}.onnx", video, *options, tmp_path / "onnx.json")
        (got,) = json.loads((tmp_path / "onnx.json").read_text())["videos"]
        assert_same(got["segments"], expected["segments"])
        assert_same(got["windows"], expected["windows"])
    model, other = (load_model(exported / name) for name in ("model.safetensors", "model.clip.onnx"))
    ours, theirs = (list(m.predict(video, config=InferenceConfig(mode=mode), top_k=3)) for m in (other, model))
    for a, b in zip(ours, theirs, strict=True):
        assert dict(a.top_k) == pytest.approx(dict(b.top_k), abs=1e-5)


def assert_same(got: Any, expected: Any) -> None:
    """The same JSON; scores may be rounded the other way."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for ours, theirs in zip(got, expected, strict=True):
            assert_same(ours, theirs)
    else:
        assert got == (pytest.approx(expected, abs=1.1e-3) if isinstance(expected, float) else expected)


def test_webcam_without_torch_says_the_same_lines(
    exported: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [video, "--replay", "--fast", "--headless", "--quiet"]
    got = run_without_torch("webcam", exported / "model.clip.onnx", *options)
    assert main(list(map(str, ["webcam", exported / "model.safetensors", *options]))) == 0
    expected = capsys.readouterr().out
    assert '"event": "segment"' in got
    assert_same(*([json.loads(line) for line in text.splitlines()] for text in (got, expected)))


def test_an_exported_file_says_what_it_is_and_where_nothing_was_made(exported: Path) -> None:
    file = difference_model()
    for kind in ("backbone", "clip", "step"):
        content = (exported / f"model.{kind}.onnx").read_bytes()
        metadata = {item.key: item.value for item in onnx.load_model_from_string(content).metadata_props}
        said = json.loads(metadata["clipgru"])
        tail = content.rindex(b"clipgru_sha256") - 4  # the entry's field and length, the key's
        assert metadata["clipgru_sha256"] == hashlib.sha256(content[:tail]).hexdigest()
        assert (said["kind"], said["labels"]) == (kind, list(file.labels))
        assert said["transform"]["input"] == "rgb_diff"
        assert said["sampling"]["num_frames"] == file.sampling.num_frames
        assert said["differences"][kind] < 1e-5
        assert str(Path(__file__).parents[2]).encode() not in content  # no trace of this machine
    assert not list(exported.glob("*.data"))


def test_a_graph_that_computes_something_else_gets_no_name(
    pieces: Pieces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = onnx.ModelProto()
    step.CopyFrom(pieces.step)
    for constant in step.graph.initializer:
        if constant.data_type == onnx.TensorProto.FLOAT:
            spoiled = numpy_helper.to_array(constant) * np.float32(1.01)
            constant.CopyFrom(numpy_helper.from_array(spoiled, constant.name))
    monkeypatch.setattr("pipeline.export.files.make_pieces", lambda file: replace(pieces, step=step))
    with pytest.raises(UserError, match="gives other numbers than the model"):
        export_onnx(difference_model(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_bidirectional_model_has_clips_of_its_length_and_no_step(video: Path, tmp_path: Path) -> None:
    file = small_model(heads=("convgru",), bidirectional=True)
    file = replace(file, sampling=replace(file.sampling, num_frames=2))  # the exporter unrolls them
    save_model(tmp_path / "both.safetensors", file)
    assert export_onnx(file, tmp_path / "both").paths == (tmp_path / "both.backbone.onnx", tmp_path / "both.clip.onnx")
    ours, theirs = (list(load_model(tmp_path / name).predict(video)) for name in ("both.clip.onnx", "both.safetensors"))
    for a, b in zip(ours, theirs, strict=True):
        assert dict(a.top_k) == pytest.approx(dict(b.top_k), abs=1e-5)
    with pytest.raises(UserError, match="bidirectional"):
        list(load_model(tmp_path / "both.clip.onnx").predict(video, config=InferenceConfig(mode="stream")))


def test_int8_is_calibrated_and_its_cost_is_counted_on_labelled_videos(
    motion_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = small_experiment(motion_root, tmp_path)
    labels = sorted(path.name for path in (motion_root / "train").iterdir()) if (motion_root / "train").is_dir() else []
    file = small_model(num_classes=len(labels) or 3)
    file = replace(file, labels=tuple(labels) or file.labels)
    save_model(tmp_path / "model.safetensors", file)
    data = ["--data.format", "folder", "--data.root", str(motion_root), "--data.num_workers", "0"]
    options = ["--int8", "--calibration_clips", "6", "--split", "val", "--quiet"]
    assert main(["export", str(tmp_path / "model.safetensors"), *data, *options]) == 0
    cost = json.loads(capsys.readouterr().out)["int8"]
    rows = rows_of_split(experiment, "val")
    expected = evaluate_model(file, rows, experiment.data)
    assert cost["num_videos"] == expected.num_videos > 0
    assert cost["top1"] == pytest.approx(expected.top1)
    assert 0 < cost["greatest_score_difference"] < 0.2
    graph = onnx.load(tmp_path / "model.int8.clip.onnx")
    assert sum(node.op_type == "QuantizeLinear" for node in graph.graph.node) > 4
    frames = clips(file, 2, 4).numpy()
    plain, small = (run_graph(tmp_path / f"model.{kind}.onnx", {"frames": frames}) for kind in ("clip", "int8.clip"))
    np.testing.assert_allclose(plain["scores"], small["scores"], atol=0.2)


def rows_of_split(experiment: Any, split: str) -> list[VideoRow]:
    from pipeline.datasets.formats import read_annotations
    from pipeline.datasets.settled import make_splits

    return list(getattr(make_splits(read_annotations(experiment.data), experiment.data, 0), split))


def test_wrong_input_is_told(exported: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    foreign = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    onnx.save(foreign, tmp_path / "foreign.onnx")
    damaged = onnx.load(exported / "model.clip.onnx")
    del damaged.graph.initializer[:]
    onnx.save(damaged, tmp_path / "damaged.onnx")
    cases = {
        ("predict", tmp_path / "damaged.onnx", video): "its content is not what was written",
        ("predict", exported / "model.backbone.onnx", video): "holds the backbone alone",
        ("predict", exported / "model.step.onnx", video): "cannot score windows; use --inference.mode stream",
        ("predict", exported / "model.clip.onnx", video, "--device", "cuda"): "runs on the CPU",
        ("predict", tmp_path / "missing.onnx", video): "no such file",
        ("predict", tmp_path / "text.onnx", video): "not an ONNX file",
        ("predict", tmp_path / "foreign.onnx", video): "not one of clipgru's",
        ("export", exported / "model.safetensors", "--format", "onxx"): "Did you mean onnx?",
        ("export", tmp_path / "missing.safetensors"): "no such model file",
    }
    for command, message in cases.items():
        assert main(list(map(str, command))) == 2, command
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "file",
    [difference_model(), small_model(heads=("gru", "lstm"))],
    ids=["convgru on differences", "gru and lstm"],
)
def test_programs_of_torch_export_carry_the_state(file: ModelFile, tmp_path: Path) -> None:
    """Read back from disk: frame by frame they score as the clip does, at a batch that they were not made with."""
    exported = export_programs(file, tmp_path / "model")
    assert {path.name for path in exported.paths} == {f"model.{kind}.pt2" for kind in ("backbone", "clip", "step")}
    assert all(difference < 1e-5 for difference in exported.differences.values())
    files: dict[str, Any] = {METADATA_NAME: ""}
    step = torch.export.load(tmp_path / "model.step.pt2", extra_files=files).module()
    said = json.loads(files[METADATA_NAME])
    assert said["labels"] == list(file.labels)
    clip = torch.export.load(tmp_path / "model.clip.pt2").module()
    context, length = file.transform.lookback_frames, file.sampling.num_frames
    frames = clips(file, 4, length)
    states = [torch.zeros([4 if side == "batch" else side for side in slot["shape"]]) for slot in said["states"]]
    for number in range(length):
        scores, *states = step(frames[:, number : number + 1 + context], states)
    with torch.inference_mode():
        pictures = ClipTransform(file.transform, file.normalization).evaluate(frames)
        expected = file.recognizer(pictures).softmax(-1)
    torch.testing.assert_close(clip(frames), expected, atol=1e-5, rtol=0)
    if file.recognizer.config.readout == "last":
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


def test_export_as_programs_wants_no_package_of_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command line, of a bidirectional model, which has no step."""
    save_model(tmp_path / "model.safetensors", small_model(heads=("gru",), bidirectional=True))
    code = WITHOUT_TORCH.replace(
        '["torch", "torchvision", "timm", "lightning"]', '["onnx", "onnxscript", "onnxruntime"]'
    )
    command = ["export", str(tmp_path / "model.safetensors"), "--format", "torch"]
    result = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    written = json.loads(result.stdout)["written"]
    assert [Path(path).name for path in written] == ["model.backbone.pt2", "model.clip.pt2"]
    assert all(Path(path).stat().st_size > 1000 for path in written)
    assert main([*command, "--int8"]) == 2
    assert "--int8 makes 8-bit files in ONNX alone" in capsys.readouterr().err
