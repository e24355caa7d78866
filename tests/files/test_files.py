"""Files on disk: written whole or not at all, by one process, and never over what is read."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.files import lock
from pipeline.files.failures import OutputError, failures_of
from pipeline.files.lock import LOCK_NAME, beside, locked_file, locked_folder, remove_stale
from pipeline.files.outputs import check_outputs, claimed, files_in
from pipeline.files.stopping import StopRequest
from pipeline.files.writing import LineFile, OutputFile, check_folder, write_atomically
from pipeline.terminal import PlainConsole, printable, say

ROOT = str(Path(__file__).resolve().parents[2])
pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, modes, locks and pipes as Linux and macOS have them")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Writing.


def test_nothing_has_its_name_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.txt"
    output = OutputFile(path)
    output.write("caf\u00e9 ")
    output.write(b"\xff")
    assert names_in(path.parent) == {f".a.txt.{os.getpid()}.clipgru.tmp"}
    output.commit()
    output.discard()
    assert names_in(path.parent) == {"a.txt"}
    assert path.read_bytes() == b"caf\xc3\xa9 \xff"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_scraps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EDQUOT, "over quota")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(UserError, match=f"{path}: cannot be written: your share of the disk is used up"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == {"file"}


def test_an_error_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with OutputFile(tmp_path / "a") as output:
            output.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not names_in(tmp_path)


def test_modes_stay_and_new_files_have_the_usual_one(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = tmp_path / "a"
        write_atomically(path, b"1")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        for mode in (0o600, 0o666, 0o444):
            path.chmod(mode)
            with OutputFile(path) as output:
                assert stat.S_IMODE(output.temporary.stat().st_mode) == mode
                output.write(b"2")
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for target in ("there/old", "there/new"):
        link = tmp_path / target.replace("/", "-")
        (tmp_path / "there" / "old").write_text("old")
        link.symlink_to(target)
        write_atomically(link, b"new")
        assert link.is_symlink()
        assert (tmp_path / target).read_text() == "new"
        assert not (tmp_path / target).is_symlink()
    assert names_in(tmp_path / "there") == {"old", "new"}


def test_a_pipe_and_a_device_are_written_through(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with claimed({"--csv": pipe}), OutputFile(pipe) as output:
        output.write("all of it")
    reader.join()
    assert read == [b"all of it"]
    assert pipe.is_fifo()
    write_atomically(Path(os.devnull), b"gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    with (tmp_path / "open").open("wb") as stream:
        write_atomically(Path(f"/dev/fd/{stream.fileno()}"), b"by its number")
        inode = os.fstat(stream.fileno()).st_ino
    assert (tmp_path / "open").read_bytes() == b"by its number"
    assert (tmp_path / "open").stat().st_ino == inode


def test_what_is_there_can_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with OutputFile(path, no_clobber=True) as output:
        output.write("mine")
    with pytest.raises(OutputError, match="a file of that name is there already"):
        OutputFile(path, no_clobber=True)
    path.unlink()
    late = OutputFile(path, no_clobber=True)
    late.write("mine")
    path.write_text("somebody else's")
    with pytest.raises(OutputError, match="is there already"):
        late.commit()
    assert path.read_text() == "somebody else's"
    assert names_in(tmp_path) == {"a"}


@pytest.mark.parametrize("length", [240, 252, 255])
def test_a_name_may_be_as_long_as_the_disk_allows(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("\u00e9" * 100 + "x" * (length - 200))
    with locked_file(path):
        write_atomically(path, b"1")
    assert names_in(tmp_path) == {path.name}
    with pytest.raises(OutputError, match="the name is longer than this disk allows"):
        OutputFile(tmp_path / ("x" * 256))


@pytest.mark.parametrize(
    ("place", "message"),
    [("file/below", "a part of the path is a file"), ("folder", "that is a folder: name a file")],
)
def test_a_wrong_place_is_told_at_once(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=message):
        OutputFile(tmp_path / place)
    with pytest.raises(UserError, match=message), claimed({"--json": tmp_path / place}):
        pass
    assert names_in(tmp_path) == {"file", "folder"}


def test_lines_can_be_added_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.jsonl"
    for mode, expected in (("w", "w\n"), ("a", "w\na\n"), ("w", "w\n")):
        lines = LineFile(path, mode)  # type: ignore[arg-type]
        lines.write(f"{mode}\n")
        assert path.read_text() == expected
        lines.close()
    with pytest.raises(OutputError, match="is there already"):
        LineFile(path, "x")


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    code = (
        f"import sys, time; sys.path.insert(0, {ROOT!r})\n"
        "from pathlib import Path; from pipeline.files.writing import OutputFile\n"
        f"output = OutputFile(Path({str(tmp_path / 'a')!r})); print(flush=True); time.sleep(600)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    dead, alive = (tmp_path / f".a.{process.pid}.clipgru.tmp" for process in processes)
    (tmp_path / ".of another program.tmp").touch()
    processes[0].kill()
    processes[0].communicate()
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 100,) * 2)
    check_folder(tmp_path)
    assert not dead.exists()
    assert alive.exists()
    assert (tmp_path / ".of another program.tmp").exists()
    processes[1].kill()
    processes[1].communicate()
    os.utime(alive, (time.time() - 100,) * 2)
    with locked_file(tmp_path / "b"):
        assert not alive.exists()


# Locks.


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the folder and a file in it."""
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r})\n"
        "from pathlib import Path; from pipeline.files.lock import locked_file, locked_folder\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "with locked_folder(folder), locked_file(folder / 'a.json'): print('held', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", code]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_process_is_told_who_the_first_is(tmp_path: Path, elsewhere: subprocess.Popen[str]) -> None:
    (tmp_path / "link").symlink_to("a.json")
    for held in (locked_folder(tmp_path), locked_file(tmp_path / "a.json"), locked_file(tmp_path / "link")):
        with pytest.raises(UserError, match=rf"another process writes there \(process {elsewhere.pid}\)"), held:
            pass
    with locked_file(tmp_path / "b.json"):
        assert elsewhere.poll() is None
    elsewhere.communicate("")  # it ends in good order
    assert names_in(tmp_path) == {"link"}
    with locked_folder(tmp_path), locked_file(tmp_path / "a.json"):
        assert names_in(tmp_path) == {"link", LOCK_NAME, ".a.json.lock"}
    assert names_in(tmp_path) == {"link"}


def test_a_killed_owner_holds_nothing(tmp_path: Path, elsewhere: subprocess.Popen[str]) -> None:
    elsewhere.kill()
    elsewhere.wait()
    assert (tmp_path / LOCK_NAME).exists()
    with locked_folder(tmp_path), locked_file(tmp_path / "a.json"):
        assert (tmp_path / LOCK_NAME).read_text() == str(os.getpid())
    assert not names_in(tmp_path)


def test_a_forked_process_does_not_hold_what_its_parent_held(tmp_path: Path) -> None:
    code = (
        f"import os, sys, time; sys.path.insert(0, {ROOT!r})\n"
        "from pathlib import Path; from pipeline.files.lock import locked_folder\n"
        f"with locked_folder(Path({str(tmp_path)!r})):\n"
        "    child = os.fork()\n"
        "    if not child: print(os.getpid(), flush=True); os.close(1)\n"  # by now it has let go
        "    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    try:
        with locked_folder(tmp_path):
            os.kill(child, 0)  # it lives on
    finally:
        os.kill(child, signal.SIGKILL)


def test_many_threads_get_it_one_after_the_other(tmp_path: Path) -> None:
    """Each that is refused tries again: never are there two, though the file comes and goes."""
    inside, most, left = 0, 0, 40
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, left
        while left > 0:
            try:
                with locked_file(tmp_path / "a"):
                    with guard:
                        inside += 1
                        most, left = max(most, inside), left - 1
                    time.sleep(0.0005)
                    with guard:
                        inside -= 1
            except UserError:  # noqa: PERF203
                time.sleep(0.0002)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert not names_in(tmp_path)


def test_a_refused_run_leaves_no_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wrong"), locked_folder(tmp_path / "runs" / "mine"):
        raise UserError("wrong")
    assert not names_in(tmp_path)
    with locked_file(tmp_path / "out" / "a"):
        write_atomically(tmp_path / "out" / "a", b"")
    assert names_in(tmp_path) == {"out"}


def test_a_disk_without_locks_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with locked_file(tmp_path / "a"), locked_file(tmp_path / "a"):
        write_atomically(tmp_path / "a", b"1")
    temporary = beside(tmp_path / "a", ".1.clipgru.tmp")
    temporary.touch()
    os.utime(temporary, (0, 0))
    remove_stale(tmp_path)  # nobody knows whose it is
    assert temporary.exists()
    assert lock.try_lock(0) is None


# Outputs against inputs.


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A video by many names."""
    monkeypatch.chdir(tmp_path)
    video = tmp_path / "x.mp4"
    video.write_bytes(b"precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.json").symlink_to("x.mp4")
    (tmp_path / "chain.json").symlink_to("link.json")
    (tmp_path / "folder link").symlink_to(".")
    os.link(video, tmp_path / "hard.json")
    return video


@pytest.mark.parametrize(
    "output",
    ["x.mp4", "./x.mp4", "folder/../x.mp4", "{absolute}", "link.json", "chain.json", "hard.json", "folder link/x.mp4"],
)
@pytest.mark.parametrize("source", ["x.mp4", "{absolute}", "chain.json"])
def test_no_output_is_an_input(named: Path, output: str, source: str) -> None:
    output, source = output.format(absolute=named), source.format(absolute=named)
    with (
        pytest.raises(UserError, match=f"--json {re.escape(str(Path(output)))} would be written over the input"),
        claimed({"--csv": None, "--json": output}, ["http://a/b.mp4", "absent", "nul\0", source]),
    ):
        pass
    assert named.read_bytes() == b"precious"
    assert names_in(named.parent) == {"x.mp4", "folder", "link.json", "chain.json", "hard.json", "folder link"}


@pytest.mark.parametrize(
    "other", ["new/a", "./new/a", "{absolute}/new/a", "folder/../new/a", "new/A", "link", "folder link/new/a"]
)
def test_no_two_outputs_are_one(named: Path, other: str) -> None:
    (named.parent / "link").symlink_to("new/a")
    with pytest.raises(UserError, match="--json and --csv name the same file"):
        check_outputs({"--json": Path("new/a"), "--csv": Path(other.format(absolute=named.parent))})


def test_outputs_that_are_nobody_s(named: Path) -> None:
    os.mkfifo("pipe")
    outputs: dict[str, str | Path | None] = {"--json": "-", "--csv": os.devnull, "--stats": os.devnull}
    with claimed(outputs | {"--jsonl": "pipe", "--parquet": None, "--other": "new"}, [named, os.devnull]):
        assert ".new.lock" in names_in(named.parent)
    with pytest.raises(UserError, match=r"--json: hard\.json is there already, and --no_clobber keeps it"):
        check_outputs({"--json": Path("hard.json")}, no_clobber=True)
    assert files_in(Path("a"), ["b"]) == {"the output b": Path("a/b")}


# Failures.


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.ENAMETOOLONG])
def test_every_error_of_the_system_is_one_line_with_the_path(number: int) -> None:
    with pytest.raises(UserError) as caught, failures_of(Path("out/a.json")):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith("out/a.json: cannot be written: ")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, OutputError) == (number == errno.ENAMETOOLONG)


# Signals.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_a_request_and_the_second_an_order(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest().listening() as stop:
        assert (bool(stop), stop.exit_code) == (False, 0)
        os.kill(os.getpid(), number)
        assert (bool(stop), stop.exit_code) == (True, 128 + number)
        with pytest.raises(KeyboardInterrupt) as caught:
            os.kill(os.getpid(), number)
        assert caught.value.args == (number,)
    assert signal.getsignal(number) is before


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest().listening() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


# Text for people.


def test_nothing_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[31mred\x07\r\x9b2J\u202e\u2066\x7f\ud800 [b]bold[/b] [/x] :smile: \u65e5"
    plain = "a\\u001b[31mred\\u0007\\u000d\\u009b2J\\u202e\\u2066\\u007f\\ud800 [b]bold[/b] [/x] :smile: \u65e5"
    assert printable(evil + "\n") == plain + "\\u000a"
    say(f"{evil}\nsecond")
    console = PlainConsole()
    console.print(f"{evil}\nsecond", style="red")
    assert capsys.readouterr() == (f"{plain}\nsecond\n", f"{plain}\nsecond\n")


def test_tables_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    table = Table("[red]head", title="o[/b]")
    table.add_row("[b]a\x1b[1m")
    PlainConsole().print(table, soft_wrap=False)
    shown = capsys.readouterr().err
    assert all(text in shown for text in ("[red]head", "o[/b]", "[b]a\\u001b[1m"))
    assert "\x1b" not in shown


def test_standard_output_takes_bytes_and_is_safe_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = LineFile(Path("-"))
    lines.write("line\n")
    assert capsys.readouterr().out == "line\n"
    write_atomically(Path("-"), '"\u65e5\x9b"\n')
    assert capsys.readouterr().out == '"\u65e5\x9b"\n'
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    write_atomically(Path("-"), '"\u65e5\x9b"\n')
    assert capsys.readouterr().out == '"\u65e5\\u009b"\n'
