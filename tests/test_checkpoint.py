"""The model file: whole, self-describing, safe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pipeline.checkpoint import load_model_file, save_model
from pipeline.config import DecodeConfig, Normalization
from pipeline.errors import UserError
from pipeline.models.temporal.stack import TEMPORAL_HEADS
from tests.small import small_model


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "model file format 99"),
        ({"labels": ["one"]}, "do not fit together"),
        ({"sampling": {"sample_fps": "fast"}}, "setting of the model file is not understood"),
    ],
)
def test_a_description_that_lies_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, small_model())
    rewrite(path, lambda description: description | change)
    with pytest.raises(UserError, match=message):
        load_model_file(path)


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Changes what a model file says of itself."""
    with safetensors.safe_open(str(path), framework="pt") as stream:
        description = json.loads(stream.metadata()["clipgru"])
        state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    safetensors.torch.save_file(state, path, {"clipgru": json.dumps(change(description))})


def test_a_file_from_before_a_setting_existed_gets_its_default(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = small_model()
    save_model(path, replace(model, decode=DecodeConfig(max_frames=7, allow_url=True)))
    later = ("allow_url", "max_download_mb", "index_cache")

    def forget(description: dict[str, Any]) -> dict[str, Any]:
        known = {name: value for name, value in description["decode"].items() if name not in later}
        return description | {"decode": known}

    rewrite(path, forget)
    assert load_model_file(path).decode == DecodeConfig(max_frames=7)
