"""Models of the hub: from a stand-in on the loopback into the cache, verified, and out of it without a network."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.checkpoint import save_model
from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.hub import DIGEST_FILE, MODEL_FILE, HubModel, local_model, parse_hub_address
from pipeline.inference import load_model
from pipeline.sources import has_address, shown_source
from pipeline.training.initial import start_from
from tests.hub_server import HubServer, point_to
from tests.ports import free_port
from tests.small import small_experiment, small_model

ROOT = Path(__file__).parents[1]
TOKEN = "hf_" + "AbCdEfGhIj" * 3
NAME = "somebody/some.model-1"
ADDRESS = f"hf://{NAME}"


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("hub") / "m.safetensors"
    save_model(path, small_model())
    return path.read_bytes()


def parcel(content: bytes) -> dict[str, bytes]:
    return {MODEL_FILE: content, DIGEST_FILE: f"{hashlib.sha256(content).hexdigest()}  {MODEL_FILE}\n".encode()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, model_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """One with a model."""
    with HubServer() as server:
        point_to(server.url, monkeypatch)
        server.make(NAME)
        server.commit(NAME, "main", parcel(model_bytes))
        yield server


def refusal(address: str) -> str:
    with pytest.raises(UserError) as refused:
        local_model(address)
    message = str(refused.value)
    assert "\n" not in message
    assert TOKEN not in message
    assert "127.0.0.1" not in message
    return message


def test_names_are_checked_before_anything_is_asked() -> None:
    assert parse_hub_address("hf://a/b") == HubModel("a/b", "main")
    assert parse_hub_address("hf://a-1/b_2.c@refs/pr/3") == HubModel("a-1/b_2.c", "refs/pr/3")
    wrong = [
        "a",
        "a/b/c",
        "a/..",
        "../b",
        "a/b@",
        "a/b@../x",
        "a/b@x..y",
        "a/b@/x",
        "a/b@x y",
        "a/-b",
        "a/b--c",
        "a/b.git",
    ]
    wrong += [
        "a/b\n",
        "a/b@x\n",
        "a/é",
        f"a/{'b' * 96}",
        f"a/b@{'x' * 101}",
        "user:pw@host/b",
        f"a/b@{TOKEN}",
        f"{TOKEN}/b",
    ]
    for name in wrong:
        assert refusal(f"hf://{name}").startswith("***: a model of the hub is named hf://owner/name")
    assert "***" in refusal("hf:/a/b")
    assert local_model("models/hf.safetensors") == "models/hf.safetensors"


def test_addresses_are_shown_and_are_no_outputs() -> None:
    assert shown_source("hf://a/b@v1") == "hf://a/b@v1"
    assert shown_source(f"hf://a/b@{TOKEN}") == "***"
    assert has_address(Path("hf://a/b"))


def test_a_model_is_loaded_verified_and_asked_for_once(hub: HubServer, model_bytes: bytes) -> None:
    assert load_model(ADDRESS, "cpu").labels == ("class 0", "class 1", "class 2")
    path = Path(local_model(ADDRESS))
    assert path.read_bytes() == model_bytes
    commit = hub.branches[NAME, "main"]
    assert path.parent.name == commit
    assert [path for method, path, _ in hub.requests if method == "GET" and path.endswith(MODEL_FILE)] == [
        f"/{NAME}/resolve/{commit}/{MODEL_FILE}"
    ]
    num_requests = len(hub.requests)
    assert local_model(f"{ADDRESS}@{commit}") == str(path)  # a commit never changes: nothing is asked
    assert len(hub.requests) == num_requests


def test_commands_take_addresses(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them ask ``local_model``; those that write beside their model ask where."""
    for command in ("evaluate", "diagnose", "export", "tune-timeline"):
        assert main([command, ADDRESS]) == 2
        assert f"{ADDRESS}: this command writes beside its model" in capsys.readouterr().err
    assert not hub.requests
    for words in (["predict", ADDRESS, "missing.mp4"], ["webcam", ADDRESS, "missing.mp4", "--replay"]):
        assert main(words) == 2
        assert "missing.mp4" in capsys.readouterr().err
    assert main(["explain", f"{ADDRESS}@v9", "missing.mp4"]) == 2
    assert f"{ADDRESS}@v9: the repository has no such revision" in capsys.readouterr().err


def test_a_training_starts_from_an_address(hub: HubServer) -> None:
    said, provenance = start_from(ADDRESS, small_model(5).recognizer, small_experiment(Path("."), Path(".")))
    assert said.startswith(f"starts from {ADDRESS}: backbone")
    assert provenance["clipgru"] == "0.0.test"


