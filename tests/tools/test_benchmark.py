"""The benchmark's arithmetic and its tables; no time is asserted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipeline.config import to_yaml
from tests.small import small_experiment

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(autouse=True)
def tools_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TOOLS)


def test_a_ratio_is_taken_within_rounds() -> None:
    from benchmarks.timing import Times

    times = Times({"slow": [2.0, 40.0, 2.2], "fast": [1.0, 20.0, 1.0]})  # the second round was a busy one
    assert times.ratio("slow", "fast") == 2.0
    assert times.milliseconds("slow") == 2200.0
    parts = Times({"whole": [6.0, 60.0], "a": [2.0, 20.0], "b": [1.0, 10.0]})
    assert parts.share_of_parts("whole", ["a", "b"], overlap=False) == 2.0
    assert parts.share_of_parts("whole", ["a", "b"], overlap=True) == 3.0


def test_contestants_take_turns() -> None:
    from benchmarks.timing import interleaved

    calls: list[str] = []
    contestants = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    times = interleaved(contestants, 4, "cpu")
    rounds = [calls[start : start + 3] for start in range(len(calls) - 12, len(calls), 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert all(len(seconds) == 4 for seconds in times.seconds.values())


def test_the_heads_group_writes_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmark

    from benchmarks import heads

    monkeypatch.setattr(heads, "SIZES", (heads.Size(1, 3, 4, 3, 2),))
    monkeypatch.setattr(heads, "_OVER_T", (2, 4))
    monkeypatch.setattr(heads, "_STEP_MAPS", ((4, 3),))
    experiment = tmp_path / "small.yaml"
    experiment.write_text(to_yaml(small_experiment(tmp_path, tmp_path)))
    monkeypatch.setattr(heads, "_EXPERIMENTS", (experiment,))
    options = ["--groups", "heads", "--rounds", "1", "--no-compile", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *options])
    assert benchmark.main() == 0
    record = json.loads((tmp_path / "heads.json").read_text())
    assert record["rounds"] == 1
    assert record["machine"]["torch"]
    rows = record["tables"][0]["rows"]
    assert rows["naive loop"]["naive / this"] == 1.0
    assert rows["torch.compile of the naive loop"]["ms"] is None
    steps = record["tables"][-1]["rows"]
    assert list(steps) == [f"small, {name}" for name in (heads.BOTH, *heads.LEFT_OUT)]
    assert steps["small, both"]["this / both"] == 1.0
    page = (tmp_path / "heads.md").read_text()
    assert "| torch.compile of the naive loop | not measured |" in page
    assert (tmp_path / "heads.png").stat().st_size > 1000


def test_the_ceilings_group_writes_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where a CUDA graph is said to be not measured."""
    import benchmark

    from benchmarks import ceilings, heads

    monkeypatch.setattr(ceilings, "SIZES", (heads.Size(1, 3, 4, 3, 2),))
    small = {"_SIDE": 8, "_COPIED_BYTES": 1000, "_NUM_FRAMES": 3, "_FRAMES_A_CALL": 2, "_STEPS_A_ROUND": 2}
    for name, value in small.items():
        monkeypatch.setattr(ceilings, name, {"cpu": value})
    options = ["--groups", "ceilings", "--rounds", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *options])
    assert benchmark.main() == 0
    *shares, rates = json.loads((tmp_path / "ceilings.json").read_text())["tables"]
    assert [table["rows"]["a matrix product"]["% of the product's"] for table in shares] == [100, 100]
    assert rates["rows"]["features of cached frames"]["frames a second"] > 0
    assert rates["rows"][ceilings.GRAPH] == {"frames a second": None}
