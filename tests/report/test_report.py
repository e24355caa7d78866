"""The writers, read back with other programs' readers; what a full disk, a kill and two equal runs leave behind."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline.clip import Prediction, Segment, VideoInfo
from pipeline.errors import UserError
from pipeline.files.writing import check_folder
from pipeline.options import PredictOptions
from pipeline.report.jsonl import EventLines
from pipeline.report.records import ROW_FIELDS, SourceVideo, Writer
from pipeline.report.writers import FILES, FOLDERS, Writers, output_names

HEADER = {"labels": ["run", "jump <b>"], "sampling": {"sample_fps": 5.0}}
INFO = VideoInfo(Path("a.avi"), 250, 64, 48, Fraction(25), 10.0, 0, "mpeg4", "avi")
SEGMENTS = [Segment(0.0, 3.2, "run", 0.87654321), Segment(3661.5, 3662.0004, "jump <b> & --> hurdle", 0.5)]
TEXT_OUTPUTS = {"json": "a.json", "csv": "a.csv", "jsonl": "a.jsonl", "parquet": "a.parquet", "srt": "s", "vtt": "v"}


def window(start: float, score: float = 0.75) -> Prediction:
    return Prediction("a.avi", start, start + 0.8, "run", score, (("run", score), ("jump <b>", 1 - score)))


def tell(writer: Writer, shift: float = 0.0) -> None:
    """A run of three videos: one whole, one that cannot be opened, one that breaks off."""
    whole, cut = SourceVideo("a.avi", "a", INFO), SourceVideo("c.avi", "c", replace(INFO, path=Path("c.avi")))
    writer.begin_video(whole)
    for k in range(5):
        writer.window(window(0.8 * k, 0.75 + shift), np.array([0.75 + shift, 0.25 - shift], np.float32))
    for segment in SEGMENTS:
        writer.segment(replace(segment, score=segment.score + shift))
    writer.end_video("ok", "")
    writer.begin_video(SourceVideo("b.avi", "b"))
    writer.end_video("error", 'b.avi: open: no "video"')
    writer.begin_video(cut)
    writer.window(window(0.0), np.array([0.75, 0.25], np.float32))
    writer.end_video("interrupted", "")


def options_in(folder: Path, names: dict[str, str] = TEXT_OUTPUTS) -> PredictOptions:
    return PredictOptions(**{name: str(folder / target) for name, target in names.items()})


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("output")
    with Writers(options_in(folder), HEADER) as writers:
        tell(writers)
    return folder


def test_json(output: Path) -> None:
    run = json.loads((output / "a.json").read_text())
    assert run["labels"] == HEADER["labels"]
    assert run["status"] == "interrupted"
    whole, bad, cut = run["videos"]
    assert [video["status"] for video in run["videos"]] == ["ok", "error", "interrupted"]
    assert [w["start_seconds"] for w in whole["windows"]] == [0.0, 0.8, 1.6, 2.4, 3.2]
    assert whole["windows"][0]["top_k"][1] == {"label": "jump <b>", "score": 0.25}
    assert [s["score"] for s in whole["segments"]] == [0.877, 0.5]
    assert whole["segments"][1]["end_seconds"] == 3662.0
    assert bad["error"] == 'b.avi: open: no "video"'
    assert len(cut["windows"]) == 1


def test_json_says_both_clocks_and_subtitles_keep_to_that_of_players(tmp_path: Path) -> None:
    with Writers(options_in(tmp_path), HEADER) as writers:
        writers.begin_video(SourceVideo("a.avi", "a", replace(INFO, start_seconds_in_file=0.7)))
        writers.segment(SEGMENTS[0])
        writers.end_video("ok", "")
    (video,) = json.loads((tmp_path / "a.json").read_text())["videos"]
    assert (video["start_seconds_in_file"], video["duration_seconds"]) == (0.7, 10.0)
    assert (video["segments"][0]["start_seconds"], video["segments"][0]["end_seconds"]) == (0.0, 3.2)
    assert '"start_seconds_in_file": 0.7' in (tmp_path / "a.jsonl").read_text()
    assert "00:00:00,700 --> 00:00:03,900" in (tmp_path / "s" / "a.srt").read_text()
    assert "00:00:00.700 --> 00:00:03.900" in (tmp_path / "v" / "a.vtt").read_text()


def rows_of_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_csv_has_what_the_json_has(output: Path) -> None:
    rows = rows_of_csv(output / "a.csv")
    assert tuple(rows[0]) == ROW_FIELDS
    for video in json.loads((output / "a.json").read_text())["videos"]:
        mine = [row for row in rows if row["path"] == video["path"]]
        for kind in ("window", "segment"):
            found = [(float(r["start_seconds"]), r["label"], float(r["score"])) for r in mine if r["kind"] == kind]
            assert found == [(i["start_seconds"], i["label"], i["score"]) for i in video[f"{kind}s"]]
        assert (mine[-1]["kind"], mine[-1]["status"]) == ("video", video["status"])
        assert mine[-1]["error"] == video.get("error", "")


def test_parquet_has_what_the_csv_has_with_types(output: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    table = parquet.read_table(output / "a.parquet")
    types = {name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)}
    assert types["start_seconds"] == types["end_seconds"] == types["score"] == "double"
    assert types["path"] == types["kind"] == types["label"] == types["status"] == types["error"] == "string"
    assert json.loads(table.schema.metadata[b"clipgru"]) == HEADER
    rows = table.to_pylist()
    shown = [
        {k: "" if v is None else f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
    ]
    assert shown == rows_of_csv(output / "a.csv")


def test_parquet_without_pyarrow_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow, or write --csv"):
        Writers(PredictOptions(json=str(tmp_path / "a.json"), parquet=str(tmp_path / "a.parquet")), HEADER)
    assert not written(tmp_path)


def test_jsonl_tells_the_same_story_in_order(output: Path) -> None:
    events = [json.loads(line) for line in (output / "a.jsonl").read_text().splitlines()]
    kinds = [kind for kind, _ in itertools.groupby(event["event"] for event in events)]
    assert kinds == ["run", "video", "window", "segment", "end", "video", "end", "video", "window", "end"]
    (video, *_) = json.loads((output / "a.json").read_text())["videos"]
    mine = [e for e in events if e.get("path") == "a.avi"]
    for kind in ("window", "segment"):
        found = [e for e in mine if e["event"] == kind]
        assert [{k: v for k, v in e.items() if k not in ("event", "path")} for e in found] == video[f"{kind}s"]


def test_subtitles_say_what_the_segments_say(output: Path) -> None:
    srt, vtt = (output / "s" / "a.srt").read_text(), (output / "v" / "a.vtt").read_text()
    assert srt.splitlines()[:3] == ["1", "00:00:00,000 --> 00:00:03,200", "run (88%)"]
    assert srt.splitlines()[5] == "01:01:01,500 --> 01:01:02,000"
    blocks = vtt.split("\n\n")
    assert blocks[0] == "WEBVTT"
    assert blocks[1] == "1\n00:00:00.000 --> 00:00:03.200\nrun (88%)"
    assert blocks[2].splitlines()[2] == "jump &lt;b&gt; &amp; --&gt; hurdle (50%)"
    assert "<" not in srt
    assert {path.name for path in (output / "s").iterdir()} == {"a.srt", "c.srt"}  # b could not be opened


def test_ffmpeg_reads_the_subtitles(output: Path) -> None:
    av = pytest.importorskip("av")
    for path in (output / "s" / "a.srt", output / "v" / "a.vtt"):
        with av.open(str(path)) as container:
            packets = [p for p in container.demux() if p.size]
            assert [float(p.pts * p.time_base) for p in packets] == [0.0, 3661.5]
            assert [float(p.duration * p.time_base) for p in packets] == [3.2, 0.5]


def test_the_same_run_gives_the_same_bytes_and_so_does_one_that_differs_in_the_last_bits(tmp_path: Path) -> None:
    for name, shift in (("a", 0.0), ("b", 0.0), ("c", 1e-6)):
        with Writers(options_in(tmp_path / name), HEADER) as writers:
            tell(writers, shift)
    first = written(tmp_path / "a")
    assert len(first) == 8
    assert written(tmp_path / "b") == first
    assert written(tmp_path / "c") == first


def test_nothing_has_its_name_before_the_end_but_the_lines(tmp_path: Path) -> None:
    options = options_in(tmp_path)
    writers = Writers(options, HEADER)
    writers.begin_video(SourceVideo("a.avi", "a", INFO))
    writers.window(window(0.0), np.array([0.75, 0.25], np.float32))
    named = {name for name in written(tmp_path) if not Path(name).name.startswith(".")}
    assert named == {"a.jsonl"}
    assert [json.loads(line)["event"] for line in (tmp_path / "a.jsonl").read_text().splitlines()][-1] == "window"
    writers.discard()
    assert set(written(tmp_path)) == {"a.jsonl"}


class Full:
    """A stream on a disk that takes some bytes, and then no more."""

    def __init__(self, stream: object, room: int) -> None:
        self._stream, self._room = stream, room

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, data: bytes) -> int:
        if self._room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = data[: self._room]
        self._room -= len(taken)
        return self._stream.write(taken)  # type: ignore[attr-defined, no-any-return]


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    lines = EventLines(tmp_path / "a.jsonl")
    lines.event("window", score=0.123456)
    lines._lines._stream = Full(lines._lines._stream, 10)  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"a\.jsonl: cannot be written: the disk is full"):
        lines.event("signal_lost", time_seconds=12.3456)
    assert (tmp_path / "a.jsonl").read_text() == '{"event": "window", "score": 0.123}\n'


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.report.test_report import HEADER, tell
from pipeline.errors import UserError
from pipeline.options import PredictOptions
from pipeline.report.writers import Writers
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    with Writers(PredictOptions(**{{ {name!r}: {target!r} }}), HEADER) as writers:
        for _ in range(200):
            tell(writers)
except UserError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("name", ["json", "csv", "jsonl", "parquet"])
def test_a_file_that_may_not_grow_is_one_error_and_leaves_no_half(tmp_path: Path, name: str) -> None:
    """The system's own limit on a file's size, which fails a write as a full disk does."""
    if name == "parquet":
        pytest.importorskip("pyarrow")
    target = tmp_path / f"a.{name}"
    root = str(Path(__file__).resolve().parents[2])
    code = LIMITED.format(root=root, name=name, target=str(target))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == f"{target}: cannot be written: the file may not grow further " + (
        "(ulimit -f, or the file system's limit)"
    )
    if name == "jsonl":  # readable to its last line
        assert len([json.loads(line) for line in target.read_text().splitlines()]) > 3
        assert target.read_text().endswith("\n")
    else:
        assert not written(tmp_path)


def test_a_killed_run_leaves_lines_and_no_names(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    names = {name: target for name, target in TEXT_OUTPUTS.items() if name != "parquet"}
    code = (
        f"import sys, time; sys.path.insert(0, {root!r})\n"
        "from pathlib import Path\n"
        "from tests.report.test_report import HEADER, options_in, tell\n"
        "from pipeline.report.writers import Writers\n"
        f"writers = Writers(options_in(Path({str(tmp_path)!r}), {names!r}), HEADER)\n"
        "tell(writers)\nprint('told', flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "told\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    left = set(written(tmp_path))
    assert {name for name in left if name.endswith(".tmp")} == {
        f".a.{end}.{process.pid}.clipgru.tmp" for end in ("json", "csv")
    }
    assert not left & {"a.json", "a.csv"}
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[-1])["event"] == "end"


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path: Path, name: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written: a part of the path is a file, not a folder"):
        Writers(PredictOptions(**{name: str(tmp_path / "file" / "below")}), HEADER)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="permission denied"):
        check_folder(tmp_path)


def test_two_outputs_are_not_standard_output() -> None:
    for names in itertools.combinations(("json", "csv", "jsonl", "parquet", "stats"), 2):
        with pytest.raises(UserError, match=f"--{names[0]} - and --{names[1]} - would both write to standard output"):
            PredictOptions(**dict.fromkeys(names, "-"))


@pytest.mark.parametrize(
    ("videos", "names"),
    [
        (["x/a.mp4", "y/b.avi"], ["a", "b"]),
        (["x/a.mp4", "x/a.avi"], ["a.mp4", "a.avi"]),
        (["/x/a.mp4", "/y/a.mp4"], ["x_a.mp4", "y_a.mp4"]),
        (["/x/A.mp4", "/y/a.mp4"], ["x_A.mp4", "y_a.mp4"]),
        (["/p/x/a.mp4", "/q/x/a.mp4", "/q/b.mp4"], ["p_x_a.mp4", "q_x_a.mp4", "q_b.mp4"]),
        (["/x_y/a.mp4", "/x/y_a.mp4"], ["a", "y_a"]),
        ([], []),
    ],
)
def test_names_are_short_unique_and_predictable(videos: list[str], names: list[str]) -> None:
    assert output_names([Path(video) for video in videos]) == names
    assert output_names([Path(video) for video in reversed(videos)]) == names[::-1]


def test_names_that_no_folder_tells_apart_are_numbered() -> None:
    names = output_names([Path("/a/b_c.mp4"), Path("/a_b/c.mp4"), Path("/a/b_c.avi"), Path("/a_b/c.avi")])
    assert len(set(names)) == 4


def every_float(value: object) -> list[float]:
    if isinstance(value, dict):
        return [found for item in value.values() for found in every_float(item)]
    if isinstance(value, list):
        return [found for item in value for found in every_float(item)]
    return [value] if isinstance(value, float) else []


def test_no_number_has_more_than_three_decimals(output: Path) -> None:
    check: Callable[[float], bool] = lambda value: value == round(value, 3)  # noqa: E731
    assert all(map(check, every_float(json.loads((output / "a.json").read_text())["videos"])))
    assert not re.search(r"\d\.\d{4}", (output / "a.csv").read_text() + (output / "a.jsonl").read_text())
