"""Many files by many processes: every file is recorded once, whatever is killed on the way, and the table is the same.

``python tools/check_many.py`` does this with 200 files, real kills and Ray.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint import save_model
from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.many import run, worker
from pipeline.many.job import FileResult, Job, identify
from pipeline.many.journal import Journal
from pipeline.many.pool import run_pool
from pipeline.many.shards import Shard
from pipeline.many.worker import PredictionWorker
from pipeline.options import PredictOptions
from pipeline.prediction import find_videos
from tests.small import small_model

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs Linux or macOS")

# A worker without a model, that starts at once: files called kill, hang and refuse do that.
QUICK_WORKER = """
import os, signal, sys, time, types
class Processor:
    def __init__(self, job):
        if job.model_path == "none": sys.exit(3)
    def process(self, path):
        from pipeline.errors import UserError
        from pipeline.many.job import FileResult, identify
        if "kill" in path: os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in path: time.sleep(1000)
        if "bug" in path: raise ValueError("unforeseen")
        if "refuse" in path: raise UserError("not with this model")
        return FileResult(path, "ok", "", (("video", 0.0, 1.0, None, None, "ok", None),), identify(path))
sys.modules["torch"] = types.SimpleNamespace(set_num_threads=int)
sys.modules["pipeline.many.processor"] = types.SimpleNamespace(Processor=Processor)
from pipeline.many.worker import main
main()
"""


@pytest.fixture
def quick_workers(monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(worker, "_CODE", QUICK_WORKER)
    return Job("some", "", "", PredictOptions())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, small_model())
    return path


@pytest.fixture
def videos(motion_root: Path, tmp_path: Path) -> Path:
    """Twenty short videos of several contents, one of them damaged."""
    clips = sorted((motion_root / "test").glob("*/*"))
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.mp4").write_bytes(clips[number].read_bytes()[: 300 if number == 7 else None])
    return folder


@pytest.fixture
def quick_engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """In place of the pool: two rows a file, in an order of its own, some files twice, no processes. What it does may
    be set."""
    does: dict[str, Any] = {"interrupt_after": None, "lose": None, "asked": []}

    def engine(job: Job, paths: Sequence[str], num_workers: int | None) -> Generator[FileResult, None, None]:
        does["asked"] = list(paths)
        for count, path in enumerate(sorted(paths, key=lambda path: path[::-1])):
            if count == does["interrupt_after"]:
                raise KeyboardInterrupt
            seconds = float(len(Path(path).name))
            window = ("window", 0.0, seconds, "class 1", 0.25, None, None)
            if Path(path).name != does["lose"]:
                video = ("video", 0.0, seconds, None, None, "ok", None)
                yield (done := FileResult(path, "ok", "", (window, video), identify(path)))
                if "1" in Path(path).name:
                    yield done

    monkeypatch.setitem(run.ENGINES, "pool", engine)
    return does


def many(model: Path, videos: Path, table: Path, *more: str) -> int:
    options = ["--engine", "pool", "--workers", "2", "--parquet", str(table), "--quiet"]
    return main(["predict", str(model), str(videos), *options, *more])


def rows_of(table: Path) -> list[dict[str, Any]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(table).to_pylist()


def test_the_pool_makes_the_table_of_a_plain_run(
    model: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a real worker, and one after it, as a file kills the first."""
    plain, table = tmp_path / "plain.parquet", tmp_path / "out.parquet"
    options = ["--parquet", str(plain), "--quiet"]
    assert main(["predict", str(model), str(videos), *options]) == 1
    (videos / "12a.mp4").write_bytes((videos / "12.mp4").read_bytes())
    deed = (
        "import os; from pipeline.many import processor, worker; process = processor.Processor.process\n"
        "def deed(self, path): return os.kill(os.getpid(), 9) if '12a' in path else process(self, path)\n"
        "processor.Processor.process = deed; worker.main()"
    )
    monkeypatch.setattr(worker, "_CODE", deed)
    assert many(model, videos, table, "--workers", "1") == 1
    rows = rows_of(table)
    killed = str(videos / "12a.mp4")
    assert [row for row in rows if row["path"] != killed] == rows_of(plain)
    (row,) = (row for row in rows if row["path"] == killed)
    assert (row["kind"], row["status"]) == ("video", "crashed")
    assert row["error"] == f"{killed}: the process that worked on it was ended by SIGKILL"
    before = table.read_bytes()
    monkeypatch.setattr(worker, "_CODE", "raise AssertionError('a worker was started')")
    table.unlink()
    assert many(model, videos, table) == 1
    assert table.read_bytes() == before


