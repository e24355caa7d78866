"""``clipgru score``: files in, figures out, and what is missing said by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Truth of two videos; predictions of one of them and of another."""
    monkeypatch.chdir(tmp_path)
    Path("truth.csv").write_text(
        "path,label,start_seconds,end_seconds,split\nx/a.mp4,run,0,10,test\nx/b.mp4,run,5,10,test\nx/c.mp4,jump,0,1,train\n"
    )
    spans = [{"segment": [1, 10], "label": "run", "score": 0.9}, {"segment": [20, 21], "label": "hop", "score": 0.1}]
    Path("found.json").write_text(json.dumps({"results": {"a": spans, "z": []}}))
    return tmp_path


def test_the_table_and_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "found.json", "truth.csv", "--split", "test"]) == 0
    out, err = capsys.readouterr()
    assert "2 videos, 2 true segments, 2 predicted" in out
    assert "F1@50, counted together" in out
    assert "50.0 %" in out
    for said in ("count as empty", "1: x/b.mp4", "left out. 1: z", "never true", "1: hop", "no known duration"):
        assert said in err
    assert main(["score", "found.json", "truth.csv", "--split", "test", "--quiet", "--resamples", "0"]) == 0
    assert capsys.readouterr().err == ""


def test_json_for_scripts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "found.json", "truth.csv", "--split", "test", "--json", "--background", "hop"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["f1_50"] == pytest.approx(2 / 3)
    assert answer["map_iou_50"] == pytest.approx(0.5)
    assert answer["delay_mean_seconds"] == 1.0
    assert (answer["missing"], answer["without_truth"], answer["unknown_labels"]) == (["x/b.mp4"], ["z"], [])
    assert answer["interval_95"]["f1_50"] == [0.0, 1.0]


def test_steps_have_seconds_only_at_a_rate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side in ("true", "found"):
        Path(side).mkdir()
        Path(side, "v.txt").write_text("background\nrun\nrun\n")
    assert main(["score", "found", "true", "--json"]) == 0
    out, err = capsys.readouterr()
    assert not [name for name in json.loads(out) if "seconds" in name or "hour" in name]
    assert "need --sample_fps" in err
    assert main(["score", "found", "true", "--json", "--sample_fps", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["delay_mean_seconds"] == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["found.json"], "are required: truth"),
        (["absent", "truth.csv"], "absent: no such file"),
        (["found.json", "truth.csv", "--split", "val"], "no video of the split 'val'"),
        (["found.json", "truth.csv", "--format", "anet"], "unknown timeline format 'anet'"),
        (["found.json", "found.json", "truth.csv"], "is there twice"),
        (["other.json", "truth.csv"], "name the videos alike"),
        (["found.json", "truth.csv", "--sample_fps", "0"], "sample_fps must be positive"),
        (["found.json", "truth.csv", "--tolerance_seconds", "[-1]"], "none negative"),
        (["found.json", "truth.csv", "--resamples", "-1"], "resamples must be from 0 to 100,000"),
    ],
)
def test_wrong_input(args: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.json").write_text('{"results": {"q": []}}')
    assert main(["score", *args]) == 2
    assert message in capsys.readouterr().err


def test_it_needs_no_torch(folder: Path) -> None:
    code = "import sys; from pipeline.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    words = [sys.executable, "-c", code, "score", "found.json", "truth.csv"]
    root = Path(__file__).parent.parent
    assert subprocess.run(words, env={"PYTHONPATH": str(root)}, capture_output=True).returncode == 0


def test_published_predictions_of_all_splits_at_once(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ED-TCN on 50 Salads, counted together over its 50 videos; each of five folders has ten of them."""
    root = shared_data / "salads50"
    folders = [str(root / f"split{k}" / "ed_tcn_predictions") for k in range(1, 6)]
    assert main(["score", *folders, str(root / "split1" / "groundTruth"), "--json", "--resamples", "0"]) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert "one step in 5" in err
    assert (answer["num_videos"], answer["missing"]) == (50, [])
    for name, percent in {"f1_10": 67.1, "f1_25": 63.0, "f1_50": 51.9, "edit": 59.8}.items():
        assert 100 * answer[name] == pytest.approx(percent, abs=0.05)


@pytest.mark.parametrize("end", ["1e308", "1e12", "1e8"])
@pytest.mark.parametrize("side", ["truth.csv", "found.csv"])
def test_a_video_that_lasts_for_ever_is_refused(
    folder: Path, side: str, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Milliseconds in the place of seconds, or worse."""
    for name in ("truth.csv", "found.csv"):
        Path(name).write_text(f"path,label,start_seconds,end_seconds\na.mp4,run,0,{end if name == side else 1}\n")
    assert main(["score", "found.csv", "truth.csv"]) == 2
    said = capsys.readouterr().err
    assert "a.mp4: it lasts" in said
    assert "are its times in seconds?" in said


def test_more_resamples_than_memory_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "found.json", "truth.csv", "--resamples", "100000000000"]) == 2
    assert "resamples must be from 0 to 100,000" in capsys.readouterr().err
