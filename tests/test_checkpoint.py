"""The model file: whole, self-describing, safe."""

from __future__ import annotations

import json
import resource
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pipeline.checkpoint import load_model_file, read_description, save_model
from pipeline.cli import main
from pipeline.config import DecodeConfig, Normalization
from pipeline.errors import UserError
from pipeline.inference import load_model
from pipeline.models.temporal.stack import TEMPORAL_HEADS
from tests.small import small_model
from tools.lies.model_files import forged, joined, split


@pytest.mark.parametrize("head", TEMPORAL_HEADS)
def test_a_model_comes_back_as_it_was(tmp_path: Path, head: str) -> None:
    model = replace(small_model(heads=(head,)), metrics={"top1": 0.5})
    model.recognizer.backbone.normalization = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    save_model(tmp_path / "m.safetensors", model)
    back = load_model_file(tmp_path / "m.safetensors")
    clip = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(back.recognizer(clip), model.recognizer(clip))
    assert not back.recognizer.training
    for part in ("labels", "sampling", "transform", "decode", "metrics", "provenance", "normalization"):
        assert getattr(back, part) == getattr(model, part)
    assert back.recognizer.config == model.recognizer.config


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_model(tmp_path / name, small_model())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_anyone_can_read_the_description(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", small_model())
    with safetensors.safe_open(str(tmp_path / "m.safetensors"), framework="np") as stream:
        description = json.loads(stream.metadata()["clipgru"])
    assert description["labels"] == ["class 0", "class 1", "class 2"]
    assert description["sampling"]["sample_fps"] == 5


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "good.safetensors", small_model())
    good = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.safetensors").write_text("not a model")
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    torch.save({"x": torch.zeros(1)}, tmp_path / "pickle.pt")
    for name, message in [
        ("cut.safetensors", "damaged"),
        ("text.safetensors", "damaged"),
        ("other.safetensors", "not one of clipgru's"),
        ("pickle.pt", "damaged"),
        ("absent.safetensors", "no such model file"),
    ]:
        with pytest.raises(UserError, match=message):
            load_model_file(tmp_path / name)


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes what a model file says of itself, with a checksum that fits."""
    header, body = split(path.read_bytes())
    said = change(json.loads(header["__metadata__"]["clipgru"]))
    header["__metadata__"]["clipgru"] = json.dumps(said, ensure_ascii=False)
    path.write_bytes(forged(joined(header, body)))


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a model file that is read in a moment."""
    path = tmp_path_factory.mktemp("plain") / "m.safetensors"
    save_model(path, small_model(backbone="pixels_4x4", heads=("gru",)))
    return path.read_bytes()


