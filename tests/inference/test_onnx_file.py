"""Exported files that lie are refused before ONNX Runtime sees them; and what one says is enough for other programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.errors import UserError
from pipeline.inference import load_model
from pipeline.inference.onnx_file import sealed
from tools.lies.onnx_files import forged

ROOT = Path(__file__).parents[2]
Change = Callable[[Any], None]


def said_by(model: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads({item.key: item.value for item in model.metadata_props}["clipgru"])
    return said


def say(**changes: Any) -> Change:
    """Changes the metadata; a dotted key has its dots as two underscores, a value of ... takes it away."""

    def change(model: Any) -> None:
        said = said_by(model)
        for key, value in changes.items():
            *blocks, name = key.split("__")
            place = said
            for block in blocks:
                place = place[block]
            place[name] = value
            if value is ...:
                del place[name]
        put(json.dumps(said))(model)

    return change


def put(text: str) -> Change:
    def change(model: Any) -> None:
        (entry,) = (item for item in model.metadata_props if item.key == "clipgru")
        entry.value = text

    return change


def constant(model: Any) -> Any:
    return next(one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT and len(one.raw_data) > 64)


def outside(place: str) -> Change:
    def change(model: Any) -> None:
        onnx.external_data_helper.set_external_data(constant(model), place)
        constant(model).ClearField("raw_data")

    return change


def outside_in_a_node(model: Any) -> None:
    tensor = TensorProto(name="x", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))


def spoil(value: float) -> Change:
    def change(model: Any) -> None:
        constant(model).raw_data = np.float32(value).tobytes() + constant(model).raw_data[4:]

    return change


def shorten(model: Any) -> None:
    constant(model).raw_data = constant(model).raw_data[:-4]


def operate(op: str, domain: str = "") -> Change:
    def change(model: Any) -> None:
        model.graph.node[-1].op_type, model.graph.node[-1].domain = op, domain

    return change


def fill(*shape: int) -> Change:
    """A value more, of that shape."""

    def change(model: Any) -> None:
        model.graph.initializer.append(helper.make_tensor("much", TensorProto.INT64, [len(shape)], shape))
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["much"], ["many"]))

    return change


def double(times: int) -> Change:
    """A value joined with itself, again and again."""

    def change(model: Any) -> None:
        for number in range(times):
            name = f"large_{number - 1}" if number else "temperature_more"
            model.graph.node.append(helper.make_node("Concat", [name, name], [f"large_{number}"], axis=0))
        model.graph.initializer.append(helper.make_tensor("temperature_more", TensorProto.FLOAT, [1], [1.0]))

    return change


LIES: dict[str, tuple[Change, str]] = {
    "null": (put("null"), "metadata is no mapping"),
    "list": (put("[]"), "metadata is no mapping"),
    "no JSON": (put("{"), "not JSON"),
    "deep": (put("[" * 100_000), "nested too deep"),
    "newer": (say(onnx_format=3), "ONNX file format 3; this version"),
    "newer model": (say(format=3), "model file format 3"),
    "kind": (say(kind="whole"), "kind: must be one of backbone, clip, step"),
    "labels": (say(labels=["a", "b"]), "its outputs are"),
    "labels twice": (say(labels=["a", "b", "a"]), "stands there twice"),
    "labels null": (say(labels=None), "labels: must be a list"),
    "size": (say(transform__fit_size_px=48), "its inputs are"),
    "huge": (say(transform__fit_size_px=10**6), "at most 2,048"),
    "rate": (say(sampling__sample_fps=1e9), "between 0.001 and 1,000"),
    "frames": (say(sampling__num_frames=10**6), "between 1 and 4,096"),
    "a path": (say(sampling="/etc/hostname"), "sampling: must be a mapping"),
    "calibration": (say(calibration=...), "calibration: missing"),
    "threshold": (say(calibration__unknown_threshold="1"), "unknown_threshold: must be a finite number"),
    "states": (say(states=[{"name": "state_0", "shape": [10**6, 10**6]}]), "a state has at most"),
    "a state's name": (say(states=[{"name": "../x", "shape": [1]}]), "the name of a state"),
    "states null": (say(states=None), "states: must be a list"),
    "context": (say(lookback_frames=0), "is not that of transform.input"),
    "unknown key": (say(more=1), "unknown key 'more'"),
    "data here": (outside("x.bin"), "lies in another file"),
    "data elsewhere": (outside("/etc/passwd"), "lies in another file"),
    "data in a node": (outside_in_a_node, "lies in another file"),
    "nan": (spoil(float("nan")), "is no finite number"),
    "inf": (spoil(float("inf")), "is no finite number"),
    "short": (shorten, "is damaged"),
    "loop": (operate("Loop"), "the operation :Loop"),
    "random": (operate("RandomNormalLike"), "the operation :RandomNormalLike"),
    "domain": (operate("Gelu", "com.microsoft"), "the operation com.microsoft:Gelu"),
    "domain of the file": (lambda model: model.opset_import.add(domain="x", version=1), "operations of"),
    "opset": (lambda model: setattr(model.opset_import[0], "version", 99), "operations of"),
    "function": (lambda model: model.functions.add(name="f", domain="x"), "functions of its own"),
    "no operation": (operate("Nonsense"), "Nonsense"),
    "fill": (fill(10**5, 10**5), "ConstantOfShape would make"),
    "double": (double(36), r"it would compute \d+ GB"),
    "no constants": (lambda model: model.graph.ClearField("initializer"), "its graph"),
    "no nodes": (lambda model: model.graph.ClearField("node"), "its graph"),
    "no inputs": (lambda model: model.graph.ClearField("input"), "its graph is not one"),
    "no outputs": (lambda model: model.graph.ClearField("output"), "its graph|its outputs"),
    "no cut": (lambda model: model.graph.ClearField("value_info"), "its graph cannot be run"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_file_that_lies_is_refused(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change, message = LIES[name]
    model = onnx.load(exported / "model.clip.onnx")
    change(model)
    path = tmp_path / "m.clip.onnx"
    path.write_bytes(forged(model.SerializeToString()))
    (tmp_path / "x.bin").write_bytes(bytes(1 << 20))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_model(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    assert len(said) < 1000


def test_accidents_are_found(exported: Path, tmp_path: Path) -> None:
    """A bit anywhere, an end cut off, a byte more."""
    content, path = (exported / "model.clip.onnx").read_bytes(), tmp_path / "m.clip.onnx"
    changed = [content[:-1], content + b"\0", content[: len(content) // 2], b"", content[:-90]]
    places = range(1, len(content), len(content) // 40)
    changed += [content[:place] + bytes([content[place] ^ 0x20]) + content[place + 1 :] for place in places]
    for wrong in changed:
        path.write_bytes(wrong)
        with pytest.raises(UserError, match=r"m\.clip\.onnx: "):
            load_model(path)


def test_a_file_of_the_first_format_is_read_without_checksum(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported / "model.clip.onnx")
    say(onnx_format=1, format=1)(model)
    kept = [item for item in model.metadata_props if item.key == "clipgru"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    path = tmp_path / "m.clip.onnx"
    onnx.save(model, path)
    assert load_model(path).labels == load_model(exported / "model.clip.onnx").labels
    say(onnx_format=2)(model)
    onnx.save(model, path)
    with pytest.raises(UserError, match="its content is not what was written"):
        load_model(path)


def test_scores_of_another_shape_are_refused(exported: Path, tmp_path: Path) -> None:
    """The graph declares what it should give, and gives something else."""
    model = onnx.load(exported / "model.clip.onnx")
    (softmax,) = (node for node in model.graph.node if node.output[0] == "scores")
    softmax.output[0] = "scores_before"
    model.graph.node.append(helper.make_node("Concat", ["scores_before", "scores_before"], ["scores"], axis=1))
    path = tmp_path / "m.clip.onnx"
    path.write_bytes(forged(model.SerializeToString()))
    features = np.zeros((1, 4, 24, 2, 2), np.float32)
    with pytest.raises(UserError, match=r"gives scores of the shape|its graph"):
        load_model(path).heads.score_windows(features)


def test_the_seal_leaves_the_file_as_others_read_it(exported: Path) -> None:
    content = (exported / "model.clip.onnx").read_bytes()
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model)
    assert forged(content) == sealed(forged(content)[: -len(sealed(b""))])
    assert said_by(model)["labels"] == ["class 0", "class 1", "class 2"]


@pytest.mark.parametrize("kind", ["untrimmed", "test"])
def test_the_example_gives_the_scores_of_predict(exported: Path, motion_root: Path, tmp_path: Path, kind: str) -> None:
    """As a program of its own that can import neither torch nor clipgru."""
    video = next(path for path in sorted((motion_root / kind).rglob("*.mp4")))
    code = (
        "import sys, runpy; sys.modules.update(dict.fromkeys(['torch', 'pipeline', 'cv2'])); sys.argv = sys.argv[1:]; "
    )
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, ROOT / "examples" / "predict_onnx.py", exported / "model.clip.onnx", video]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    ours = [json.loads(line) for line in result.stdout.splitlines()]
    theirs = list(load_model(exported / "model.clip.onnx").predict(video, top_k=3))
    assert len(ours) == len(theirs) > 0
    for line, prediction in zip(ours, theirs, strict=True):
        assert line["start_seconds"] == pytest.approx(prediction.start_seconds)
        assert line["scores"] == pytest.approx(dict(prediction.top_k), abs=1e-5)
        assert line["is_unknown"] == prediction.is_unknown