def test_ray_makes_the_table_of_a_plain_run(model: Path, videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    for path in sorted(videos.iterdir())[9:]:
        path.unlink()
    for engine in (["local"], ["ray", "--workers", "1"]):
        options = ["--parquet", str(tmp_path / engine[0]), "--quiet"]
        assert main(["predict", str(model), str(videos), "--engine", *engine, *options]) == 1
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "local")


# Workers and the pool.


def test_a_worker_costs_no_file_but_the_one_that_kills_it(quick_workers: Job) -> None:
    one = PredictionWorker(quick_workers)
    assert one.process("a").status == "ok"
    first = one._child
    assert first is not None
    assert one.process("b").status == "ok"
    assert one._child is first
    first.process.kill()  # while it rests
    first.process.wait()
    assert one.process("c").status == "ok"
    crashed = one.process("kill.mp4")
    assert (crashed.status, crashed.rows[0][0]) == ("crashed", "video")
    assert one.process("d").status == "ok"
    assert one.process("bug.mp4").error == "bug.mp4: the process that worked on it ended with 1"
    one.stop()
    with pytest.raises(UserError, match="stopped"):
        one.process("e")


def test_a_worker_ends_with_the_one_that_started_it(quick_workers: Job, tmp_path: Path) -> None:
    """Killed while the worker is busy."""
    code = (
        "import sys; from pipeline.many import worker; from pipeline.many.job import Job\n"
        "from pipeline.options import PredictOptions; from threading import Thread; import time\n"
        f"worker._CODE = {QUICK_WORKER!r}\n"
        "one = worker.PredictionWorker(Job('some', '', '', PredictOptions())); one.process('a')\n"
        "Thread(target=one.process, args=('hang',), daemon=True).start(); time.sleep(0.2)\n"
        "print(one._child.process.pid, flush=True); time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)  # it is there
        parent.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}/cmdline").exists()


def test_the_pool_gives_every_file_once(quick_workers: Job) -> None:
    paths = [f"{number}{'kill' if number % 4 == 3 else ''}" for number in range(12)]
    results = list(run_pool(quick_workers, paths, 3))
    assert sorted(result.path for result in results) == sorted(paths)
    assert {result.path for result in results if result.status == "crashed"} == {"3kill", "7kill", "11kill"}


def test_what_no_file_can_do_ends_the_run(quick_workers: Job) -> None:
    with pytest.raises(UserError, match="not with this model"):
        list(run_pool(quick_workers, ["a", "refuse", "hang"], 2))
    with pytest.raises(UserError, match="a worker cannot be started: its process ended with 3"):
        list(run_pool(Job("none", "", "", PredictOptions()), ["a"], 1))


def test_closing_the_pool_waits_for_nobody(quick_workers: Job) -> None:
    results = run_pool(quick_workers, ["a", "hang", "hang", "hang"], 2)
    assert next(results).path == "a"
    results.close()


# The journal.


def result(path: str, status: str = "ok") -> FileResult:
    return FileResult(path, status, "", (("video", 0.0, 1.25, None, None, status, None),), None)


def test_a_journal_cut_anywhere_has_the_files_before_the_cut(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    names = ["a", "b\udcff", "a"]
    lengths = []
    for name in names:
        with Journal(whole, {"model": "m"}) as journal:
            lengths.append(whole.stat().st_size)
            journal.add(result(name))
    content = whole.read_bytes()
    for length in range(len(content) + 1):
        cut = tmp_path / "cut"
        cut.write_bytes(content[:length])
        with Journal(cut, {"model": "m"}) as journal:
            done = [name for name in ("a", "b\udcff") if journal.is_done(name, retry=False)]
            assert done == [name for name, n in zip(names[:2], [*lengths[1:]], strict=True) if n <= length]
            journal.add(result("c"))
            assert [row["end_seconds"] for row in journal.table_rows("c")] == [1.25]
        with Journal(cut, {"model": "m"}) as journal:
            assert journal.is_done("c", retry=False)
            assert [row["path"] for name in done for row in journal.table_rows(name)] == [
                name.replace("\udcff", "\ufffd") for name in done
            ]


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path, {"model": "1"}).close()
    with pytest.raises(UserError, match="of a run with another model; its records"):
        Journal(path, {"model": "2"})
    (tmp_path / "letter").write_text("Dear reader,\n" * 20)
    with pytest.raises(UserError, match="not a journal"):
        Journal(tmp_path / "letter", {"model": "1"})
    assert (tmp_path / "letter").read_text().startswith("Dear")


