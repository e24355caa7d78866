"""The store of labels: what is in the manifest after each change, after a crash, and when two change the same."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.labelling.store import LabelStore
from pipeline.labelling.stretches import (
    ConflictError,
    Edit,
    LabelChange,
    Span,
    change_from_json,
    change_to_json,
    covered_parts,
    uncovered_parts,
)

NEW_HEADER = "path,label,start_seconds,end_seconds,group,split,uncovered"


def folder_with(path: Path, manifest: str | None = None, videos: tuple[str, ...] = ("a.mp4", "b.mp4")) -> Path:
    path.mkdir(exist_ok=True)
    for name in videos:
        (path / name).touch()
    if manifest is not None:
        (path / "manifest.csv").write_bytes(manifest.encode())
    return path


def lines_of(folder: Path) -> list[str]:
    return (folder / "manifest.csv").read_text().splitlines()


def put(store: LabelStore, video: str, span: Span, who: str = "me") -> None:
    store.change(video, who, [Edit(None, None, span)])


def only(store: LabelStore, video: str = "a.mp4"):
    (stretch,) = store.videos[video].stretches.values()
    return stretch


def test_a_change_is_in_the_manifest_when_it_returns(tmp_path: Path) -> None:
    store = LabelStore(folder_with(tmp_path))
    put(store, "a.mp4", Span("walk", 1.0, 2.5))
    assert lines_of(tmp_path) == [NEW_HEADER, "a.mp4,walk,1,2.5,,,unlabelled"]
    stretch = only(store)
    store.change("a.mp4", "me", [Edit(stretch.id, stretch.version, Span("run", 1.0, 2.5))])
    assert lines_of(tmp_path)[1:] == ["a.mp4,run,1,2.5,,,unlabelled"]
    store.change("a.mp4", "me", rest="background")
    assert lines_of(tmp_path)[1:] == ["a.mp4,run,1,2.5,,,background"]
    stretch = only(store)
    store.change("a.mp4", "me", [Edit(stretch.id, stretch.version, None)])
    assert lines_of(tmp_path) == [NEW_HEADER]
    store.close()


def test_what_is_not_ours_stays_to_the_byte(tmp_path: Path) -> None:
    before = (
        "\ufeffpath;label;start_seconds;end_seconds;note;group\r\n"
        'a.mp4;"walk";0.50;1.50;"seen; twice";day 1\r\n'
        "../elsewhere.mp4;x;1;2;;\r\n"
        "a.mp4;fall;nonsense;2;;\r\n"
        "gone.mp4;walk;3;4;kept;day 2\r\n"
    )
    store = LabelStore(folder_with(tmp_path, before))
    store.save()
    assert (tmp_path / "manifest.csv").read_bytes() == before.encode()
    put(store, "a.mp4", Span("walk", 7.0, 8.0))
    after = before.replace("a.mp4;fall;nonsense;2;;\r\n", "a.mp4;fall;nonsense;2;;\r\n").splitlines(keepends=True)
    after.insert(2, "a.mp4;walk;7;8;;day 1\r\n")
    assert (tmp_path / "manifest.csv").read_bytes() == "".join(after).encode()
    store.undo("me")
    assert (tmp_path / "manifest.csv").read_bytes() == before.encode()
    assert store.videos["gone.mp4"].stretches
    store.close()


def test_a_video_that_is_new_says_what_its_rows_leave_open(tmp_path: Path) -> None:
    store = LabelStore(folder_with(tmp_path, "path,label,start_seconds,end_seconds\na.mp4,walk,1,2\n"))
    assert store.videos["a.mp4"].rest == "background"
    put(store, "b.mp4", Span("walk", 0.0, 1.0))
    assert lines_of(tmp_path) == [
        "path,label,start_seconds,end_seconds,uncovered",
        "a.mp4,walk,1,2,background",
        "b.mp4,walk,0,1,unlabelled",
    ]
    rows = [(row.name, row.label, row.start_seconds, row.end_seconds) for row in store.rows()]
    assert rows == [("a.mp4", "walk", 1, 2), ("b.mp4", "walk", 0, 1), ("b.mp4", "unlabelled", 1, None)]
    store.close()


def test_the_later_change_of_a_stretch_is_refused_with_what_is_there(tmp_path: Path) -> None:
    store = LabelStore(folder_with(tmp_path))
    put(store, "a.mp4", Span("walk", 1.0, 2.0))
    seen = only(store)
    store.change("a.mp4", "one", [Edit(seen.id, seen.version, Span("walk", 1.0, 3.0))])
    with pytest.raises(ConflictError, match=r"walk from 1 s to 3 s") as late:
        store.change("a.mp4", "two", [Edit(seen.id, seen.version, Span("run", 1.0, 2.0))])
    assert [stretch.span for stretch in late.value.stretches] == [Span("walk", 1.0, 3.0)]
    with pytest.raises(ConflictError, match="meets what is there"):
        put(store, "a.mp4", Span("run", 2.0, 4.0), "two")
    now = only(store)
    store.change("a.mp4", "one", [Edit(now.id, now.version, None)])
    with pytest.raises(ConflictError, match="removed by somebody else"):
        store.change("a.mp4", "two", [Edit(now.id, now.version, Span("run", 1.0, 2.0))])
    store.close()


def test_each_undoes_their_own(tmp_path: Path) -> None:
    store = LabelStore(folder_with(tmp_path))
    put(store, "a.mp4", Span("walk", 1.0, 2.0), "one")
    put(store, "b.mp4", Span("run", 1.0, 2.0), "two")
    store.undo("one")
    assert lines_of(tmp_path)[1:] == ["b.mp4,run,1,2,,,unlabelled"]
    assert store.undo("one") is None
    store.undo("one", redo=True)
    stretch = only(store)
    store.change("a.mp4", "two", [Edit(stretch.id, stretch.version, Span("walk", 1.0, 5.0))])
    with pytest.raises(ConflictError, match="changed by somebody else since"):
        store.undo("one")
    store.undo("two")
    store.undo("one")
    assert lines_of(tmp_path)[1:] == ["b.mp4,run,1,2,,,unlabelled"]
    store.close()


def test_undo_lives_through_a_new_start(tmp_path: Path) -> None:
    store = LabelStore(folder_with(tmp_path))
    put(store, "a.mp4", Span("walk", 0.033333, 2.0))
    store.change("a.mp4", "me", reject=[Span("fall", 4.0, 5.0)])
    store.close()
    assert (tmp_path / "rejected_drafts.csv").read_text().splitlines()[1:] == ["a.mp4,fall,4,5"]
    store = LabelStore(tmp_path)
    assert store.videos["a.mp4"].rejected == [Span("fall", 4.0, 5.0)]
    store.undo("me")
    store.undo("me")
    assert (store.videos["a.mp4"].stretches, store.videos["a.mp4"].rejected) == ({}, [])
    store.close()


def test_a_second_program_is_refused(tmp_path: Path) -> None:
    store = LabelStore(folder_with(tmp_path))
    with pytest.raises(UserError, match=f"another process writes there.*{os.getpid()}"):
        LabelStore(tmp_path)
    store.close()
    LabelStore(tmp_path).close()


def test_lines_that_another_program_writes_meanwhile_are_kept(tmp_path: Path) -> None:
    store = LabelStore(folder_with(tmp_path))
    put(store, "a.mp4", Span("walk", 1.0, 2.0))
    with (tmp_path / "manifest.csv").open("a") as file:
        file.write("b.mp4,run,5,6,,,unlabelled\n")
    put(store, "a.mp4", Span("walk", 3.0, 4.0))
    assert {line.split(",")[1] + line.split(",")[2] for line in lines_of(tmp_path)[1:]} == {"walk1", "walk3", "run5"}
    store.close()


def test_a_folder_that_cannot_be_written_keeps_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = folder_with(tmp_path / "videos")
    store = LabelStore(folder)
    from pipeline.files import writing

    make = writing._make_temporary
    monkeypatch.setattr(writing, "_make_temporary", lambda *args: (_ for _ in ()).throw(OSError(28, "full")))
    put(store, "a.mp4", Span("walk", 1.0, 2.0))
    assert "the disk is full" in store.problem
    assert not (folder / "manifest.csv").exists()
    monkeypatch.setattr(writing, "_make_temporary", make)
    assert store.save()
    assert lines_of(folder)[1:] == ["a.mp4,walk,1,2,,,unlabelled"]
    store.close()


def test_changes_that_never_reached_the_manifest_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LabelStore(folder_with(tmp_path))
    put(store, "a.mp4", Span("walk", 1.0, 2.0))
    monkeypatch.setattr(LabelStore, "save", lambda self: False)
    put(store, "a.mp4", Span("run", 3.0, 4.0))
    monkeypatch.undo()
    store._journal.close()  # as a kill would leave it
    store._held.close()
    with (tmp_path / ".manifest.csv.journal").open("a") as file:
        file.write('{"number": 3, "who": "me", "vid')  # torn
    again = LabelStore(tmp_path)
    assert [line.split(",")[1] for line in lines_of(tmp_path)[1:]] == ["walk", "run"]
    put(again, "b.mp4", Span("walk", 1.0, 2.0))
    again.close()
    assert len(LabelStore(tmp_path).videos["b.mp4"].stretches) == 1


def test_a_journal_that_another_hand_damaged_says_the_rest(tmp_path: Path) -> None:
    store = LabelStore(folder_with(tmp_path))
    put(store, "a.mp4", Span("walk", 1.0, 2.0))
    store.close()
    damaged = ["[" * 100_000, "[]", "3", '{"saved": Infinity}', '{"number": 1e999, "who": "", "video": ""}', "\0"]
    damaged += ['{"number": 2, "who": "", "video": "a.mp4", "rest": []}']
    damaged += [f'{{"number": 2, "who": "", "video": "a.mp4", "added": [["x", 0, 1{"0" * 400}]]}}']
    with (tmp_path / ".manifest.csv.journal").open("a") as file:
        file.write("".join(f"{line}\n" for line in damaged))
    again = LabelStore(tmp_path)
    assert again.undo("me") is not None
    assert lines_of(tmp_path)[1:] == []
    again.close()


def test_a_journal_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("mine\n")
    folder = folder_with(tmp_path / "videos")
    (folder / ".manifest.csv.journal").symlink_to(other)
    store = LabelStore(folder)
    put(store, "a.mp4", Span("walk", 1.0, 2.0))
    store.close()
    assert other.read_text() == "mine\n"
    again = LabelStore(folder)  # the journal in the cache folder has it
    assert again.undo("me") is not None
    again.close()


def test_a_draft_that_lasts_to_the_end_is_still_rejected_after_a_new_start(tmp_path: Path) -> None:
    rejected = [Span("walk", 1.0, float("inf"))]
    store = LabelStore(folder_with(tmp_path))
    store.change("a.mp4", "me", reject=rejected)
    store.close()
    store = LabelStore(tmp_path)
    assert store.videos["a.mp4"].rejected == rejected
    store.close()


def test_a_damaged_file_of_rejected_drafts_is_named(tmp_path: Path) -> None:
    folder_with(tmp_path)
    (tmp_path / "rejected_drafts.csv").write_text("path,label,start_seconds,end_seconds\na.mp4,walk,1,soon\n")
    with pytest.raises(UserError, match=r"rejected_drafts\.csv:2: end_seconds is 'soon'"):
        LabelStore(tmp_path)


# Six changes of all kinds: two stretches, a label, a wrong draft, the first stretch away, and that undone.
CHANGES = """
from pipeline.labelling.store import LabelStore
from pipeline.labelling.stretches import Edit, Span

