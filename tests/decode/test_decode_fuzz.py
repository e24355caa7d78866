"""Damaged files through the isolated reader; the full count is ``tools/fuzz_decode.py``."""

from __future__ import annotations

from pathlib import Path

import videos

from pipeline.config import DecodeConfig
from pipeline.decode import VideoOpener
from tools.fuzz_decode import fuzz, summary

NUM_MUTATIONS = 40
KINDS = ["bframes.avi", "mpeg4.mp4", "h264.ts", "vp9.webm", "live.mkv"]


def test_damaged_files(tmp_path: Path) -> None:
    sources = [path for path in (videos.encode(tmp_path, name) for name in KINDS) if path]
    with VideoOpener(DecodeConfig(isolate=True, timeout_seconds=20)) as opener:
        outcomes = list(fuzz(sources, NUM_MUTATIONS, 0, opener))
    found = summary(outcomes, 20)
    assert found["mutations"] == NUM_MUTATIONS
    assert found["wrong_frames_in_usable_files"] == 0, [o for o in outcomes if o.num_wrong]
    assert found["past_the_deadline"] == found["usable_but_refused_by_the_reader"] == 0
