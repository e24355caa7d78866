"""Model files that lie; the full count is ``tools/fuzz_model.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")
def test_model_files_that_lie(exported: Path, tmp_path: Path) -> None:
    """Each lie of each format once, accidents and forgeries, in forks of a process of its own."""
    command = [sys.executable, ROOT / "tools" / "fuzz_model.py", "--files", exported, "--mutations", 45]
    command += ["--seed", 1, "--output", tmp_path]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert (tmp_path / "fuzz_model.json").exists(), result.stderr
    found = json.loads((tmp_path / "fuzz_model.json").read_text())
    assert found["mutations"] == 45
    assert found["tracebacks"] == found["past_1500_megabytes"] == found["accidents_with_other_scores"] == 0
    assert found["accidents"]["refused"] > 15
    assert "| tracebacks | 0 |" in (tmp_path / "fuzz_model.md").read_text()
