"""The command as a user meets it: exit codes, messages, files, and help without heavy imports."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from pipeline.checkpoint import save_model
from pipeline.cli import COMMANDS, main
from pipeline.config import DecodeConfig, to_yaml
from pipeline.version import __version__
from tests.small import small_experiment, small_model


@pytest.fixture(scope="module")
def trained(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a model trained for one epoch by the command line."""
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "config.yaml"
    config.write_text(to_yaml(small_experiment(motion_root, folder, epochs=1)))
    assert main(["train", "--config", str(config), "--name", "run", "--quiet"]) == 0
    return folder / "run"


def test_help_has_every_option_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.cli import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit: pass\n"
        "    heavy = {'torch', 'lightning', 'av', 'cv2', 'timm', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "    assert not heavy, (command, heavy)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert re.findall(r"^usage: clipgru (\S+)", result.stdout, re.MULTILINE) == list(COMMANDS)
    assert "--sampling.sample_fps" in result.stdout
    assert "Grid frames per second" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_at_most_ten_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    options = re.findall(r"^  (?:-h, )?(--[\w.]+)", said, re.MULTILINE)
    assert len(options) == len(set(options))
    usage, *groups = re.split(r"\n\n(?=\S[^\n]*:\n  )", said)
    assert len(usage.split("\n\n")[0].splitlines()) == 1
    first = next(group for group in groups if not group.startswith("positional"))
    assert len(re.findall(r"^  --", first, re.MULTILINE)) <= 10
    assert first.startswith("Used first:\n") or len(options) <= 10


def test_commands_that_open_videos_take_decoding_settings(capsys: pytest.CaptureFixture[str]) -> None:
    opening = COMMANDS.keys() - {"merge", "score", "shard", "cache", "demo", "backbones", "push"}
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        said = capsys.readouterr().out
        assert all((f"--decode.{item.name} " in said) == (command in opening) for item in fields(DecodeConfig))


