"""Every command of README.md, docs/how_to.md and the headers of configs/*.yaml is run, in the order of its page.

The words are those of the page but for ``SUBSTITUTIONS``; what they name lies, in small, in a folder that
``tests/sandbox.py`` fills, or is made by the commands before. The tutorial is run by test_tutorial.py. What is not run
here stands in ``ELSEWHERE``; a command that is in neither fails ``test_no_command_escapes``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import ModelFile
from pipeline.cli import COMMANDS, main
from pipeline.datasets.motion import MotionSetConfig
from pipeline.datasets.motion_timelines import TIMELINE_SETS, TimelineSet
from pipeline.export.pieces import Pieces, make_pieces
from pipeline.many.job import Job
from pipeline.many.processor import Processor
from pipeline.many.shards import Shard
from tests.hub_server import HubServer, point_to
from tests.ports import free_port
from tests.receivers import HookServer
from tests.sandbox import CONFIGS, furnish
from tests.streaming.test_streaming_network import MjpegServer

ROOT = Path(__file__).parents[2]
WAYS = [[ROOT / "README.md", ROOT / "docs" / "how_to.md"], *([config] for config in CONFIGS)]
"""Pages that are read one after the other: the recipes use the model that the README trains."""
PAGES = [page for way in WAYS for page in way]
PATIENCE_SECONDS = 800
PROGRAMS = "clipgru|python|make|torchrun|pip|docker"
COMMAND = re.compile(
    rf"^(?: {{4}}|# ?)((?:{PROGRAMS}) (?:.*\\\n)*.*)$"  # a line of its own, indented or in a header
    r"|`((?:clipgru|python tools/)[^`\n]*)`",  # in a sentence or a table
    flags=re.MULTILINE,
)

SUBSTITUTIONS = [  # what stands on the page, what is run instead, why
    (r"/path/to/|\.\.\./(?=set1|fights)", "data/", "a reader's own folder"),
    (r"(?<=webcam model\.safetensors )(0|/dev/video2)\b", "{camera}", "no camera here: a server on the loopback"),
    (r"rtsp://\S+|http://other/camera\.mjpg", "{camera}", "the same; RTSP itself is in test_streaming_network.py"),
    (r"https://alarms\.example\.org/\S+", "{hook}", "a receiver on the loopback"),
    (r"^clipgru webcam (?!.*--(?:headless|serve)).*", r"\g<0> --headless", "no display here"),
    (r"--serve\b", "--serve 127.0.0.1:0", "the usual port may be taken"),
    (r"^clipgru webcam (?!.*--fast).*", r"\g<0> --seconds 2", "a camera never ends"),
    (r"--machine\.devices 4", "--machine.devices 1", "time; two are in test_ranks.py"),
    (r"--nproc-per-node 4 \.\.\.", "--nproc-per-node 1 {meeting}", "time; where this machine meets itself"),
    (r"--seeds 3 (?=.*--config)", "--seeds 1 ", "time; two are in test_evaluation.py"),
    (r"--engine pool", "--engine pool --workers 1", "time; two are in test_many.py"),
    (r"--shard 3/16", "--shard 1/2", "time; two machines, not sixteen"),
    (r"--model\.weights default", "--model.weights none", "no network; from a file: test_video_networks.py"),
    (
        r"--transform\.input_frames 16 --sampling\.sample_fps 15",
        "--transform.input_frames 2 --sampling.sample_fps 1",
        "time",
    ),
    (r"--config \.\.\.", "--config configs/folder.yaml --data.root my_videos --name both", "whatever is trained"),
]

ELSEWHERE = {
    "make demo": "test_demo.py; that there is such a target: below",
    "make venv": "the environment of these tests; check_tutorial.py times it",
    "python tools/compare_heads.py --ut_interaction .../set1 --cifar10 cifar10.zip --output benchmarks": (
        "test_compare_heads.py; its options: below"
    ),
    "clipgru COMMAND --help": "test_cli.py, for every command",
    "clipgru evaluate runs/mine/model.safetensors --machine.devices 4": "test_ranks.py, with two",
    "clipgru predict model.safetensors archive --engine ray --parquet all.parquet": "test_many.py",
    "clipgru score live.json data/motion_77/untrimmed/segments.json --sample_fps 10": (
        "test_scoring.py; the commands before it are in the log"
    ),
    "clipgru predict --jsonl": "words of commands that are run in whole",
    "clipgru cache info": "test_files_cache.py",
    "clipgru check s3://my-bucket/videos --decode.allow_url true": "test_buckets.py, as the next two",
    "clipgru predict model.safetensors s3://my-bucket/new/match.mp4 --json match.json --decode.allow_url true": (
        "test_buckets.py"
    ),
    "clipgru train --config configs/folder.yaml --data.root s3://my-bucket/videos --name bucket --decode.allow_url "
    "true": "test_buckets.py",
    "clipgru train --config configs/folder.yaml --data.root my_videos --name tracked2 --machine.logger wandb": (
        "test_trackers.py"
    ),
    "clipgru train --config configs/folder.yaml --data.root my_videos --name tracked3 --machine.logger mlflow": (
        "test_trackers.py"
    ),
    "clipgru label data/long_videos": "tests/labelling: a page that stays until somebody ends it",
}


def commands_in(page: Path) -> list[str]:
    """In their order. A command's name alone, such as `clipgru learn`, is a name."""
    text = page.read_text(encoding="utf-8")
    found = [(line or span).replace("\\\n", " ") for line, span in COMMAND.findall(text)]
    return [command for command in found if command not in {f"clipgru {name}" for name in COMMANDS}]