def work(folder, tell):
    store = LabelStore(folder)
    def labelled(label):
        return next(one for one in store.videos["a.mp4"].stretches.values() if one.span.label == label)
    def change(*edits, **others):
        store.change("a.mp4", "me", list(edits), **others)
    def edit(label, to):
        change(Edit(labelled(label).id, labelled(label).version, to))
    steps = [
        lambda: change(Edit(None, None, Span("walk", 0, 1))),
        lambda: change(Edit(None, None, Span("run", 2, 3))),
        lambda: edit("run", Span("fall", 2, 3)),
        lambda: change(reject=[Span("walk", 5, 6)]),
        lambda: edit("walk", None),
        lambda: store.undo("me"),
    ]
    for number, step in enumerate(steps, 1):
        step()
        tell(number)
    store.close()
"""
STATES = ["", "walk", "run walk", "fall walk", "fall walk no-walk", "fall no-walk", "fall walk no-walk"]
KILLED = """
import json, os, signal, sys
from pathlib import Path

def killed_before(num_operations):
    left = num_operations

    def count(event, arguments):
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.truncate"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return count

for number, folder in enumerate(sorted(Path(sys.argv[1]).iterdir()), 1):
    reading, writing = os.pipe()
    if not (process := os.fork()):
        sys.addaudithook(killed_before(number))
        work(folder, lambda number: os.write(writing, bytes([number])))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as told:
        num_told = max(told.read(), default=0)
    print(json.dumps([folder.name, num_told, os.WIFSIGNALED(os.waitpid(process, 0)[1])]))
