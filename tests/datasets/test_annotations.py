"""Every annotation format on small trees, and on the real clips of the same layout; every refusal names its cause."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from pipeline.config import DataConfig
from pipeline.datasets import formats
from pipeline.datasets.annotations import Annotations, VideoRow, name_some
from pipeline.datasets.formats import DATA_FORMATS
from pipeline.datasets.parts import part_of
from pipeline.errors import UserError
from pipeline.sources import VIDEO_SUFFIXES, is_video
from tests.datasets.test_timeline_rows import OTHER_TOOLS, WRITERS

# What every reader of a whole tree must do is tested on each of these; a new format must be added.
UCF = {
    "ucfTrainTestlist/classInd.txt": "1 Walk\n2 Archery\n",
    "ucfTrainTestlist/trainlist01.txt": "Walk/v_Walk_g08_c01.avi 1\nArchery/v_Archery_g08_c01.avi 2\n",
    "ucfTrainTestlist/testlist01.txt": "Walk/v_Walk_g01_c01.avi\nArchery/v_Archery_g01_c02.avi\n",
    "UCF-101/Walk/v_Walk_g08_c01.avi": "",
    "UCF-101/Walk/v_Walk_g01_c01.avi": "",
    "UCF-101/Archery/v_Archery_g08_c01.avi": "",
    "UCF-101/Archery/v_Archery_g01_c02.avi": "",
}
HMDB = {
    "testTrainMulti_7030_splits/wave_test_split1.txt": "A_film_wave_u_nm_np1_fr_goo_0.avi 1 \nhome_#7.avi 2 \n"
    "gone_wave_u_nm_np1_fr_goo_3.avi 0 \n",
    "testTrainMulti_7030_splits/sit_up_test_split1.txt": "A_film_sit_up_f_cm_np2_ba_med_12.avi 2 \n"
    "B_sit_up_f_cm_np2_ba_med_1.avi 1 \n",
    "wave/A_film_wave_u_nm_np1_fr_goo_0.avi": "",
    "wave/home_#7.avi": "",
    "sit_up/A_film_sit_up_f_cm_np2_ba_med_12.avi": "",
    "sit_up/B_sit_up_f_cm_np2_ba_med_1.avi": "",
}
KINETICS = {
    "train.csv": "label,youtube_id,time_start,time_end,split,is_cc\n"
    "air drumming,aaaaaaaaaaa,5,15,train,0\nzumba,bbb-_bbbbbb,100,110,train,0\nzumba,gone0000000,0,10,train,0\n",
    "annotations_of_others/test.csv": "label\n",
    "validate.csv": "label,youtube_id,time_start,time_end,split\nzumba,ccc,7,17,validate\nair drumming,ddd,7,17,\n",
    "train/air_drumming/aaaaaaaaaaa_000005_000015.mp4": "",
    "bbb-_bbbbbb_000100_000110.mkv": "",
    "val/zumba/ccc_000007_000017.mp4": "",
    "val/air drumming/ddd_000007_000017.mp4": "",
}
FOLDER = {"jump/a.mp4": "", "jump/day 2/b.MOV": "", "jump/notes.txt": "", "wálk/c.avi": "", "wálk/.hidden.avi": ""}
MANIFEST = {
    "manifest.csv": "path,label,start_seconds,end_seconds,group\n"
    'a.mp4,fall,1.5,3,day1\na.mp4,walk,3,,day1\n"sub/b, c.mp4",fall,,,\n',
    "a.mp4": "",
    "sub/b, c.mp4": "",
}
UT = {"set1/0_1_4.avi": "", "set1/11_10_0.avi": ""}
ACTIVITYNET = {
    "videos/1.mp4": "",
    "videos/2.mp4": "",
    "a.json": '{"database": {\n"1": {"subset": "training", "annotations": [{"segment": [0, 2], "label": "x"}]},\n'
    '"2": {"subset": "validation", "annotations": [{"segment": [1, 2], "label": "y"}]}}}\n',
}
THUMOS = {"v/a.mp4": "", "v/b.mp4": "", "Run_val.txt": "a 0 2\n", "Jump_test.txt": "b  1.0 2.5\n"}
EPIC = {
    "v/P01_01.MP4": "",
    "v/P02_01.MP4": "",
    "EPIC_100_train.csv": "participant_id,video_id,start_timestamp,stop_timestamp,label\nP01,P01_01,0:0:1.5,0:0:2,x\n",
    "EPIC_100_validation.csv": "participant_id,video_id,start_timestamp,stop_timestamp,label\nP02,P02_01,0,1,y\n",
}
TREES = {
    "activitynet": ACTIVITYNET,
    "epic": EPIC,
    "thumos": THUMOS,
    "ucf101": UCF,
    "hmdb51": HMDB,
    "kinetics": KINETICS,
    "folder": FOLDER,
    "manifest": MANIFEST,
    "ut_interaction": UT,
}


def plant(root: Path, tree: dict[str, str]) -> Path:
    """Write the files of a tree; a video is an empty file."""
    for name, text in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def names(annotations: Annotations) -> dict[str, list[str]]:
    return {part: [row.name for row in rows] for part, rows in annotations.splits.items()}


def groups(annotations: Annotations) -> dict[str, str]:
    return {row.name: row.group for rows in annotations.splits.values() for row in rows}


def read_annotations(
    format: str, root: Path, annotations: Path | None = None, split: int = 1, *, allow_links: bool = False
) -> Annotations:
    named = str(annotations) if annotations else None
    return formats.read_annotations(
        DataConfig(format=format, root=str(root), annotations=named, split=split, allow_links=allow_links)
    )


def refusal(format: str, root: Path, annotations: Path | None = None, split: int = 1) -> str:
    """The message of the error that reading must end in: one screen of text."""
    with pytest.raises(UserError) as caught:
        read_annotations(format, root, annotations, split)
    message = str(caught.value)
    assert len(message) < 1200
    return message


# Every format


def test_every_format_has_a_tree_here() -> None:
    # test_shards, test_motion, test_images, test_sequences, test_timeline_rows
    elsewhere = {"shards", "motion", "images", "cifar10", "motion_timeline", "motion_two_shapes", "ms_tcn", "predict"}
    assert {*TREES, *elsewhere, *WRITERS, *OTHER_TOOLS} == DATA_FORMATS.keys()


@pytest.mark.parametrize("format", TREES)
def test_rows_are_files_with_known_labels(tmp_path: Path, format: str) -> None:
    found = read_annotations(format, plant(tmp_path, TREES[format]))
    rows = [row for part in found.splits.values() for row in part]
    assert set(found.splits) <= {"train", "val", "test"} or set(found.splits) == {"all"}
    assert {row.label for row in rows} <= set(found.labels)
    for row in rows:
        assert row.path.is_file()
        assert row.path.suffix.lower() in VIDEO_SUFFIXES
        assert tmp_path.joinpath(row.name).exists() or row.path.as_posix().endswith(row.name)
        assert row.group


@pytest.mark.parametrize("format", TREES)
def test_a_missing_root_is_named(tmp_path: Path, format: str) -> None:
    assert str(tmp_path / "nowhere") in refusal(format, tmp_path / "nowhere")


@pytest.mark.parametrize("format", TREES)
def test_an_empty_root_is_refused(tmp_path: Path, format: str) -> None:
    assert str(tmp_path) in refusal(format, tmp_path)


@pytest.mark.parametrize("format", TREES)
def test_a_tree_without_its_videos_is_refused(tmp_path: Path, format: str) -> None:
    texts = {name: text for name, text in TREES[format].items() if text}
    assert str(tmp_path) in refusal(format, plant(tmp_path, texts))


@pytest.mark.parametrize("format", TREES)
def test_marks_and_line_endings_of_windows_do_not_matter(tmp_path: Path, format: str) -> None:
    plain = read_annotations(format, plant(tmp_path / "plain", TREES[format]))
    windows = {name: "\ufeff" + text.replace("\n", "\r\n") if text else "" for name, text in TREES[format].items()}
    other = read_annotations(format, plant(tmp_path / "windows", windows))
    assert (names(plain), groups(plain), plain.labels) == (names(other), groups(other), other.labels)


@pytest.mark.parametrize("format", [format for format, tree in TREES.items() if any(tree.values())])
def test_text_that_is_not_utf8_is_refused(tmp_path: Path, format: str) -> None:
    plant(tmp_path, TREES[format])
    for name, text in TREES[format].items():
        if text:
            (tmp_path / name).write_bytes(text.encode("utf-16"))
    assert "UTF-8" in refusal(format, tmp_path)


def test_an_unknown_format_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'ucf101'.*kinetics"):
        read_annotations("ucf-101", Path())


def test_readers_are_light() -> None:
    code = (
        "import sys, pipeline.datasets.settled; "
        "print([name for name in ('torch', 'av', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_long_lists_are_cut() -> None:
    assert name_some("abcdefg") == "7: a, b, c, d, e, ..."
    assert name_some("ab") == "2: a, b"


# UCF101


def test_ucf101_follows_the_official_lists(tmp_path: Path) -> None:
    found = read_annotations("ucf101", plant(tmp_path, UCF))
    assert found.labels == ("Walk", "Archery")
    assert names(found) == {
        "train": ["Walk/v_Walk_g08_c01.avi", "Archery/v_Archery_g08_c01.avi"],
        "test": ["Walk/v_Walk_g01_c01.avi", "Archery/v_Archery_g01_c02.avi"],
    }
    assert [row.group for row in found.splits["test"]] == ["Walk_g01", "Archery_g01"]
    assert not found.may_share_groups


@pytest.mark.parametrize("where", ["videos", "beside", "named", "named file", "download"])
def test_ucf101_lists_may_lie_elsewhere(tmp_path: Path, where: str) -> None:
    folder = {
        "videos": "UCF-101/ucfTrainTestlist",
        "beside": "ucfTrainTestlist",
        "named": "lists",
        "named file": "lists",
        "download": "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
    }[where]
    plant(tmp_path, {name.replace("ucfTrainTestlist", folder): text for name, text in UCF.items()})
    root = tmp_path if where == "download" else tmp_path / "UCF-101"
    named = {"named": tmp_path / "lists", "named file": tmp_path / "lists" / "classInd.txt"}.get(where)
    assert len(read_annotations("ucf101", root, named).splits["train"]) == 2


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("classInd.txt", "1 Walk\n3 Archery\n", "classInd.txt:2: expected '2 <ClassName>', got '3 Archery'"),
        ("trainlist01.txt", "Walk/v_Walk_g08_c01.avi 2\n", "trainlist01.txt:1: class number 2"),
        ("trainlist01.txt", "\nWalks/v_Walk_g08_c01.avi 1\n", "trainlist01.txt:2: unknown class 'Walks'. Did you"),
        ("trainlist01.txt", "Walk/walking.avi 1\n", "trainlist01.txt:1: expected"),
        ("trainlist01.txt", "Walk/../v_Walk_g08_c01.avi 1\n", "trainlist01.txt:1: expected"),
        ("testlist01.txt", "\n", "lists none"),
    ],
)  # fmt: skip
def test_ucf101_names_the_bad_line(tmp_path: Path, file: str, text: str, message: str) -> None:
    plant(tmp_path, UCF | {f"ucfTrainTestlist/{file}": text})
    assert message in refusal("ucf101", tmp_path)


def test_ucf101_counts_absent_files_and_names_five(tmp_path: Path) -> None:
    lines = "".join(f"Walk/v_Walk_g08_c{number:02d}.avi 1\n" for number in range(1, 9))
    plant(tmp_path, UCF | {"ucfTrainTestlist/trainlist01.txt": lines})
    message = refusal("ucf101", tmp_path)
    assert "7: Walk/v_Walk_g08_c02.avi" in message
    assert "c06.avi" in message
    assert "c07.avi" not in message


@pytest.mark.parametrize("format", ["ucf101", "hmdb51"])
def test_official_splits_are_three(tmp_path: Path, format: str) -> None:
    assert "1 to 3" in refusal(format, plant(tmp_path, TREES[format]), split=4)


def test_ucf101_reads_the_real_clips(tmp_path: Path, shared_data: Path) -> None:
    clips = sorted((shared_data / "ucf101_sample").glob("*/*.avi"))
    lists = {part: [f"{clip.parent.name}/{clip.name}" for clip in clips if ("c01" in clip.name) == (part == "test")]
             for part in ("train", "test")}  # fmt: skip
    number = {"ApplyEyeMakeup": 1, "BenchPress": 2}
    plant(
        tmp_path,
        {
            "classInd.txt": "".join(f"{index} {label}\r\n" for label, index in number.items()),
            "trainlist02.txt": "".join(f"{name} {number[name.split('/')[0]]}\r\n" for name in lists["train"]),
            "testlist02.txt": "".join(f"{name}\r\n" for name in lists["test"]),
        },
    )
    found = read_annotations("ucf101", shared_data / "ucf101_sample", tmp_path, 2)
    assert names(found) == lists
    assert {row.group for row in found.splits["train"]} == {"ApplyEyeMakeup_g01", "BenchPress_g01"}
    assert all(row.path.stat().st_size > 0 for rows in found.splits.values() for row in rows)


# HMDB51


def test_hmdb51_follows_the_official_lists(tmp_path: Path) -> None:
    found = read_annotations("hmdb51", plant(tmp_path, HMDB))
    assert found.labels == ("sit_up", "wave")
    assert names(found) == {
        "train": ["sit_up/B_sit_up_f_cm_np2_ba_med_1.avi", "wave/A_film_wave_u_nm_np1_fr_goo_0.avi"],
        "test": ["sit_up/A_film_sit_up_f_cm_np2_ba_med_12.avi", "wave/home_#7.avi"],
    }
    # One film, two actions, both sides: as published, and said so.
    assert groups(found)["wave/A_film_wave_u_nm_np1_fr_goo_0.avi"] == "A_film"
    assert groups(found)["sit_up/A_film_sit_up_f_cm_np2_ba_med_12.avi"] == "A_film"
    assert groups(found)["wave/home_#7.avi"] == "wave/home_#7.avi"
    assert found.may_share_groups


def test_hmdb51_names_the_bad_line_and_absent_files(tmp_path: Path) -> None:
    plant(tmp_path, HMDB)
    source = tmp_path / "testTrainMulti_7030_splits" / "wave_test_split1.txt"
    source.write_text("home_#7.avi 3")
    assert f"{source}:1: expected '<name>.avi 0|1|2', got 'home_#7.avi 3'" in refusal("hmdb51", tmp_path)
    source.write_text("away.avi 1")
    assert "1: wave/away.avi" in refusal("hmdb51", tmp_path)


# Kinetics


def test_kinetics_finds_what_is_there_and_lists_what_is_not(tmp_path: Path) -> None:
    found = read_annotations("kinetics", plant(tmp_path, KINETICS))
    assert found.labels == ("air drumming", "zumba")
    assert names(found) == {
        "train": ["train/air_drumming/aaaaaaaaaaa_000005_000015.mp4", "bbb-_bbbbbb_000100_000110.mkv"],
        "val": ["val/zumba/ccc_000007_000017.mp4", "val/air drumming/ddd_000007_000017.mp4"],
    }
    assert groups(found)["bbb-_bbbbbb_000100_000110.mkv"] == "bbb-_bbbbbb"
    assert [path.name for path in found.absent] == ["gone0000000_000000_000010.mp4"]


def test_kinetics_reads_one_table_with_a_split_column(tmp_path: Path) -> None:
    lines = "label,youtube_id,time_start,time_end,split\na,x,1,2,train\na,y,1,2,test\n"
    plant(tmp_path, {"everything.csv": lines, "x_000001_000002.mp4": "", "y_000001_000002.mp4": ""})
    assert "train.csv" in refusal("kinetics", tmp_path)
    assert list(read_annotations("kinetics", tmp_path, tmp_path / "everything.csv").splits) == ["train", "test"]


def test_kinetics_takes_a_clip_with_two_labels_from_the_folder_of_each(tmp_path: Path) -> None:
    lines = "label,youtube_id,time_start,time_end\na b,x,1,2\nb,x,1,2\n"
    plant(tmp_path, {"train.csv": lines, "a_b/x_000001_000002.mp4": "", "b/x_000001_000002.mp4": ""})
    rows = read_annotations("kinetics", tmp_path).splits["train"]
    assert [(row.label, row.path.parent.name) for row in rows] == [("a b", "a_b"), ("b", "b")]


def test_kinetics_says_that_a_part_is_not_there(tmp_path: Path) -> None:
    tree = {name: text for name, text in KINETICS.items() if not name.startswith("val/")}
    found = read_annotations("kinetics", plant(tmp_path, tree))
    assert found.splits.keys() == {"train"}
    assert found.notes == ("none of the 2 videos of the part val is there",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("youtube_id,time_start,time_end\n", "train.csv:1: no column label"),
        ("label,youtube_id,time_start,time_end\nzumba,x,ten,20\n", "train.csv:2: time_start is 'ten'"),
        ("label,youtube_id,time_start,time_end\nzumba,x,20,10\n", "train.csv:2: expected"),
        ("label,youtube_id,time_start,time_end\nzumba,x\n", "train.csv:2: the header has 4 columns"),
        ("label,youtube_id,time_start,time_end,split\nzumba,x,1,2,holdout\n", "train.csv:2: unknown split 'holdout'"),
        ("label,youtube_id,time_start,time_end\nzumba,ccc,7,17\njuggling,x,1,2\n", "1: juggling"),
    ],
)
def test_kinetics_names_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    plant(tmp_path, KINETICS | {"train.csv": text})
    assert message in refusal("kinetics", tmp_path)


# A folder per class


def test_folder_takes_every_video_below_a_class(tmp_path: Path) -> None:
    found = read_annotations("folder", plant(tmp_path, FOLDER))
    assert found.labels == ("jump", "wálk")
    assert names(found) == {"all": ["jump/a.mp4", "jump/day 2/b.MOV", "wálk/c.avi"]}
    assert groups(found) == {name: name for name in names(found)["all"]}


def test_folder_with_its_own_split(tmp_path: Path) -> None:
    tree = {f"{part}/{label}/1.mp4": "" for part in ("train", "test") for label in "ab"}
    found = read_annotations("folder", plant(tmp_path, tree | {"untrimmed/000.mp4": ""}))
    assert names(found) == {"train": ["train/a/1.mp4", "train/b/1.mp4"], "test": ["test/a/1.mp4", "test/b/1.mp4"]}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    found = read_annotations("folder", plant(tmp_path, {"train/a.mp4": "", "test/b.mp4": ""}))
    assert found.labels == ("test", "train")
    assert list(found.splits) == ["all"]


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        (("Train", "Test"), {"train", "test"}),
        (("training", "validation"), {"train", "val"}),
        (("train", "valid", "test"), {"train", "val", "test"}),
        (("TRAIN", "dev", "Testing"), {"train", "val", "test"}),
        (("train_set", "val-data", "test2017"), {"train", "val", "test"}),
        (("test",), {"test"}),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "pictures", "archive"])
def test_parts_have_one_vocabulary(tmp_path: Path, folders: tuple[str, ...], parts: set[str], kind: str) -> None:
    suffix = "mp4" if kind == "folder" else "png"
    root = plant(tmp_path / "data", {f"{folder}/{label}/1.{suffix}": "" for folder in folders for label in "ab"})
    if kind == "archive":
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            for path in sorted(root.rglob("*.png")):
                archive.write(path, path.relative_to(root))
        root = tmp_path / "data.zip"
    config = DataConfig(format="folder" if kind == "folder" else "images", root=str(root))
    found = formats.read_annotations(config)
    assert found.splits.keys() == parts
    assert found.labels == ("a", "b")
    assert not found.notes


@pytest.mark.parametrize(
    ("name", "part"),
    [("Training", "train"), (" VALID_SET", "val"), ("dev", "val"), ("test-videos", "test"), ("train2017", "train")]
    + [(name, None) for name in ("trains", "tests", "holdout", "untrimmed", "data", "set", "", "train 2", "protest")],
)
def test_spellings_of_parts(name: str, part: str | None) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize(
    ("tree", "note"),
    [
        ({"train/a/1.mp4": "", "holdout/a/2.mp4": ""}, "folders beside train are not read. 1: holdout (1 file)"),
        ({"train/a/1.mp4": "", "test/1.mp4": "", "test/2.mp4": ""}, "beside train are not read. 1: test (2 files)"),
        ({"train/1.mp4": "", "test/1.mp4": ""}, "like a part of the data are read as classes. 2: test, train"),
        ({"jump/1.mp4": "", "test/a/1.mp4": ""}, "like a part of the data are read as classes. 1: test"),
        ({"a/train/1.mp4": "", "a/test/2.mp4": "", "b/1.mp4": ""}, "are read as its videos. 2: a/test, a/train"),
        ({"a/1.mp4": "", "a/2.swf": "", "a/3.mp4.part": ""}, "kinds that are not read. 2: a/2.swf, a/3.mp4.part"),
    ],
)  # fmt: skip
def test_what_looks_like_data_and_is_not_read_is_said(tmp_path: Path, tree: dict[str, str], note: str) -> None:
    (said,) = read_annotations("folder", plant(tmp_path, tree)).notes
    assert note in said


def test_two_folders_for_one_part_and_empty_parts_are_refused(tmp_path: Path) -> None:
    train = {"train/a/1.mp4": "", "train/b/1.mp4": ""}
    assert "two folders for the part val: valid and validation" in refusal(
        "folder", plant(tmp_path / "two", train | {"valid/a/1.mp4": "", "validation/a/1.mp4": ""})
    )
    for name in ("val", "val/a"):
        root = plant(tmp_path / name.replace("/", "_"), train)
        (root / name).mkdir(parents=True)
        message = refusal("folder", root)
        assert "the part val has no video: put class folders with videos into" in message
        assert "or remove it" in message


@pytest.mark.parametrize("allow_links", [False, True])
def test_a_linked_folder_inside_a_class_is_entered_if_allowed_and_said_if_not(
    tmp_path: Path, allow_links: bool
) -> None:
    plant(tmp_path, {"data/a/1.mp4": "", "data/b/1.mp4": "", "elsewhere/2.mp4": "", "c/3.mp4": ""})
    (tmp_path / "data/a/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/more/round").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/c").symlink_to(tmp_path / "c")  # a class folder may be a link
    found = read_annotations("folder", tmp_path / "data", allow_links=allow_links)
    linked = {"a/more/2.mp4"} if allow_links else set()
    assert set(groups(found)) == {"a/1.mp4", "b/1.mp4", "c/3.mp4"} | linked
    assert [note for note in found.notes if "a/more" in note] == [
        "linked folders are not entered. 1: a/more. Set data.allow_links true, or put the files there"
    ] * (not allow_links)


@pytest.mark.parametrize(
    "suffix", [".asf", ".DV", ".mxf", ".qt", ".f4v", ".divx", ".gif", ".3g2", ".m2v", ".ogm", ".mp4"]
)
def test_suffixes_of_videos(suffix: str) -> None:
    assert is_video(f"a{suffix}")
    assert not is_video(f"._a{suffix}")
    assert not is_video(suffix)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"run/notes.txt": "x"}, "without a video. 1: run"),
        ({"loose.mp4": ""}, "outside a class folder. 1: loose.mp4"),
        ({"groups.csv": "file,source_group\njump/a.mp4,1\nwálk/c.avi,1\n"}, "that are there. 1: jump/day 2/b.MOV"),
        ({"groups.csv": "file,group\njump/a.mp4,1\njump/day 2/b.MOV,1\nwálk/c.avi,1\nx,1\n"}, "are not there. 1: x"),
        ({"groups.csv": "file,source\njump/a.mp4,1\n"}, "groups.csv:1: expected the columns file and source_group"),
        ({"groups.csv": "name,group\n"}, "groups.csv:1: no column file"),
        (
            {"groups.csv": "file,group\njump/a.mp4,1\njump/day 2/b.MOV,1\nwálk/c.avi,1\njump/a.mp4,2\n"},
            "groups.csv:5: jump/a.mp4 has the source '2' here and '1' above; keep one line",
        ),
    ],
)  # fmt: skip
def test_folder_names_what_is_wrong(tmp_path: Path, tree: dict[str, str], message: str) -> None:
    assert message in refusal("folder", plant(tmp_path, FOLDER | tree))


def test_folder_reads_the_groups_of_real_clips(shared_data: Path) -> None:
    found = read_annotations("folder", shared_data / "surv_fight")
    rows = found.splits["all"]
    assert Counter(row.label for row in rows) == {"fight": 150, "noFight": 150}
    lines = (shared_data / "surv_fight" / "groups.csv").read_text().splitlines()[1:]
    listed = {line.split(",")[0]: line.split(",")[2] for line in lines}
    assert groups(found) == {name: name if group == "-1" else group for name, group in listed.items()}
    assert max(Counter(row.group for row in rows).values()) == 20


def test_groups_are_read_as_spreadsheets_write_them(tmp_path: Path) -> None:
    """Semicolons, backslashes, a mark, another case, accents apart, a line twice, and unknown sources."""
    lines = [
        "File;Source_Group;",
        "jump\\a.mp4;17;",
        "jump\\a.mp4;17;",
        "jump/day 2/b.MOV;-1;",
        f"{apart('wálk')}/c.avi;;",
    ]
    found = read_annotations("folder", plant(tmp_path, FOLDER | {"groups.csv": "\ufeff" + "\r\n".join(lines)}))
    assert groups(found) == {"jump/a.mp4": "17", "jump/day 2/b.MOV": "jump/day 2/b.MOV", "wálk/c.avi": "wálk/c.avi"}


def apart(name: str) -> str:
    """With accents as characters of their own, as file systems of Apple write them."""
    return unicodedata.normalize("NFD", name)


def test_a_class_is_one_however_its_accents_are_written(tmp_path: Path) -> None:
    found = read_annotations("folder", plant(tmp_path, {"wálk/1.mp4": "", f"{apart('wálk')}/2.mp4": "", "b/1.mp4": ""}))
    assert found.labels == ("b", "wálk")
    assert names(found) == {"all": ["b/1.mp4", "wálk/2.mp4", "wálk/1.mp4"]}


# The manifest


def test_manifest_gives_stretches_and_groups(tmp_path: Path) -> None:
    found = read_annotations("manifest", plant(tmp_path, MANIFEST))
    assert found.labels == ("fall", "walk")
    assert found.splits["all"] == (
        VideoRow(tmp_path / "a.mp4", "fall", "day1", 1.5, 3.0, "a.mp4"),
        VideoRow(tmp_path / "a.mp4", "walk", "day1", 3.0, None, "a.mp4"),
        VideoRow(tmp_path / "sub/b, c.mp4", "fall", "sub/b, c.mp4", 0.0, None, "sub/b, c.mp4"),
    )


def test_manifest_as_json_lines_says_the_same(tmp_path: Path) -> None:
    lines = [
        {"path": "a.mp4", "label": "fall", "start_seconds": 1.5, "end_seconds": 3, "group": "day1"},
        {"path": "a.mp4", "label": "walk", "start_seconds": 3, "end_seconds": None, "group": "day1"},
        {"path": "sub/b, c.mp4", "label": "fall"},
    ]
    expected = read_annotations("manifest", plant(tmp_path, MANIFEST))
    (tmp_path / "other.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines))
    assert read_annotations("manifest", tmp_path, tmp_path / "other.jsonl") == expected
    assert read_annotations("manifest", tmp_path / "other.jsonl") == expected


def test_a_line_ends_where_it_ends(tmp_path: Path) -> None:
    """Unicode has more line ends than files have, and JSON may hold them."""
    lines = [{"path": name, "label": label} for name, label in (("a.mp4", "x\u2028y"), ("sub/b, c.mp4", "z\x85"))]
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    found = read_annotations("manifest", plant(tmp_path, MANIFEST | {"m.jsonl": text}), tmp_path / "m.jsonl")
    assert found.labels == ("x\u2028y", "z")  # spaces at the ends are none of a label


def test_manifest_with_splits(tmp_path: Path) -> None:
    tree = {"manifest.csv": "path,label,split\na.mp4,x,train\nb.mp4,x,validation\n", "a.mp4": "", "b.mp4": ""}
    assert names(read_annotations("manifest", plant(tmp_path, tree))) == {"train": ["a.mp4"], "val": ["b.mp4"]}


def test_manifest_with_a_class_list(tmp_path: Path) -> None:
    plant(tmp_path, MANIFEST | {"classes.txt": "walk\nrun\nfall\n"})
    assert read_annotations("manifest", tmp_path).labels == ("walk", "run", "fall")
    (tmp_path / "classes.txt").write_text("walk\nrun\nfell\n")
    assert "manifest.csv:2: unknown label 'fall'. Did you mean 'fell'" in refusal("manifest", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,start_seconds\na.mp4,1\n", "manifest.csv:1: no column label"),
        ("path,label,grop\na.mp4,x,1\n", "manifest.csv:2: unknown column 'grop'. Did you mean 'group'"),
        ("path,label\na.mp4\n", "manifest.csv:2: the header has 2 columns"),
        ("path,label\na.mp4,x,y\n", "manifest.csv:2: the header has 2 columns"),
        ("path,label\na.mp4,\n", "manifest.csv:2: label is empty"),
        ("path,label\n,x\n", "manifest.csv:2: path is empty"),
        ("path,label,start_seconds\na.mp4,x,soon\n", "manifest.csv:2: start_seconds is 'soon'"),
        ("path,label,start_seconds\na.mp4,x,nan\n", "manifest.csv:2: start_seconds is 'nan'"),
        ("path,label,start_seconds\na.mp4,x,inf\n", "manifest.csv:2: need 0 <= start_seconds"),
        ("path,label,start_seconds\na.mp4,x,-1\n", "manifest.csv:2: need 0 <= start_seconds < end_seconds, got -1"),
        (
            "path,label,start_seconds,end_seconds\na.mp4,x,2,2\n",
            "manifest.csv:2: need 0 <= start_seconds < end_seconds",
        ),
        ("path,label\n/etc/a.mp4,x\n", "manifest.csv:2: the path '/etc/a.mp4' leads out of the root"),
        ("path,label\nsub/../../a.mp4,x\n", "manifest.csv:2: the path 'sub/../../a.mp4' leads out of the root"),
        ("path,label\na.mp4,x\na.mp4,y\n", "manifest.csv:3: a.mp4 with these times is listed already at"),
        ("path,label,split\na.mp4,x,train\nsub/b.mp4,x,\n", "1 lines have no split"),
        ("path,label,split\na.mp4,x,held\n", "manifest.csv:2: unknown split 'held'"),
        ("path,label\na.mp4,x\nno.mp4,x\nnor this.mp4,x\n", "2: no.mp4, nor this.mp4"),
        ("path,label\n", "no video found"),
    ],
)
def test_manifest_names_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal("manifest", plant(tmp_path, MANIFEST | {"manifest.csv": text}))


ROWS = [("a.mp4", "fall"), ("sub/b, c.mp4", "walk")]


def written(separator: str, header: str = "path,label", rows: list[tuple[str, str]] = ROWS, ending: str = "") -> str:
    lines = [",".join(f'"{value}"' for value in row) + ending for row in rows]
    return (
        "\n".join([header + ending, *lines]).replace('","', f'"{separator}"').replace("path,", f"path{separator}")
        + "\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        written(","),
        written(";"),
        written("\t"),
        "\ufeff" + written(";").replace("\n", "\r\n"),
        "sep=;\n" + written(";"),
        written(",", "Path, LABEL "),
        written(",", ending=","),
        written(",", "path,label,"),
        written(",", rows=[("./a.mp4", "fall"), ("sub\\b, c.mp4", " walk ")]),
        written(",", rows=[("{root}/a.mp4", "fall"), ("{root}/sub/b, c.mp4", "walk")]),
        written(",").replace("\n", "\n\n"),
        written(",").replace("path,label", "path,label,group").replace('"\n', '",-1\n'),
        written(",").replace("path,label", "path,label,group").replace('"\n', '",\n'),
    ],
)
def test_a_manifest_is_read_as_people_write_it(tmp_path: Path, text: str) -> None:
    plant(tmp_path, MANIFEST | {"manifest.csv": text.replace("{root}", str(tmp_path))})
    found = read_annotations("manifest", tmp_path)
    assert [(row.name, row.label, row.group) for row in found.splits["all"]] == [
        ("a.mp4", "fall", "a.mp4"),
        ("sub/b, c.mp4", "walk", "sub/b, c.mp4"),
    ]


def test_accents_in_a_manifest_and_on_the_disk_may_be_written_differently(tmp_path: Path) -> None:
    text = f"path,label\nwálk/é.mp4,wálk\n{apart('wálk/è.mp4')},{apart('wálk')}\n"
    plant(tmp_path, {"manifest.csv": text, f"{apart('wálk')}/{apart('é')}.mp4": "", f"{apart('wálk')}/è.mp4": ""})
    found = read_annotations("manifest", tmp_path)
    assert found.labels == ("wálk",)
    assert names(found) == {"all": ["wálk/é.mp4", "wálk/è.mp4"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('path,label\na.mp4,"x\nb.mp4,y\n', "manifest.csv:2: not a line of CSV"),
        ('path,label\na.mp4,"x\nb.mp4,"y"\n', "manifest.csv:2: not a line of CSV"),
        ('path,label\na.mp4,x\n"b.mp4,y\n', "manifest.csv:3: not a line of CSV"),
        ('path,label\na.mp4,"x\ny"\n', "manifest.csv:2: a value goes on in the next line"),
        ("path,label,label\na.mp4,x,y\n", "manifest.csv:1: the header has more than one column label"),
        (",path,label\n0,a.mp4,x\n", "manifest.csv:2: the header has no name for column 1 (pandas: to_csv"),
        ("a.mp4,x\n", "manifest.csv:1: no column path, label; the header, which is the first line, has a.mp4, x"),
        ("path,label\n/etc/../{root}/a.mp4,x\n", "leads out of the root"),
        ("path,label\n{root}/../a.mp4,x\n", "leads out of the root"),
        ("path,label\nC:\\data\\a.mp4,x\n", "leads out of the root"),
        ("path,label,start_seconds\na.mp4,x,00:12\n", "which is no number of seconds, such as 12.5"),
        ("path,label,start_seconds\na.mp4,x,1_0\n", "start_seconds is '1_0', which is no number of seconds"),
        ("path,label,start_seconds\na.mp4,x,\uff11\n", "which is no number of seconds"),
    ],
)
def test_a_table_is_read_strictly(tmp_path: Path, text: str, message: str) -> None:
    plant(tmp_path, MANIFEST | {"manifest.csv": text.replace("{root}", str(tmp_path))})
    assert message in refusal("manifest", tmp_path)


def test_a_class_list_names_each_once(tmp_path: Path) -> None:
    plant(tmp_path, MANIFEST | {"classes.txt": f"walk\nfall\nwálk\n{apart('wálk')}\n"})
    assert "classes.txt:4: the label" in refusal("manifest", tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path": "a.mp4", "path": "b.mp4", "label": "x"}', "m.jsonl:2: a key is twice there"),
        ("[" * 100_000, "m.jsonl:2: not JSON: too deep"),
        ('{"path": "a.mp4", "label": "x"', "m.jsonl:2: not JSON"),
        ('["a.mp4", "x"]', "m.jsonl:2: expected one JSON object"),
        ('{"path": "a.mp4", "label": ["x"]}', "m.jsonl:2: expected one JSON object"),
        ('{"path": "a.mp4"}', "m.jsonl:2: label is empty"),
    ],
)
def test_json_lines_name_what_is_wrong(tmp_path: Path, line: str, message: str) -> None:
    plant(tmp_path, MANIFEST | {"m.jsonl": "\n" + line})
    assert message in refusal("manifest", tmp_path, tmp_path / "m.jsonl")


# UT-Interaction


def test_ut_interaction_reads_names(tmp_path: Path) -> None:
    rows = read_annotations("ut_interaction", plant(tmp_path, UT)).splits["all"]
    assert [(row.label, row.group) for row in rows] == [("punch", "sequence_01"), ("handshake", "sequence_10")]


@pytest.mark.parametrize("name", ["0_1_6.avi", "0_1.avi", "a_1_2.avi"])
def test_ut_interaction_refuses_other_names(tmp_path: Path, name: str) -> None:
    assert re.search(rf"{re.escape(name)}: expected a name", refusal("ut_interaction", plant(tmp_path, {name: ""})))


def test_ut_interaction_reads_the_real_set(shared_data: Path) -> None:
    found = read_annotations("ut_interaction", shared_data / "ut_interaction" / "set1")
    rows = found.splits["all"]
    assert len(rows) == 60
    assert Counter(row.label for row in rows) == dict.fromkeys(found.labels, 10)
    assert {row.group for row in rows} == {f"sequence_{number:02d}" for number in range(1, 11)}


def test_a_folder_knows_the_sources_in_ucf_names(tmp_path: Path) -> None:
    for name in ("v_Run_g01_c01.avi", "v_Run_g01_c02.avi", "v_Run_g02_c01.avi", "holiday.avi"):
        touch = tmp_path / "Run" / name
        touch.parent.mkdir(exist_ok=True)
        touch.touch()
    rows = read_annotations("folder", tmp_path).splits["all"]
    assert {row.path.name: row.group for row in rows} == {
        "holiday.avi": "Run/holiday.avi",
        "v_Run_g01_c01.avi": "Run/v_Run_g01",
        "v_Run_g01_c02.avi": "Run/v_Run_g01",
        "v_Run_g02_c01.avi": "Run/v_Run_g02",
    }


def test_a_manifest_may_not_follow_links_out_of_the_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "secret.mp4"
    (root / "sub").mkdir(parents=True)
    outside.write_bytes(b"x")
    (root / "inside.mp4").write_bytes(b"x")
    (root / "sub" / "link.mp4").symlink_to(outside)
    (root / "sub" / "fine.mp4").symlink_to(root / "inside.mp4")
    (root / "manifest.csv").write_text("path,label\nsub/fine.mp4,a\n")
    assert len(read_annotations("manifest", root).splits["all"]) == 1
    (root / "manifest.csv").write_text("path,label\nsub/fine.mp4,a\nsub/link.mp4,b\n")
    with pytest.raises(UserError, match=r"links that lead out of the root .* 1: sub/link\.mp4.*data\.allow_links"):
        read_annotations("manifest", root)
    assert len(read_annotations("manifest", root, allow_links=True).splits["all"]) == 2