def test_a_tampered_file_is_refused(hub: HubServer, model_bytes: bytes, cache: Path) -> None:
    good = local_model(ADDRESS)
    changed = model_bytes[:-1] + bytes([model_bytes[-1] ^ 1])
    hub.commit(NAME, "main", {MODEL_FILE: changed})
    assert "its model file is not the one that was pushed" in refusal(ADDRESS)
    hub.commit(NAME, "main", {DIGEST_FILE: b"no digest\n"})
    assert "its model file is not the one that was pushed" in refusal(ADDRESS)
    hub.answers = (503, "")  # what the cache has is the last good one
    assert local_model(ADDRESS) == good
    Path(good).resolve().write_bytes(changed)
    assert "its model file is not the one that was pushed" in refusal(ADDRESS)


def test_without_a_network_the_cache_answers(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = local_model(ADDRESS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    num_requests = len(hub.requests)
    assert local_model(ADDRESS) == path
    assert "was not opened here before" in refusal(f"{ADDRESS}@other")
    assert len(hub.requests) == num_requests
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.answers = (503, "")
    assert local_model(ADDRESS) == path
    point_to(f"http://127.0.0.1:{free_port()}", monkeypatch)
    assert local_model(ADDRESS) == path
    assert "go online once, or name a model file by its path" in refusal("hf://somebody/else")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "GatedRepo", "it is gated: accept its terms on its page on the hub, then log in with hf auth login"),
        (404, "RepoNotFound", "the hub shows no such repository: check the name, or if it is private log in"),
        (401, "", "the hub shows no such repository: check the name, or if it is private log in"),
        (404, "RevisionNotFound", "the repository has no such revision"),
        (404, "EntryNotFound", f"the repository has no {MODEL_FILE} with a {DIGEST_FILE}"),
        (403, "", "the hub answers 403 Forbidden; log in with hf auth login, or set HF_TOKEN, by a token"),
        (418, "", "the hub answers 418"),
    ],
)
def test_answers_of_the_hub_are_one_line(hub: HubServer, status: int, code: str, words: str) -> None:
    hub.answers = (status, code)
    assert refusal(ADDRESS).startswith(f"{ADDRESS}: {words}")
    assert hub.requests[0][2] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"ETag": '"../../../../outside"'}, "is none of a hub"),
        ({"X-Repo-Commit": "../../../outside"}, "is none of a hub"),
        ({"X-Repo-Commit": ""}, "is none of a hub"),
        ({"X-Linked-Size": str(1 << 40)}, "1,099,511,627,776 bytes, and may have"),
        ({"X-Linked-Size": "-5"}, ""),
    ],
)
def test_hostile_answers_write_nothing(
    hub: HubServer, cache: Path, headers: dict[str, str], words: str, tmp_path: Path
) -> None:
    hub.headers = headers
    assert words in refusal(ADDRESS)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name in ("outside", MODEL_FILE)]


def test_more_than_announced_is_cut_off(hub: HubServer, cache: Path, model_bytes: bytes) -> None:
    hub.commit(NAME, "main", {MODEL_FILE: bytes(4 << 20)})
    hub.headers = {"X-Linked-Size": "100"}
    assert "the server sends more than the 100 bytes that it announces" in refusal(ADDRESS)
    assert not list(cache.rglob("*.incomplete"))


IMPORT = """
import socket, sys
def refuse(*_): raise SystemExit("a connection")
socket.socket.connect = socket.getaddrinfo = refuse
import pipeline, pipeline.cli, pipeline.hub, pipeline.sources
assert not {"huggingface_hub", "httpx2", "torch"} & sys.modules.keys(), "heavy imports"
pipeline.hub.local_model("runs/mine/model.safetensors")
assert "huggingface_hub" not in sys.modules
"""


def test_nothing_is_asked_at_import() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_environment_names_hub_cache_and_token(hub: HubServer, model_bytes: bytes, tmp_path: Path) -> None:
    program = f"from pipeline.hub import local_model; print(local_model({ADDRESS!r}))"
    given = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert Path(done.stdout.strip()).read_bytes() == model_bytes
    assert done.stdout.startswith(str(tmp_path / "home"))
    assert {token for _, path, token in hub.requests if "resolve" in path} == {f"Bearer {TOKEN}"}


def test_a_fault_is_one_line_and_the_library_says_nothing(hub: HubServer, tmp_path: Path) -> None:
    """Also at its first use, when it sets up its log."""
    home = tmp_path / "home"
    home.touch()
    hub.headers = {"X-HF-Warning": "topic; words of the server"}
    program = f"from pipeline.cli import main; main(['predict', {ADDRESS!r}, 'a.mp4'])"
    given = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=os.environ | given, capture_output=True)
    said = (done.stdout + done.stderr).decode()
    assert said.startswith(f"clipgru: error: {ADDRESS}: {home}")
    assert said.endswith(": a part of the path is a file, not a folder\n")
    assert said.count("\n") == 1
