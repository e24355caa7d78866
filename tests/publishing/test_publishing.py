"""A model file to a stand-in of the hub and back, and the card that goes with it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from pipeline.calibration import Calibration
from pipeline.checkpoint import load_model_file, save_model
from pipeline.cli import main
from pipeline.config import SequenceConfig
from pipeline.hub import DIGEST_FILE, MODEL_FILE, HubModel, local_model
from pipeline.inference import load_model
from pipeline.publishing.card import make_card
from tests.hub_server import HubServer, point_to
from tests.small import small_model

TOKEN = "hf_" + "ZyXwVuTsRq" * 3
MINE = HubModel("me/mine")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "*")
    with HubServer() as server:
        point_to(server.url, monkeypatch)
        yield server


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "run" / MODEL_FILE
    save_model(path, small_model())
    return path


def test_a_pushed_model_comes_back(hub: HubServer, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(model), "me/mine", "--private", "--licence", "cc-by-4.0"]) == 0
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    answer, commit = json.loads(said.out), hub.branches["me/mine", "main"]
    assert answer["model"] == f"hf://me/mine@{commit}"
    assert answer["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert hub.repositories["me/mine"] is True
    sent = hub.files["me/mine", commit]
    assert sent[MODEL_FILE] == model.read_bytes()
    assert sent[DIGEST_FILE].decode() == f"{answer['sha256']}  {MODEL_FILE}\n"
    assert ModelCard(sent["README.md"].decode()).data.license == "cc-by-4.0"
    assert load_model("hf://me/mine", "cpu").labels == load_model_file(model).labels


def test_a_new_push_leaves_the_old_commit(hub: HubServer, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = model.read_bytes()
    assert main(["push", str(model), "me/mine"]) == 0
    first = json.loads(capsys.readouterr().out)["model"]
    save_model(model, small_model(2))
    assert main(["push", str(model), "me/mine"]) == 0
    assert Path(local_model("hf://me/mine")).read_bytes() == model.read_bytes() != old
    assert Path(local_model(first)).read_bytes() == old
    assert main(["push", str(model), "me/mine", "--revision", "try/1"]) == 0
    assert Path(local_model("hf://me/mine@try/1")).read_bytes() == model.read_bytes()


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["push", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert TOKEN not in said
    return said


def test_what_is_wrong_here_is_told_before_anything_is_sent(
    hub: HubServer, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(model)
    for name in ("mine", "me/mine/x", "../x", "me/mine@v1", "hf://me/mine", f"me/{TOKEN}"):
        assert "a repository of the hub is named owner/name" in refused([path, name], capsys)
    for revision in ("../x", "a" * 40, TOKEN):
        assert "--revision: a branch" in refused([path, "me/mine", "--revision", revision], capsys)
    assert "--licence: an identifier" in refused([path, "me/mine", "--licence", "do what\nyou want"], capsys)
    assert "no such model file" in refused([str(tmp_path / "none.safetensors"), "me/mine"], capsys)
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    assert "SHA-256 differs" in refused([path, "me/mine"], capsys)
    assert not hub.requests


def test_what_the_hub_refuses_is_one_line(hub: HubServer, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.answers = (403, "")
    assert "the hub answers 403 Forbidden; log in with hf auth login" in refused([str(model), "me/mine"], capsys)
    hub.answers = (401, "")
    assert "if it is private log in with hf auth login" in refused([str(model), "me/mine"], capsys)
    hub.answers = None
    wrong = [str(model), "me/other", "--licence", "none-such"]
    assert "give a --licence that it lists, or none" in refused(wrong, capsys)
    hub.make("me/mine")
    assert "is there already, and public" in refused([str(model), "me/mine", "--private"], capsys)
    hub.commit("me/mine", "main", {"README.md": b"mine"})
    assert "that clipgru push did not write" in refused([str(model), "me/mine"], capsys)
    assert hub.files["me/mine", hub.branches["me/mine", "main"]] == {"README.md": b"mine"}


def card_of(path: Path, licence: str | None = None) -> str:
    return make_card(path, load_model_file(path), MINE, "0" * 64, licence).text


def test_a_card_says_what_is_known_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    save_model(path, small_model())
    card = ModelCard(text := card_of(path))
    assert card.data.library_name == "clipgru"
    assert card.data.pipeline_tag == "video-classification"
    assert card.data.license is None
    assert "The publisher states none." in text
    assert "None came with the model" in text
    assert "Not known: nobody measured it" in text
    assert "clipgru predict hf://me/mine video.mp4" in text
    assert "gets one of them all the same" in text


def write_run(folder: Path) -> None:
    """What train, evaluate and diagnose leave, in short."""
    lines = [
        {"command": "clipgru evaluate m --split val --data.root elsewhere", "outcome": "done"},
        {"command": "clipgru evaluate m", "outcome": "done"},
    ]
    machine = {"machine": {}, "versions": {}}
    (folder / "commands.jsonl").write_text("".join(json.dumps(line | machine) + "\n" for line in lines))
    shares = {"as filmed": 0.9, "shuffled": 0.3}
    orders = {name: {"accuracy": share, "low": share - 0.1, "high": share + 0.05} for name, share in shares.items()}
    figures = {"top1": 0.8125, "top1_low": 0.57, "top1_high": 0.934, "num_videos": 16, "num_errors": 0}
    for name, content in {
        "evaluation_test/summary.json": figures,
        "evaluation_val/summary.json": figures | {"top1": 0.75},
        "diagnosis/diagnosis.json": {"num_videos": 40, "uses_time": True, "accuracy_by_order": orders},
        "data.json": {"splits": {"train": {"class_counts": {"a": 3, "b": 4}, "num_sources": 5}}},
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    for split in ("test", "val"):
        (folder / f"evaluation_{split}" / "videos.csv").write_text("name,path,label,predicted,error\n")


def test_a_card_has_the_figures_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / MODEL_FILE
    data = {"format": "folder", "root": "/home/somebody/secret place/my_videos", "val_fraction": 0.25}
    experiment = {"data": data, "seed": 3}
    labels = ("class 0", "a|b", "<b>c")
    provenance = {"clipgru": "0.9.0", "num_training_videos": 7, "experiment": experiment}
    unknown = Calibration(unknown_threshold=0.5)
    save_model(path, replace(small_model(), labels=labels, provenance=provenance, calibration=unknown))
    write_run(tmp_path)
    text = card_of(path)
    assert "| test videos | accuracy | 81.2 % | 57.0 to 93.4 % | 16 |" in text
    assert "| 75.0 % |" in next(line for line in text.splitlines() if "of other data than it was trained with" in line)
    assert "Yes: the order of frames helps it, beyond chance, in 40 videos" in text
    assert "- shuffled: 30.0 % right (20.0 to 35.0)" in text
    assert "learned from 7 videos" in text
    assert "`data.val_fraction` 0.25" in text
    assert "seed 3\n" in text
    assert "- train: 7 in 2 classes, from 5 sources" in text
    assert "secret" not in text
    assert "my\\_videos" in text
    assert r"a\|b, \<b\>c" in text
    assert "may call unknown" in text


def test_figures_of_an_earlier_model_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / MODEL_FILE
    save_model(path, small_model())
    write_run(tmp_path)
    for record in (*tmp_path.glob("evaluation_*/summary.json"), tmp_path / "diagnosis" / "diagnosis.json"):
        os.utime(record, (1, 1))
    assert main(["push", str(path), "me/mine", "--card_only", str(tmp_path / "card.md")]) == 0
    assert capsys.readouterr().err.count("is older than the model file, and left out") == 3
    text = (tmp_path / "card.md").read_text()
    assert "None came with the model" in text
    assert "Not known: nobody measured it" in text


def test_a_card_of_a_model_of_timelines(tmp_path: Path) -> None:
    path = tmp_path / MODEL_FILE
    sequence = SequenceConfig(labels="several", delay_frames=3)
    save_model(path, replace(small_model(), task="timeline", sequence=sequence, metrics={"val_f1_25": 0.5}))
    text = card_of(path)
    assert "any number of labels at each moment of a long video, 5 a second, 0.6 s late" in text
    assert "| held-out videos that chose the model: it flatters | F1@25 | 50.0 % | not known |  |" in text
    assert "task-timeline" in text


def test_a_run_that_is_not_ours_is_one_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(model.parent)
    (model.parent / "evaluation_test" / "summary.json").write_text('{"top1": 0.5, "interval_95": 5}')
    words = [str(model), "me/mine", "--card_only", str(model.parent / "card.md")]
    assert "a file in it is not as clipgru writes it" in refused(words, capsys)
    assert not (model.parent / "card.md").exists()
