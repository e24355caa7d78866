"""The folds of a timeline benchmark train without their test videos, and its table is what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.sandbox import furnish_ms_tcn

ROOT = Path(__file__).resolve().parents[2]


def test_a_small_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    import benchmark_timelines

    for number in (1, 2):
        furnish_ms_tcn(tmp_path / f"split{number}")
    words = f"--config {ROOT}/configs/salads50.yaml --root {tmp_path}/split{{split}} --official_splits 2 --windows"
    places = f"--runs {tmp_path}/runs --output {tmp_path}/record -- --training.epochs 1 --model.hidden_channels 4"
    monkeypatch.setattr(sys, "argv", ["benchmark_timelines.py", *words.split(), *places.split()])
    benchmark_timelines.main()
    kept = json.loads((tmp_path / "record.json").read_text())
    assert [(row["fold"], row["mode"]) for row in kept] == [
        (fold, mode) for fold in ("split1", "split2") for mode in ("as trained", "windows")
    ]
    whole = [100 * row["on_grid_frame_accuracy"] for row in kept if row["mode"] == "as trained"]
    assert f"{sum(whole) / 2:.1f} ±" in (tmp_path / "record.md").read_text()
    assert "split2  as trained" in capsys.readouterr().out
    for number in (1, 2):
        said = json.loads((tmp_path / "runs" / f"salads50_split{number}_seed0" / "data.json").read_text())
        assert "d.npy" not in json.dumps(said)  # the test video
