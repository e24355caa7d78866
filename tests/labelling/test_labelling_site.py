"""The labelling page's server, asked over real connections: what it answers, and whom it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.labelling import site as site_module
from pipeline.labelling.proposals import Offer
from tests.labelling.conftest import LabelPage
from tests.videos import encode

MakePage = Callable[[Path], LabelPage]


@pytest.fixture
def label(make_page: MakePage, tmp_path: Path) -> LabelPage:
    encode(tmp_path, "bframes.avi")
    return make_page(tmp_path)


def ask(label: LabelPage, path: str, values: object = None, **headers: str) -> tuple[int, bytes]:
    """Status and body; with values a POST, by default as the page makes it."""
    port = int(label.url.rstrip("/").rpartition(":")[2])
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    body = None if values is None else values if isinstance(values, bytes) else json.dumps(values).encode()
    sent = {"X-Clipgru-Token": label.server.site.token} | {
        name.replace("_", "-"): text for name, text in headers.items()
    }
    try:
        connection.request("GET" if body is None else "POST", path, body, sent)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def change(label: LabelPage, **values: object) -> tuple[int, bytes]:
    return ask(label, "/changes", {"video": 0, "who": "me"} | values)


def test_a_change_is_snapped_to_pictures_and_told(label: LabelPage) -> None:
    ask(label, "/folder.json")
    status, body = change(label, edits=[{"id": None, "version": None, "to": ["walk", 0.413, 0.8201]}])
    assert status == 200
    (stretch,) = json.loads(body)["stretches"]
    assert stretch["span"] == ["walk", 0.4, 0.84] or stretch["span"] == ["walk", 0.4, 0.8]
    assert label.lines() == [f"bframes.avi,walk,0.4,{stretch['span'][2]},,,unlabelled"]
    seen = {"id": stretch["id"], "version": stretch["version"]}
    assert change(label, edits=[seen | {"to": ["run", 0.4, 0.8]}])[0] == 200
    status, body = change(label, edits=[seen | {"to": None}])
    assert status == 409
    assert json.loads(body)["stretches"][0]["span"] == ["run", 0.4, 0.8]
    assert ask(label, "/undo", {"who": "me"})[0] == 200
    assert label.lines()[0].startswith("bframes.avi,walk,0.4,")


def test_times_scores_and_the_file(label: LabelPage) -> None:
    ask(label, "/folder.json")
    facts = json.loads(ask(label, "/videos/0.json")[1])["facts"]
    times = np.frombuffer(ask(label, "/videos/0/times")[1], "<f8")
    assert (len(times), facts["num_frames"], facts["seconds"]) == (60, 60, pytest.approx(2.4))
    assert times == pytest.approx(np.arange(60) / 25)
    assert ask(label, "/videos/0/scores")[0] == 204
    label.draft("bframes.avi", ("walk", 0.4, 0.8, 0.9))
    assert ask(label, "/videos/0/scores") == (200, bytes([85]) * 30)
    assert ask(label, "/videos/0/file")[1] == (label.folder / "bframes.avi").read_bytes()
    status, part = ask(label, "/videos/0/file", Range="bytes=10-19")
    assert (status, part) == (206, (label.folder / "bframes.avi").read_bytes()[10:20])


def test_what_is_not_there(label: LabelPage) -> None:
    ask(label, "/folder.json")
    paths = (
        "/videos/1.json",
        "/videos/x.json",
        "/videos/../manifest.csv",
        "/videos/-1/file",
        "/pictures/0/60.jpg",
        "/pictures/0/%2e%2e.jpg",
        "/manifest.csv",
    )
    assert [ask(label, path)[0] for path in paths] == [404] * len(paths)


def test_what_makes_no_sense_changes_nothing(label: LabelPage) -> None:
    ask(label, "/folder.json")
    bad = [
        {"edits": 3},
        {"edits": [3]},
        {"edits": [{"id": "1", "to": None}]},
        {"edits": [{"to": ["walk", 2, 1]}]},
        {"edits": [{"to": ["", 1, 2]}]},
        {"edits": [{"to": ["walk", 1.0, 1.001]}]},
        {"edits": [{"to": ["walk", True, 2]}]},
        {"rest": "nothing"},
        {"edits": [{"to": ["walk\nrun", 1, 2]}]},
        {"edits": [{"to": ["walk", 1, 10**400]}]},
        {"edits": [{"to": ["walk", float("nan"), 2]}]},
        {"reject": [["walk"]]},
        {"reject": [["walk", 0, float("inf")]]},
        {"who": ""},
        {"who": "a b"},
    ]
    assert [change(label, **values)[0] for values in bad] == [400] * len(bad)
    assert change(label, video=7)[0] == 404
    assert ask(label, "/changes", b"{")[0] == 400
    assert ask(label, "/changes", b"[1]")[0] == 400
    assert ask(label, "/changes", b'"' + b"x" * site_module.MAX_BODY_BYTES + b'"')[0] == 413
    assert label.lines() == []


def test_a_page_of_another_site_can_do_nothing(label: LabelPage) -> None:
    ask(label, "/folder.json")
    values = {"video": 0, "who": "me", "edits": [{"to": ["walk", 0.4, 0.8]}]}
    for path in ("/changes", "/undo", "/redo", "/learn", "/next"):
        assert ask(label, path, values, Origin="http://evil.example")[0] == 403
        assert ask(label, path, values, Origin="null")[0] == 403
        assert ask(label, path, values, X_Clipgru_Token="guessed")[0] == 403
    for path in ("/", "/folder.json", "/videos/0.json", "/videos/0/file", "/pictures/0/0.jpg"):
        assert ask(label, path, Host="evil.example")[0] == 400
    assert label.lines() == []


def test_drafts_leave_out_what_is_labelled_and_what_was_rejected(label: LabelPage) -> None:
    ask(label, "/folder.json")
    label.draft("bframes.avi", ("run", 1.4, 2.0, 0.5), ("walk", 0.0, 1.2, 0.9))
    change(label, edits=[{"to": ["run", 0.4, 0.8]}], reject=[["run", 1.4, 1.9]])
    drafts = json.loads(ask(label, "/videos/0.json")[1])["drafts"]
    assert [draft["span"] for draft in drafts] == [["walk", 0.0, 0.4], ["walk", 0.8, 1.2]]
    change(label, rest="background")
    assert json.loads(ask(label, "/videos/0.json")[1])["drafts"] == []


def test_no_two_neighbours_are_offered_in_a_row(label: LabelPage) -> None:
    ask(label, "/folder.json")
    first, second, third = (Offer("bframes.avi", start, start + 0.5, "new") for start in (0.0, 0.5, 1.5))
    label.offer(first, second, third)
    label.store.change("bframes.avi", "me", [])
    starts = [json.loads(ask(label, "/next", {"who": "me"})[1]).get("start") for _ in range(3)]
    assert starts == [0.0, 1.5, 0.5]
    assert json.loads(ask(label, "/next", {"who": "me"})[1])["video"] is None


def test_learning_waits_for_features(label: LabelPage) -> None:
    from pipeline.labelling.messages import LearnJob, News

    ask(label, "/folder.json")
    assert ask(label, "/learn", {"video": 0})[0] == 400  # nothing is labelled
    change(label, edits=[{"to": ["walk", 0.4, 0.8]}], reject=[["run", 1.0, 1.2]])
    label.jobs.clear()
    assert ask(label, "/learn", {"video": 0})[0] == 202
    assert label.jobs == []
    label.tell(News("embedded", "bframes.avi"))
    (job,) = label.jobs
    assert isinstance(job, LearnJob)
    assert {(row.label, row.start_seconds) for row in job.rows} == {
        ("walk", 0.4),
        ("unlabelled", 0.0),
        ("unlabelled", 0.8),
    }
    assert job.rejected == {"bframes.avi": [(1.0, 1.2)]}
    assert job.output == label.folder / "model.safetensors"


def test_a_folder_without_videos_or_a_model_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, words in ((tmp_path / "none", "no such folder"), (tmp_path, "holds no video")):
        assert main(["label", str(folder), "--serve", "127.0.0.1:0"]) == 2
        assert words in capsys.readouterr().err