def test_predict_starts_without_what_only_training_needs(trained: Path, motion_root: Path) -> None:
    """torchvision, timm and lightning take longer to import than a short video takes to predict."""
    video = next((motion_root / "test").rglob("*.mp4"))
    code = (
        "import sys; from pipeline.cli import main\n"
        f"code = main(['predict', {str(trained / 'model.safetensors')!r}, {str(video)!r}, '--quiet'])\n"
        "from pipeline.models.backbones import BUNDLED_BACKBONE, build_backbone\n"
        "build_backbone(BUNDLED_BACKBONE, 'bundled')\n"
        "needless = {'torchvision', 'timm', 'lightning', 'torch._dynamo', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "sys.exit(code or (str(needless) if needless else 0))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, pipeline; assert not {'torch', 'av', 'numpy'} & set(sys.modules); pipeline.Clip"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_top_level(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert __version__ in out
    assert all(command in out for command in COMMANDS)
    assert main([]) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["tran"], "Did you mean 'train'"),
        (["train", "--model.hedas", "[gru]"], "Did you mean --model.heads"),
        (["webcam", "m", "0", "--mode", "stream"], "Did you mean --inference.mode"),
        (["predict", "m", "x", "--mode", "stream"], "Did you mean --inference.mode"),
        (["train", "--config", "absent.yaml"], "absent.yaml"),
        (["train", "--data.root", "absent"], "absent"),
        (["train", "--model.heads", "[grew]", "--data.root", "{motion}"], "Did you mean 'gru'"),
        (["train", "--data.format", "ucf", "--data.root", "{motion}"], "unknown data format 'ucf'"),
        (["evaluate"], "either a MODEL file or --protocol"),
        (["evaluate", "absent.safetensors"], "no such model file"),
        (["evaluate", "--protocol", "leave_on", "--data.root", "{motion}"], "unknown protocol 'leave_on'"),
        (["predict", "{model}", "absent.mp4"], "absent.mp4: no video there"),
        (["predict", "absent.safetensors", "{motion}"], "no such model file"),
        (["predict", "{model}", "{motion}", "--inference.stride_frames", "0"], "stride_frames must be at least 1"),
        (["predict", "{model}", "{motion}", "--device", "gpu"], "device 'gpu': torch"),
        (["predict"], "model"),
    ],
)
def test_wrong_input_is_one_screen_and_exit_code_2(
    args: list[str],
    message: str,
    motion_root: Path,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [arg.format(motion=motion_root, model=trained / "model.safetensors") for arg in args]
    assert main(filled) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("clipgru: error: ")
    assert message in errors
    assert "Traceback" not in errors
    assert len(errors.splitlines()) <= 8


def test_bad_data_is_named_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty class, an absent file, an unknown label, a class with one source, a label list that lies."""
    (tmp_path / "empty" / "run").mkdir(parents=True)
    (tmp_path / "empty" / "jump").mkdir()
    (tmp_path / "empty" / "run" / "a.mp4").touch()
    (tmp_path / "absent.csv").write_text("path,label\nnowhere.mp4,run\n")
    (tmp_path / "classes.txt").write_text("run\njump\n")
    (tmp_path / "empty" / "run" / "b.mp4").touch()
    (tmp_path / "unknown.csv").write_text("path,label\nempty/run/a.mp4,runn\n")
    (tmp_path / "column.csv").write_text("path,label,gruop\nempty/run/a.mp4,run,1\n")
    for data, message in [
        (["--data.root", str(tmp_path / "empty")], "jump"),
        (["--data.format", "manifest", "--data.annotations", str(tmp_path / "absent.csv")], "nowhere.mp4"),
        (["--data.format", "manifest", "--data.annotations", str(tmp_path / "unknown.csv")], "runn"),
        (["--data.format", "manifest", "--data.annotations", str(tmp_path / "column.csv")], "gruop"),
    ]:
        if "manifest" in data:
            data += ["--data.root", str(tmp_path)]
        assert main(["train", *data, "--output_dir", str(tmp_path / "runs")]) == 2
        errors = capsys.readouterr().err
        assert message in errors
        assert len(errors.splitlines()) <= 8
    assert not (tmp_path / "runs").exists()


def test_evaluate_writes_its_report(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained / "model.safetensors"), "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["num_videos"] > 13
    folder = trained / "evaluation_test"
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "videos.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == summary["num_videos"]
    assert sum(row["right"] == "True" for row in rows) / len(rows) == pytest.approx(summary["top1"], abs=1e-4)
    with (folder / "confusion.csv").open() as stream:
        assert sum(int(cell) for row in list(csv.reader(stream))[1:] for cell in row[1:]) == len(rows)
    page = (trained / "report.html").read_text()
    assert all(title in page for title in ("On test videos", "Learning curves", "Worst clips", "Durations"))
    assert page.count('class="player"') == min(24, len(rows))
    journal = [json.loads(line)["command"] for line in (trained / "commands.jsonl").read_text().splitlines()]
    assert journal[0].startswith("clipgru train --config ")
    assert journal[-1] == f"clipgru evaluate {trained / 'model.safetensors'} --quiet"


def test_predict_writes_json_csv_and_stats(trained: Path, motion_root: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "stats")}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    (video,) = (motion_root / "untrimmed").glob("*.mp4")
    assert main(["predict", str(trained / "model.safetensors"), str(video), *options, "--quiet"]) == 0
    written = json.loads(files["json"].read_text())
    (record,) = written["videos"]
    assert record["status"] == "ok"
    assert record["duration_seconds"] == pytest.approx(40.0)
    assert len(record["windows"]) == 197  # 200 grid frames, 4 in a window, one more each frame
    assert record["windows"][0]["top_k"][0]["label"] == record["windows"][0]["label"]
    with files["csv"].open() as stream:
        rows = list(csv.DictReader(stream))
    kinds = [row["kind"] for row in rows]
    assert kinds.count("window") == len(record["windows"])
    assert kinds.count("segment") == len(record["segments"])
    assert json.loads(files["stats"].read_text())["frames_embedded"] == 200


def test_predict_goes_on_after_a_bad_file(
    trained: Path, motion_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = next((motion_root / "test" / "grows").glob("*.mp4"))
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a_bad.mp4").write_bytes(good.read_bytes()[:200])
    (folder / "b_good.mp4").write_bytes(good.read_bytes())
    (folder / "notes.txt").write_text("no video")
    assert main(["predict", str(trained / "model.safetensors"), str(folder), "--json", "-"]) == 1
    out, errors = capsys.readouterr()
    bad, fine = json.loads(out)["videos"]
    assert bad["status"] == "error"
    assert "a_bad.mp4" in bad["error"]
    assert fine["status"] == "ok"
    assert fine["windows"]
    assert "a_bad.mp4" in errors


def test_output_bytes_are_the_same_on_two_runs(trained: Path, motion_root: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        args = [str(trained / "model.safetensors"), str(motion_root / "test" / "grows"), "--quiet"]
        main(["predict", *args, "--json", str(tmp_path / name), "--csv", str(tmp_path / f"{name}.csv")])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_an_interrupted_prediction_leaves_nothing_under_its_name(
    motion_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "m.safetensors", small_model())

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.inference.Model.prediction", interrupt)
    video = next((motion_root / "test" / "grows").glob("*.mp4"))
    code = main(["predict", str(tmp_path / "m.safetensors"), str(video), "--json", str(tmp_path / "out.json")])
    assert code == 130
    assert {path.name for path in tmp_path.iterdir()} == {"m.safetensors"}


def test_a_protocol_runs_fold_by_fold_and_goes_on(
    motion_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for clip in motion_root.glob("*/moves_*/*"):
        copy = tmp_path / "set" / clip.parent.name / f"{clip.parent.parent.name}_{clip.name}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(clip)
    config = tmp_path / "config.yaml"
    config.write_text(to_yaml(small_experiment(tmp_path / "set", tmp_path, epochs=1)))
    args = ["evaluate", "--protocol", "group_5_fold", "--config", str(config), "--data.val_fraction", "0", "--quiet"]
    args += ["--no_baseline"]
    assert main(args) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["num_folds"] == 5
    assert first["num_videos"] == 4 * 6
    page = (tmp_path / "small" / "report.html").read_text()
    assert all(words in page for words in ("On the videos of all folds", "seed 0, fold 5"))
    last = tmp_path / "small" / "model" / "seed_0" / "fold_05" / "results.json"
    before = last.stat().st_mtime_ns
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert last.stat().st_mtime_ns == before
    assert main([*args, "--training.epochs", "2"]) == 2
    assert "folds of other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--data.cache", "framez"],
            "--data.cache framez: must be one of none, frames, features. Did you mean frames?",
        ),
        (["--training.train_frames", "x"], "--training.train_frames x: must be a whole number or null."),
        (["--model.bidirectional", "maybe"], "--model.bidirectional maybe: must be true or false."),
        (["--training.learning_rate", "fast"], "--training.learning_rate fast: must be a number."),
        (["--model.heads", "3"], "--model.heads 3: must be a list, such as [a, b]."),
    ],
)
def test_a_wrong_value_is_told_in_a_user_s_words(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words]) == 2
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == f"clipgru: error: {said}"