"""


def test_a_kill_loses_the_change_in_flight_at_most(tmp_path: Path) -> None:
    """Killed before the first, the second, ... operation on a file, until there is none left: at 40 moments or more."""
    for number in range(70):
        folder_with(tmp_path / f"{number:02}")
    command = [sys.executable, "-c", CHANGES + KILLED, str(tmp_path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [json.loads(line) for line in lines]
    killed = [(name, num_told) for name, num_told, is_killed in found if is_killed]
    assert (len(found), found[-1][1:]) == (70, [6, False])
    assert len(killed) >= 40
    assert {num_told for _, num_told in killed} == set(range(7))
    for name, num_told in killed:
        check_after_kill(tmp_path / name, num_told)


def check_after_kill(folder: Path, num_told: int) -> None:
    """The changes that were told, or one more, are there, in the manifest too, and can be taken back one by one."""
    store = LabelStore(folder)
    found = state_of(store)
    assert found in STATES[num_told : num_told + 2]
    labels = sorted(line.split(",")[1] for line in lines_of(folder)[1:]) if found else []
    assert labels == [word for word in found.split() if word != "no-walk"]
    num_changes = num_told if found == STATES[num_told] else num_told + 1
    states = STATES[: 5 if num_changes == 6 else num_changes + 1]  # the sixth has taken the fifth back
    for state in reversed(states):
        assert state_of(store) == state
        assert (store.undo("me") is None) == (not state)
    store.close()


def state_of(store: LabelStore) -> str:
    video = store.videos["a.mp4"]
    labels = sorted(stretch.span.label for stretch in video.stretches.values())
    return " ".join([*labels, *(f"no-{span.label}" for span in video.rejected)])


# Properties, against sets of spans that know of no ids, versions or files


# What JSON, lines and Unicode make hard; st.text() looks at all of Unicode, and takes seconds to begin.
TEXTS = st.text('a1"\\\n\r\t\0,;é\u0301\u2028\ufeff\U0001f3ac\ud83d')


def spans() -> st.SearchStrategy[Span]:
    times = st.integers(0, 40).map(lambda n: n / 2)
    return st.builds(lambda label, a, n: Span(label, a, a + n / 2), st.sampled_from("pqr"), times, st.integers(1, 9))


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["put", "drop", "undo", "redo", "again"]), spans()), max_size=25))
def test_the_store_does_what_a_set_would(
    steps: list[tuple[str, Span]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = folder_with(tmp_path_factory.mktemp("labels"))
    store = LabelStore(folder)
    states: list[frozenset[Span]] = [frozenset()]
    taken_back: list[frozenset[Span]] = []
    for step, span in steps:
        now = states[-1]
        if step == "put":
            try:
                put(store, "a.mp4", span)
            except ConflictError:
                assert any(span.overlaps(other) for other in now)
                continue
            assert not any(span.overlaps(other) for other in now)
            states.append(now | {span})
            taken_back.clear()
        elif step == "drop" and now:
            found = store.videos["a.mp4"].find(min(now, key=str))
            assert found
            store.change("a.mp4", "me", [Edit(found.id, found.version, None)])
            states.append(now - {found.span})
            taken_back.clear()
        elif step == "undo":
            assert (store.undo("me") is not None) == (len(states) > 1)
            if len(states) > 1:
                taken_back.append(states.pop())
        elif step == "redo":
            assert (store.undo("me", redo=True) is not None) == bool(taken_back)
            if taken_back:
                states.append(taken_back.pop())
        elif step == "again":
            store.close()
            store = LabelStore(folder)
        assert {stretch.span for stretch in store.videos["a.mp4"].stretches.values()} == states[-1]
    store.close()
    if (folder / "manifest.csv").exists():
        with (folder / "manifest.csv").open() as file:
            found = {Span(r["label"], float(r["start_seconds"]), float(r["end_seconds"])) for r in csv.DictReader(file)}
        assert found == states[-1]


@given(st.lists(spans(), max_size=12))
def test_covered_and_uncovered_parts_make_up_the_whole(some: list[Span]) -> None:
    ticks = [any(s.start_seconds <= t / 4 < s.end_seconds for s in some) for t in range(4 * 30)]
    covered, free = list(covered_parts(some)), list(uncovered_parts(some, 30.0))
    assert ticks == [any(a <= t / 4 < b for a, b in covered) for t in range(4 * 30)]
    assert ticks == [not any(a <= t / 4 < b for a, b in free) for t in range(4 * 30)]


@given(st.builds(LabelChange, st.integers(1), TEXTS, TEXTS, st.lists(spans()).map(tuple), st.lists(spans()).map(tuple)))
def test_a_change_comes_back_from_the_journal(change: LabelChange) -> None:
    assert change_from_json(json.loads(json.dumps(change_to_json(change)))) == change
    assert change.inverse().inverse() == change