def test_a_file_counts_as_long_as_it_has_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"first")
    known = FileResult(str(path), "ok", "", (), identify(str(path)))
    with Journal(tmp_path / "journal", {}) as journal:
        journal.add(known)
    with Journal(tmp_path / "journal", {}) as journal:
        assert journal.is_done(str(path), retry=True)
        content = path.read_bytes()
        path.unlink()
        assert not journal.is_done(str(path), retry=False)
        path.write_bytes(content)  # another file with the same bytes
        assert journal.is_done(str(path), retry=False)
        status = path.stat()
        path.write_bytes(b"other")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert not journal.is_done(str(path), retry=False)


# The run.


def test_interrupted_anywhere_it_comes_to_the_same_table(
    model: Path, videos: Path, tmp_path: Path, quick_engine: dict[str, Any]
) -> None:
    whole, table = tmp_path / "whole.parquet", tmp_path / "t.parquet"
    assert many(model, videos, whole) == 0
    for interrupt_after, num_left in ((0, 20), (1, 20), (12, 19)):
        quick_engine["interrupt_after"] = interrupt_after
        assert many(model, videos, table) == 130
        assert len(quick_engine["asked"]) == num_left
        assert not table.exists()
    quick_engine["interrupt_after"] = None
    assert many(model, videos, table) == 0
    assert len(quick_engine["asked"]) == 7
    assert table.read_bytes() == whole.read_bytes()
    paths = [row["path"] for row in rows_of(table) if row["kind"] == "video"]
    assert paths == sorted(str(path) for path in videos.iterdir())


