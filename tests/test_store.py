"""The cache folder: what comes back is what was put, or nothing."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from pipeline.cli import main
from pipeline.files.cache import DamagedEntryError, Store, digest

KEY, OTHER = digest({"row": 1}), digest({"row": 2})


def rows_of(seed: int, num_rows: int = 20) -> torch.Tensor:
    return torch.randint(0, 256, (num_rows, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def entry_file(store: Store) -> Path:
    ((path, _),) = store.entries()
    return path


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", 10**9)
    assert store.get(KEY) is None
    for dtype in (torch.uint8, torch.float16):
        store.put(KEY, rows_of(0).to(dtype), {"first": 3})
        entry = Store(tmp_path / "cache", 10**9).get(KEY)
        assert entry is not None
        assert entry.facts == {"first": 3}
        assert len(entry) == 20
        assert torch.equal(entry.read([4, 4, 0]), rows_of(0)[[4, 4, 0]].to(dtype))
        assert torch.equal(entry.verified(), rows_of(0).to(dtype))
    assert store.get(OTHER) is None


def test_a_key_depends_on_every_fact_and_not_on_their_order() -> None:
    assert digest({"a": 1, "b": [2, None]}) == digest({"b": [2, None], "a": 1})
    assert len({digest(facts) for facts in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, {})}) == 6


def test_a_flipped_bit_is_found_when_its_row_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path, 10**9)
    store.put(KEY, rows_of(0), {})
    content = bytearray(entry_file(store).read_bytes())
    place = bytes(content).index(rows_of(0)[7].numpy().tobytes())
    content[place + 11] ^= 1
    entry_file(store).write_bytes(content)
    entry = store.get(KEY)
    assert entry is not None
    assert torch.equal(entry.read([6, 8]), rows_of(0)[[6, 8]])
    with pytest.raises(DamagedEntryError):
        entry.read([6, 7])
    with pytest.raises(DamagedEntryError):
        entry.verified()


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
        path = earlier.folder / key[:2] / f"{key}.safetensors"
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
        assert entry is None or torch.equal(entry.verified(), rows_of(number))
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


def test_the_command_tells_and_clears(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cache"
    Store(folder, 10**9).put(KEY, rows_of(0), {})
    (folder / "notes.txt").write_text("mine")
    assert main(["cache", "info", "--cache_dir", str(folder)]) == 0
    assert "holds 1 entries" in capsys.readouterr().out
    assert main(["cache", "clear", "--cache_dir", str(folder)]) == 0
    assert "removed 1 entries" in capsys.readouterr().out
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["notes.txt"]
    assert main(["cache", "info", "--cache_dir", str(folder / "none")]) == 0
    assert main(["cache", "empty"]) == 2
