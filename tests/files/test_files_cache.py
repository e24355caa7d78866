"""The cache folder: what comes back is what was put, or nothing."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.cli import main
from pipeline.files.cache import DamagedEntryError, Store, cache_folder, digest

KEY, OTHER = digest({"row": 1}), digest({"row": 2})


def rows_of(seed: int, num_rows: int = 20) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 256, (num_rows, 3, 8, 8), dtype=np.uint8)


def entry_file(store: Store) -> Path:
    ((path, _),) = store.entries()
    return path


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", 10**9)
    assert store.get(KEY) is None
    for dtype in (np.uint8, np.float16):
        store.put(KEY, rows_of(0).astype(dtype), {"first": 3})
        entry = Store(tmp_path / "cache", 10**9).get(KEY)
        assert entry is not None
        assert entry.facts == {"first": 3}
        assert len(entry) == 20
        assert np.array_equal(entry.read([4, 4, 0]), rows_of(0)[[4, 4, 0]].astype(dtype))
        assert np.array_equal(entry.verified(), rows_of(0).astype(dtype))
    assert store.get(OTHER) is None


def test_a_key_depends_on_every_fact_and_not_on_their_order() -> None:
    assert digest({"a": 1, "b": [2, None]}) == digest({"b": [2, None], "a": 1})
    assert len({digest(facts) for facts in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, {})}) == 6


def test_a_flipped_bit_in_any_byte_is_found(tmp_path: Path) -> None:
    """In the magic word, the header or a row: the entry is absent, or the row is refused when it is read."""
    store = Store(tmp_path, 10**9)
    store.put(KEY, rows_of(0, 4), {"first": 3})
    path = entry_file(store)
    whole = path.read_bytes()
    start = whole.index(rows_of(0, 4).tobytes())
    assert start + rows_of(0, 4).nbytes == len(whole)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        entry = store.get(KEY)
        assert (entry is None) == (place < start)
        if entry is None:
            assert not path.exists()
            continue
        row = (place - start) // 192
        others = [other for other in range(4) if other != row]
        assert np.array_equal(entry.read(others), rows_of(0, 4)[others])
        with pytest.raises(DamagedEntryError):
            entry.read([row])
        with pytest.raises(DamagedEntryError):
            entry.verified()


def test_an_entry_under_another_name_is_not_believed(tmp_path: Path) -> None:
    store = Store(tmp_path, 10**9)
    store.put(KEY, rows_of(0), {})
    (tmp_path / OTHER[:2]).mkdir()
    (tmp_path / OTHER[:2] / f"{OTHER}.entry").write_bytes(entry_file(store).read_bytes())
    assert store.get(OTHER) is None
    assert store.get(KEY) is not None


@pytest.mark.parametrize("length", [0, 5, 40, 200, 1000])
def test_a_cut_entry_counts_as_absent_and_is_removed(tmp_path: Path, length: int) -> None:
    store = Store(tmp_path, 10**9)
    store.put(KEY, rows_of(0), {})
    path = entry_file(store)
    path.write_bytes(path.read_bytes()[:length])
    assert store.get(KEY) is None
    assert not path.exists()


def test_the_longest_unused_gives_way(tmp_path: Path) -> None:
    keys = [digest({"row": row}) for row in range(4)]
    earlier = Store(tmp_path, 10**9)
    for age, key in enumerate(keys):
        earlier.put(key, rows_of(age), {})
        path = earlier.folder / key[:2] / f"{key}.entry"
        os.utime(path, (time.time() - 100 + age,) * 2)
    size = entry_size(earlier)
    store = Store(tmp_path, int(4.5 * size))
    assert store.get(keys[0]) is not None  # used now: the next in age goes instead
    store.put(OTHER, rows_of(9), {})
    assert [store.get(key) is not None for key in keys] == [True, False, True, True]
    assert store.get(OTHER) is not None
    assert sum(status.st_size for _, status in store.entries()) <= store.max_bytes


def entry_size(store: Store) -> int:
    return next(status.st_size for _, status in store.entries())


def test_a_full_folder_in_use_takes_no_more(tmp_path: Path) -> None:
    probe = Store(tmp_path / "probe", 10**9)
    probe.put(KEY, rows_of(0), {})
    store = Store(tmp_path / "cache", int(3.2 * entry_size(probe)))
    keys = [digest({"row": row}) for row in range(6)]
    for seed, key in enumerate(keys):
        store.put(key, rows_of(seed), {})
    assert [store.get(key) is not None for key in keys] == [True, True, True, False, False, False]


def put_many(folder: Path, start: int) -> None:
    store = Store(folder, 10**9)
    for turn in range(40):
        number = (start + turn) % 5
        key = digest({"row": number})
        store.put(key, rows_of(number), {})
        entry = store.get(key)
        assert entry is None or np.array_equal(entry.verified(), rows_of(number))
        if turn % 7 == 3:
            store.remove(key)


def test_processes_may_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=put_many, args=(tmp_path, start)) for start in (0, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_content_of_a_file_counts_not_its_name_or_time(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", 10**9)
    first, second = tmp_path / "a.avi", tmp_path / "b.avi"
    first.write_bytes(b"x" * 3_000_000)
    second.write_bytes(b"x" * 3_000_000)
    before = store.content_digest(first)
    assert before == store.content_digest(second)
    status = first.stat()
    first.write_bytes(b"x" * 2_999_999 + b"y")
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert store.content_digest(first) != before


@pytest.mark.parametrize("place", ["file/below", None])
def test_a_cache_that_cannot_be_written_is_said_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str | None
) -> None:
    """Also by processes that were forked, which share what was said."""
    (tmp_path / "file").touch()
    folder = place and tmp_path / place
    stores = [Store(folder, 10**9), Store(folder, 10**9)]
    if hasattr(os, "fork"):
        child = os.fork()
        if not child:
            stores[0].put(KEY, rows_of(0), {})
            os._exit(0)
        os.waitpid(child, 0)
    for store in stores:
        store.put(KEY, rows_of(0), {})
        store.put(OTHER, rows_of(0), {})
        assert store.get(KEY) is None
        store.remove(KEY)
        assert not list(store.entries())
    assert len(caplog.messages) == (0 if hasattr(os, "fork") else 1)  # the child said it
    stores[0]._was_said.value = 0
    stores[0].check()
    (message,) = caplog.messages
    assert message.startswith("nothing more is cached: ")
    assert "is a file, not a folder" in message or "no home folder" in message


def test_a_full_disk_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, 10**9)
    store.put(KEY, rows_of(0), {})

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    store.put(OTHER, rows_of(1), {})
    assert store.get(OTHER) is None
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{KEY}.entry"]
    entry = store.get(KEY)
    assert entry is not None
    assert np.array_equal(entry.verified(), rows_of(0))


def test_the_home_folder_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/clipgru")
    assert cache_folder("mine") == Path("mine")
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cache_folder() is None


def test_the_command_tells_and_clears_all_caches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "clipgru"
    Store(folder, 10**9).put(KEY, rows_of(0), {})
    Store(folder / "index", 10**9).put(KEY, rows_of(0), {})
    (folder / KEY[:2] / f"{OTHER}.safetensors").write_bytes(b"of an earlier version")
    (folder / "index" / "old.index").write_bytes(b"of an earlier version")
    (folder / "notes.txt").write_text("mine")
    assert main(["cache", "info"]) == 0
    assert capsys.readouterr().out.count("holds 2 entries") == 2
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out.count("removed 2 entries") == 2
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["notes.txt"]
    assert main(["cache", "info", "--cache_dir", str(tmp_path / "none")]) == 0
    assert not (tmp_path / "none").exists()
    assert main(["cache", "empty"]) == 2