def test_what_changed_is_done_anew_and_the_rest_is_not(
    model: Path, videos: Path, tmp_path: Path, quick_engine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.parquet"
    quick_engine["lose"] = "03.mp4"
    assert many(model, videos, table) == 1
    (lost,) = (row for row in rows_of(table) if row["status"] not in ("ok", None))
    assert (lost["status"], Path(lost["path"]).name) == ("crashed", "03.mp4")
    quick_engine["lose"] = None
    (videos / "05.mp4").write_bytes(b"another")
    (videos / "08.mp4").unlink()
    (videos / "new one.mp4").write_bytes(b"new")
    assert many(model, videos, table) == 1
    assert [Path(path).name for path in quick_engine["asked"]] == ["05.mp4", "new one.mp4"]
    assert len({row["path"] for row in rows_of(table)}) == 20
    assert many(model, videos, table, "--retry") == 0
    assert [Path(path).name for path in quick_engine["asked"]] == ["03.mp4"]
    capsys.readouterr()
    assert many(model, videos, table, "--inference.stride_frames", "2") == 2
    assert "of a run with another inference.stride_frames" in capsys.readouterr().err


def test_shards_join_into_the_table_of_one_run(
    model: Path, videos: Path, tmp_path: Path, quick_engine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, table = tmp_path / "whole.parquet", tmp_path / "t.parquet"
    assert many(model, videos, whole) == 0
    asked = []
    for number in (3, 1, 2):
        assert main(["merge", str(table)]) == 2
        assert many(model, videos, table, "--shard", f"{number}/3") == 0
        asked += quick_engine["asked"]
    assert sorted(asked) == sorted(str(path) for path in videos.iterdir())
    errors = capsys.readouterr().err
    assert "no tables of shards there, such as t.shard-1-of-4.parquet" in errors
    assert "no table yet of shard 1/3, 2/3;" in errors
    assert main(["merge", str(table)]) == 0
    assert table.read_bytes() == whole.read_bytes()


def test_shards_that_do_not_belong_together_are_refused(
    model: Path, videos: Path, tmp_path: Path, quick_engine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.parquet"
    many(model, videos, table, "--shard", "1/2")
    (videos / "later.mp4").write_bytes(b"later")
    many(model, videos, table, "--shard", "2/2")
    assert main(["merge", str(table)]) == 2
    assert "t.shard-2-of-2.parquet: its videos differ from those of t.shard-1-of-2.parquet" in capsys.readouterr().err
    (tmp_path / "t.shard-1-of-2.parquet").write_bytes((tmp_path / "t.shard-2-of-2.parquet").read_bytes())
    assert main(["merge", str(table)]) == 2
    assert "the shards do not hold the files that they should" in capsys.readouterr().err
    (tmp_path / "t.shard-3-of-3.parquet").touch()
    assert main(["merge", str(table)]) == 2
    assert "tables of 2 and of 3 shards" in capsys.readouterr().err
    assert not table.exists()


@pytest.mark.parametrize("num_files", [0, 1, 7, 30])
def test_every_file_is_in_one_shard(num_files: int) -> None:
    paths = [f"{number:02}" for number in range(num_files)]
    for count in (1, 2, 7, 40):
        parts = [Shard(number + 1, count).of(paths) for number in range(count)]
        assert sorted(path for part in parts for path in part) == paths
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "1/4"], "--shard is for many videos: add --engine pool"),
        (["--engine", "pool"], "--engine pool makes a table: add --parquet FILE"),
        (["--engine", "ray", "--parquet", "t", "--json", "-"], "--json needs --engine local"),
        (["--engine", "pool", "--parquet", "t", "--shard", "5/4"], "shard must be such as 1/4"),
        (["--engine", "pool", "--parquet", "t", "--workers", "0"], "workers must be at least 1"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["predict", "m", "v", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_manifest_names_videos(tmp_path: Path) -> None:
    lines = [{"path": "b.mp4", "label": "x"}, {"path": "a.mp4", "label": "y"}]
    (tmp_path / "m.csv").write_text("path,label,start_seconds\nb.mp4,x,\na.mp4,y,0\na.mp4,x,3\n")
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name in ("m.csv", "m.jsonl"):
        assert find_videos([str(tmp_path / name)]) == [tmp_path / "b.mp4", tmp_path / "a.mp4"]


def test_one_signal_ends_a_run(model: Path, videos: Path, tmp_path: Path) -> None:
    """It says how far it came, and leaves a journal to go on from, though two workers hang."""
    for name in ("98 hang.mp4", "99 hang.mp4"):
        (videos / name).touch()
    arguments = ["predict", str(model), str(videos), "--engine", "pool", "--workers", "2"]
    arguments += ["--parquet", str(tmp_path / "t.parquet")]
    # A shell may have started the tests in the background, and then SIGINT is ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"from pipeline import cli; from pipeline.many import worker; worker._CODE = {QUICK_WORKER!r}\n"
    code += f"raise SystemExit(cli.main({arguments}))"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        journal = tmp_path / "t.parquet.journal"
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") == 21):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode == 130
    # 19: the signal came after the last line was on disk, and before it was counted.
    assert re.fullmatch(r"interrupted: (19|20) of 22 videos done; the same command goes on\n", errors)


def test_addresses_are_known_by_what_may_be_seen_of_them(tmp_path: Path) -> None:
    """The journal and the table hold no password, and an address that changed is done anew."""
    from pipeline.checkpoint import load_model_file
    from pipeline.many.processor import Processor

    path = tmp_path / "model.safetensors"
    save_model(path, small_model())
    options = PredictOptions(
        engine="pool", parquet=str(tmp_path / "out.parquet"), decode={"allow_url": True, "timeout_seconds": 5.0}
    )
    urls = [f"http://127.0.0.1:9/a.mp4?token=qzk{number}" for number in range(2)]
    plan = run._plan(str(path), load_model_file(path), [Path("b.mp4"), *urls], options)
    first, second = "http://127.0.0.1:9/a.mp4?***", "http://127.0.0.1:9/a.mp4?*** (2)"
    assert plan.paths == ["b.mp4", first, second]
    assert plan.job.addresses == {first: urls[0], second: urls[1]}
    with Journal(tmp_path / "journal", plan.run) as journal:
        for result in (
            Processor(plan.job).process(first),
            FileResult.of_crash(second, "it crashed", plan.job.source(second)),
        ):
            journal.add(result)
        assert journal.is_done(first, retry=False, source=urls[0])
        assert journal.is_done(second, retry=False, source=urls[1])
        assert not journal.is_done(first, retry=False, source=urls[1])
        assert [row["path"] for row in journal.table_rows(first)] == [first]
    assert b"Connection refused" in (tmp_path / "journal").read_bytes()
    assert b"qzk" not in (tmp_path / "journal").read_bytes()