LIES: dict[str, tuple[Any, str]] = {  # dotted key -> value, what is said; a value of ... takes the key away
    "format": (99, "model file format 99; this version of clipgru"),
    "format ": (True, "model file format True"),
    "labels": (["one"], "do not fit together"),
    "labels ": (["one", "two", 3], r"labels\[2\]: must be a text; got 3"),
    "labels  ": (["a", "b", "a"], "'a' stands there twice"),
    "labels   ": (["a", "b", "\x1b[2J"], "control characters"),
    "labels    ": ("abc", "labels: must be a list"),
    "labels     ": ([f"c{k}" for k in range(10_001)], "10001 class names"),
    "labels      ": (["a", "b", "c" * 201], "201 characters"),
    "labels       ": (["a", "b", "\u202ec"], "control characters"),
    "labels        ": (None, "labels: must be a list; got None"),
    "model": (None, "model: must be a mapping"),
    "model ": (..., "model: missing"),
    "sampling": ("/etc/hostname", "sampling: must be a mapping"),
    "sampling ": ({"class_path": "os.system"}, "sampling: unknown key 'class_path'"),
    "sampling  ": (..., "sampling: missing"),
    "transform": (..., "transform: missing"),
    "decode": (..., "decode: missing"),
    "normalization": (..., "normalization: missing"),
    "provenance": (..., "provenance: missing"),
    "metrics": (..., "metrics: missing"),
    "calibration": (..., "calibration: missing"),
    "more": (1, "unknown key 'more'"),
    "model.hidden_channels": (4500, "do not fit together"),
    "model.hidden_channels ": (65_536, "do not fit together"),
    "model.hidden_channels  ": (10**9, "hidden_channels must be positive, 65,536 at most"),
    "model.hidden_channels   ": (True, "hidden_channels: must be a whole number"),
    "model.hidden_channels    ": (..., "hidden_channels: missing"),
    "model.kernel_size": (10**6 + 1, "kernel_size must be odd"),
    "model.heads": (["gru"] * 17, "must name 1 to 16 temporal heads"),
    "model.heads ": ([], "must name 1 to 16 temporal heads"),
    "model.heads  ": (["convgru"], "do not fit together"),
    "model.heads   ": (["transformer"], "unknown temporal head 'transformer'"),
    "model.heads    ": ("gru", "heads: must be a list"),
    "model.backbone": ("hf-hub:timm/resnet18.a1_in1k", "unknown backbone 'hf-hub:"),
    "model.backbone ": ("local-dir:/etc", "unknown backbone 'local-dir:"),
    "model.backbone  ": ("os.system", "unknown backbone 'os.system'"),
    "model.backbone   ": ("tiny", "do not fit together"),
    "model.backbone    ": ("x" * 100_000, "unknown backbone 'xxx"),
    "model.scan": ("rows", "do not fit together"),
    "model.rgb_diff_scale": (1e6, "rgb_diff_scale must be positive, 1,000 at most"),
    "model.dropout": (1.0, "dropout must be in"),
    "sampling.sample_fps": ("fast", "sampling.sample_fps: must be a finite number; got 'fast'"),
    "sampling.sample_fps ": (1e9, "between 0.001 and 1,000"),
    "sampling.sample_fps  ": (1e-9, "between 0.001 and 1,000"),
    "sampling.sample_fps   ": (float("nan"), "not finite"),
    "sampling.sample_fps    ": (float("inf"), "not finite"),
    "sampling.sample_fps     ": (..., "sampling.sample_fps: missing"),
    "sampling.num_frames": (10**6, "between 1 and 4,096"),
    "sampling.num_frames ": (0, "between 1 and 4,096"),
    "sampling.num_frames  ": (2.5, "must be a whole number"),
    "sampling.num_frames   ": (10**30, "whole number of 31 characters"),
    "sampling.mode": ("random", "sampling.mode: must be one of dense, uniform"),
    "sampling.num_eval_clips": (10**9, "between 1 and 1,000"),
    "transform.fit_size_px": (10**5, "at most 2,048"),
    "transform.fit_size_px ": (..., "transform.fit_size_px: missing"),
    "transform.input_size_px": (-32, "must be positive and no larger"),
    "transform.input": ("rgb+rgb_diff", "do not fit together"),
    "decode.max_pixels": (2**62, "less than 2\\^31"),
    "decode.timeout_seconds": (-1, "must be positive"),
    "normalization.std": ([0.0, 0.5, 0.5], "deviations between"),
    "normalization.std ": ([0.5, 0.5], "must be a list of 3"),
    "normalization.mean": ([None] * 3, r"mean\[0\]: must be a finite number"),
    "calibration.temperature": (0, "temperature must be between"),
    "calibration.temperature ": (1e-300, "temperature must be between"),
    "calibration.unknown_measure": ("guess", "must be one of max_probability"),
    "calibration.unknown_threshold": ("x", "must be a finite number"),
    "provenance ": ({"experiment": {"data": "/etc/hostname"}}, "experiment.data: must be a mapping"),
    "provenance  ": ({"initial_model": {"initial_model": {"torch": 3}}}, "initial_model.initial_model.torch: must be"),
    "provenance   ": ({"num_training_videos": {"a": 1}}, "num_training_videos: must be"),
    "metrics ": ({"val_accuracy": {"a": 1}}, "metrics.val_accuracy: must be a finite number"),
    "metrics  ": ([1], "metrics: must be a mapping"),
    "videos": (["a"], "videos: must be"),
}