def is_run(command: str) -> bool:
    return command.startswith(("clipgru ", "torchrun ")) and command not in ELSEWHERE


def as_run_here(command: str, **places: str) -> str:
    """The command as it is run here."""
    for pattern, substitute, _ in SUBSTITUTIONS:
        command = re.sub(pattern, substitute, command)
    return command.format(**places)


@dataclass
class Outcome:
    """Of a command."""

    code: int
    out: str
    err: str


class Sandbox:
    """A folder to run commands in, one after the other."""

    def __init__(self, camera: str, hook: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._camera, self._hook, self._capsys = camera, hook, capsys

    def run(self, command: str) -> None:
        """It must end well, and what it promises to write must be there."""
        BEFORE.get(command, lambda sandbox: None)(self)
        meeting = f"--rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{free_port()}"
        words = shlex.split(as_run_here(command, camera=self._camera, hook=self._hook, meeting=meeting))
        named = named_outputs(words)
        for path in named:
            _remove(path)
        outcome = self._outcome(words)
        assert outcome.code == 0, f"{shlex.join(words)}\n{outcome.out[-2000:]}\n{outcome.err[-6000:]}"
        for path in [*named, *told_outputs(words, outcome)]:
            assert _num_bytes(path) > 0, f"{shlex.join(words)} did not write {path}"
        check_answers(words, outcome)

    def _outcome(self, words: list[str]) -> Outcome:
        if words[0] == "torchrun":
            return run_apart(words)
        self._capsys.readouterr()
        code = main(words[1:])
        return Outcome(code, *self._capsys.readouterr())


def run_apart(words: list[str]) -> Outcome:
    """torchrun on two machines."""
    command = [sys.executable, "-m", "tests.two_machines", *words[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    return Outcome(done.returncode, done.stdout, done.stderr)


OUTPUT_FILES = ("--json", "--csv", "--jsonl", "--parquet", "--output", "--card_only")
OUTPUT_FOLDERS = {"--srt": "srt", "--vtt": "vtt", "--video": "mp4", "--html": "html", "--record": "mp4"}


def named_outputs(words: list[str]) -> list[Path]:
    """Files and folders that a command names as its outputs."""
    values = dict(pairwise(words))
    named = [Path(values[option]) for option in (*OUTPUT_FILES, *OUTPUT_FOLDERS) if option in values]
    if "--shard" in values:
        named = [Shard.parse(values["--shard"]).table(path) for path in named]
    return named + ([Path(words[2])] if words[1] == "merge" else [])


def told_outputs(words: list[str], outcome: Outcome) -> list[Path]:
    """Files that a command says it wrote."""
    told = re.findall(r"^(?:written|report): (.+)$", outcome.err, flags=re.MULTILINE)
    paths = [path for line in told for path in line.split(", ")]
    if words[1] == "report":
        paths += outcome.out.split()
    if "train" in words:
        answer = json.loads(outcome.out)
        paths += [answer["model"], answer["report"]]
    return [Path(path) for path in paths]


def check_answers(words: list[str], outcome: Outcome) -> None:
    """What an exit code does not tell: a folder has a file of each kind, and every source was watched."""
    values = dict(pairwise(words))
    for option, suffix in OUTPUT_FOLDERS.items():
        if option in values:
            assert list(Path(values[option]).glob(f"*.{suffix}")), f"no {suffix} in {values[option]}"
    if words[1] == "webcam":
        counts = [int(count) for count in re.findall(r"(\d+) frames in", outcome.err)]
        assert counts, outcome.err
        assert min(counts) > 0, outcome.err


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _num_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def run_the_other_shard(sandbox: Sandbox) -> None:
    """The page shows one of the array job's commands."""
    sandbox.run("clipgru predict model.safetensors archive --engine pool --parquet all.parquet --shard 2/2")


BEFORE: dict[str, Callable[[Sandbox], None]] = {  # what a reader does between two lines
    "clipgru merge all.parquet": run_the_other_shard,
}


@pytest.fixture(scope="module")
def furniture(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("docs") / "sandbox", motion_root)


class WorkerHere:
    """Works for ``--engine pool`` in this process, which has loaded torch already; real ones are in test_many.py."""

    def __init__(self, job: Job) -> None:
        self._processor = Processor(job)
        self.process = self._processor.process

    def stop(self) -> None:
        pass


@pytest.fixture
def pieces_made_once(one_torchlib: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages export one model twice, and half of that is torch.export."""
    made: dict[str, Pieces] = {}

    def once(file: ModelFile) -> Pieces:
        state = file.recognizer.state_dict().values()
        key = sha256(b"".join(tensor.numpy().tobytes() for tensor in state)).hexdigest()
        if key not in made:
            made[key] = make_pieces(file)
        return made[key]

    monkeypatch.setattr("pipeline.export.files.make_pieces", once)


@pytest.fixture
def sandbox(
    furniture: Path,
    quick_learn: None,
    pieces_made_once: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Sandbox]:
    """A fresh copy of it. Where words and configs leave no room for less, the program does less: a small motion set is
    made, and ``learn`` is quick. torchvision takes pictures for CIFAR-10 that have not its checksum."""
    folder = Path(shutil.copytree(furniture, tmp_path / "sandbox"))
    (folder / "model.safetensors").symlink_to("runs/mine/model.safetensors")  # once the page has trained it
    (folder / "runs").mkdir()
    (folder / "runs" / "other").symlink_to("folder")  # the run that the page makes with several devices
    monkeypatch.chdir(folder)
    small = MotionSetConfig(num_train_clips=2, num_val_clips=1, num_test_clips=1, size_px=48, num_untrimmed=0)
    monkeypatch.setattr("pipeline.datasets.motion.MotionSetConfig", lambda: small)
    long = replace(small, num_train_clips=0, num_val_clips=0, num_test_clips=0, num_untrimmed=4, untrimmed_seconds=40.0)
    for name, made in TIMELINE_SETS.items():
        config = replace(long, num_shapes=made.config.num_shapes)
        monkeypatch.setitem(TIMELINE_SETS, name, TimelineSet(config, {"train": 2, "val": 1, "test": 1}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: Path(path).is_file())
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("pipeline.many.pool.PredictionWorker", WorkerHere)
    camera = MjpegServer()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks as small as these
    with HookServer() as hook, HubServer() as hub:  # the hub on the loopback too
        point_to(hub.url, monkeypatch)
        yield Sandbox(camera.url, hook.url, capsys)
    torch.set_num_threads(threads)
    camera.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way[0].name)
def test_pages_from_top_to_bottom(way: list[Path], sandbox: Sandbox) -> None:
    for page in way:
        commands = [command for command in commands_in(page) if is_run(command)]
        assert commands
        for command in commands:
            sandbox.run(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_escapes(page: Path) -> None:
    for command in commands_in(page):
        assert is_run(command) or command in ELSEWHERE or command in TOOL_COMMANDS, f"{command}: is run nowhere"


def test_every_entry_of_the_tables_is_used() -> None:
    commands = [command for page in PAGES for command in commands_in(page)]
    assert set(BEFORE) | set(ELSEWHERE) <= set(commands)
    unused = {pattern for pattern, *_ in SUBSTITUTIONS}
    for command in filter(is_run, commands):
        for pattern, substitute, _ in SUBSTITUTIONS:
            changed = re.sub(pattern, substitute, command)
            unused -= {pattern} if changed != command else set()
            command = changed
    assert not unused


TOOL_COMMANDS = sorted(
    {
        command
        for page in (ROOT / "README.md", ROOT / "docs" / "how_to.md", *sorted((ROOT / "benchmarks").glob("*.md")))
        for command in commands_in(page)
        if command.startswith("python ")
    }
)


@pytest.mark.parametrize("command", TOOL_COMMANDS)
def test_tools_take_their_options(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is started, and stopped when it has read its words: what it measures takes minutes."""

    class HasRead(Exception):  # noqa: N818 (no error)
        pass

    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser) -> None:
        parse(parser)
        raise HasRead

    _, script, *words = shlex.split(command)
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(HasRead):
        runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize(("command", "recipe"), [("make demo", "clipgru demo"), ("make dist", "-m build")])
def test_targets_of_make_are_there(command: str, recipe: str) -> None:
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")  # of the make that may be running these tests
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    words = [*shlex.split(command), "--dry-run"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert recipe in done.stdout.splitlines()[-1]