@pytest.mark.parametrize("key", LIES)
def test_a_description_that_lies_is_refused(plain_model: bytes, tmp_path: Path, key: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(plain_model)
    value, message = LIES[key]
    *blocks, name = key.strip().split(".")

    def lie(description: dict[str, Any]) -> dict[str, Any]:
        place = description
        for block in blocks:
            place = place[block]
        place[name] = value
        if value is ...:
            del place[name]
        return description

    rewrite(path, lie)
    with pytest.raises(UserError, match=message) as caught:
        load_model_file(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    assert len(said) < 1000


@pytest.mark.parametrize("text", ["null", "[]", "3", '""', "{}", "{", "[" * 50_000, '{"format": 2, "format": 1}'])
def test_metadata_that_is_no_description_is_refused(plain_model: bytes, tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.safetensors"
    header, body = split(plain_model)
    header["__metadata__"]["clipgru"] = text
    path.write_bytes(joined(header, body))
    for read in (load_model_file, read_description):
        with pytest.raises(UserError, match=r"m\.safetensors: "):
            read(path)


def test_a_newer_file_is_told_with_its_version(plain_model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(plain_model)
    provenance = {"clipgru": "9.8.7"}
    rewrite(path, lambda said: said | {"provenance": provenance, "sampling": said["sampling"] | {"stride": 2}})
    with pytest.raises(UserError, match=r"m\.safetensors: sampling: unknown key 'stride'.* 9\.8\.7, .* update"):
        load_model_file(path)
    rewrite(path, lambda said: said | {"format": 3})
    with pytest.raises(UserError, match=r"format 3; this version .* reads formats 1 to 2.* written by clipgru 9\.8\.7"):
        load_model_file(path)


def test_accidents_are_found(plain_model: bytes, tmp_path: Path) -> None:
    """A bit of each tensor's first exponent, and one of each block of the description."""
    path = tmp_path / "m.safetensors"
    header, body = split(plain_model)
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for entry in tensors.values():
        changed = bytearray(body)
        changed[entry["data_offsets"][0] + 3] ^= 0x20
        path.write_bytes(joined(header, bytes(changed)))
        with pytest.raises(UserError, match=r"m\.safetensors: its content is not what was written"):
            load_model_file(path)
    for old, new in [
        ("class 0", "class 9"),
        ('"sample_fps": 5', '"sample_fps": 6'),
        ('"mode": "dense"', '"mode": "uniform"'),
    ]:
        text = header["__metadata__"]["clipgru"]
        assert old in text
        path.write_bytes(joined({**header, "__metadata__": {"clipgru": text.replace(old, new)}}, body))
        with pytest.raises(UserError, match="its content is not what was written"):
            load_model_file(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    path, model = tmp_path / "m.safetensors", small_model(backbone="pixels_4x4", heads=("gru",))
    save_model(path, model)
    with torch.no_grad():
        model.recognizer.classifier.weight[1, 2] = value
    with pytest.raises(UserError, match=r"classifier\.weight is no finite number; training has diverged"):
        save_model(tmp_path / "new.safetensors", model)
    assert list(tmp_path.iterdir()) == [path]
    header, body = split(path.read_bytes())
    start = header["classifier.weight"]["data_offsets"][0]
    spoiled = body[:start] + struct.pack("<f", value) + body[start + 4 :]
    path.write_bytes(forged(joined(header, spoiled)))
    with pytest.raises(UserError, match=r"m\.safetensors: a value of classifier\.weight is no finite number"):
        load_model_file(path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type_are_refused(plain_model: bytes, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(plain_model)
    with safetensors.safe_open(str(path), framework="pt") as stream:
        metadata, state = stream.metadata(), {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    state["classifier.weight"] = state["classifier.weight"].to(dtype)
    safetensors.torch.save_file(state, path, metadata)
    with pytest.raises(UserError, match=r"'classifier\.weight' is \w+ \[3, 8\] and should be float32 \[3, 8\]"):
        load_model_file(path)


def test_a_checksum_cannot_be_taken_away(plain_model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(plain_model)
    rewrite(path, lambda said: said | {"sha256": ""})
    with pytest.raises(UserError, match="its content is not what was written"):
        load_model_file(path)


OLD_FILE = Path(__file__).parent / "samples" / "model_format_1.safetensors"


def test_a_file_of_the_first_format_loads_and_scores_as_it_did(tmp_path: Path) -> None:
    file = load_model_file(OLD_FILE)
    assert file.labels == ("opens", "schließt", "休む")
    clip = torch.arange(4 * 3 * 16 * 16).reshape(1, 4, 3, 16, 16) % 7 / 7.0 - 0.5
    with torch.no_grad():
        scores = file.calibration.probabilities(file.recognizer(clip))[0]
    assert scores.tolist() == pytest.approx([0.28244078, 0.32822612, 0.38933316], abs=1e-6)  # by version 0.1.0
    save_model(tmp_path / "new.safetensors", file)
    assert load_model_file(tmp_path / "new.safetensors").provenance == file.provenance
    assert read_description(tmp_path / "new.safetensors")["format"] == 2


@pytest.mark.parametrize("key", ["sampling.sample_fps", "transform.fit", "model.heads", "sampling", "metrics"])
def test_what_every_file_has_is_missed_in_an_old_one_too(tmp_path: Path, key: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(OLD_FILE.read_bytes())
    block, _, name = key.partition(".")

    def forget(said: dict[str, Any]) -> dict[str, Any]:
        del (said[block] if name else said)[name or block]
        return said

    rewrite(path, forget)
    with pytest.raises(UserError, match=rf"m\.safetensors: {key}: missing"):
        load_model_file(path)


def test_an_old_file_from_before_a_setting_existed_gets_its_default(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(OLD_FILE.read_bytes())

    def forget(said: dict[str, Any]) -> dict[str, Any]:
        known = {
            name: value for name, value in said["decode"].items() if name not in ("max_download_mb", "index_cache")
        }
        return said | {"decode": known | {"max_frames": 7, "allow_url": True}}

    rewrite(path, forget)
    # To go to the network is not a file's to allow.
    assert load_model_file(path).decode == DecodeConfig(max_frames=7, max_pixels=4096 * 2304)


def test_no_file_opens_the_network_or_turns_isolation_off(
    plain_model: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(plain_model)
    rewrite(path, lambda said: said | {"decode": said["decode"] | {"allow_url": True, "isolate": False}})
    model = load_model_file(path)
    assert not model.decode.allow_url
    assert model.decoded_as({"isolate": True}).decode.isolate
    assert main(["predict", str(path), "http://127.0.0.1:9/a.mp4"]) == 2
    assert "only local files are read; --decode.allow_url true lets it be fetched" in capsys.readouterr().err
    rewrite(path, lambda said: said | {"decode": said["decode"] | {"isolate": True}})
    assert load_model_file(path).decode.isolate  # stricter than usual is a file's to ask for


def test_a_lie_of_size_costs_neither_time_nor_memory(plain_model: bytes, tmp_path: Path) -> None:
    """4 TB of weights, by the settings."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(plain_model)
    rewrite(path, lambda said: said | {"model": said["model"] | {"hidden_channels": 65_536, "heads": ["gru"] * 16}})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="do not fit together"):
        load_model_file(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_a_device_that_is_not_there_is_told_with_those_that_are(plain_model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(plain_model)
    for device in ("mps", "xpu", "meta", "vulkan", "cuda:99", "cpu:3", "", "gpu"):
        for load in (load_model_file, load_model):
            with pytest.raises(UserError, match=rf"device '{device}': torch .* has cpu.* here"):
                load(path, device)
    assert load_model(path, "auto").file.labels == load_model(path, "cpu").file.labels
