"""Fixtures that several test files use."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.cli import ENVIRONMENT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from pipeline.export.pieces import Pieces

os.environ.update(ENVIRONMENT | {"OPENCV_FFMPEG_LOGLEVEL": "-8"} | os.environ)  # the last as webcam has it
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, which share the cores
    os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | os.environ)


# The files that take longest, which begin: then no process is left with one of them when the others are done.
SLOW_FILES = (
    *("docs_run", "export", "ranks", "decode", "many", "fuzz_model", "tutorial", "demo", "training", "doctor"),
    *("ablate", "pages", "learning", "decode_health", "check", "onnx_file", "streaming_network"),
    *("recognizer_pictures", "streaming", "cli", "wheel", "examples", "buckets", "trackers"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    gc.freeze()  # a million objects of what was imported, which the collector would look through again and again


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries tell of leaks at the end


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The user's caches are left alone."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real videos: CLIPGRU_TEST_DATA, or ``shared/data`` beside the checkout.

    Without it a test skips, except in CI (CI=true), where it fails.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CLIPGRU_TEST_DATA") or beside)
    if folder.is_dir():
        return folder
    message = f"no real-data folder at {folder}; set CLIPGRU_TEST_DATA to where it is"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def shared_cases(shared_data: Path) -> Path:
    """The folder of small files that were once read wrong, beside the real videos; without it a test skips."""
    folder = shared_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"no folder of cases at {folder}")
    return folder


@pytest.fixture(scope="session")
def motion_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small motion set: 3 training, 1 validation and 2 test clips a class (background thrice that), a long video."""
    from pipeline.datasets.motion import MotionSetConfig, make_motion_set

    config = MotionSetConfig(num_train_clips=3, num_val_clips=1, num_test_clips=2, size_px=48, num_untrimmed=1)
    return make_motion_set(tmp_path_factory.mktemp("motion"), config)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests; what opens a page gives it a profile of its own."""
    from tests.browsing import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def quick_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """``clipgru learn`` in seconds: few steps, and two of its candidates, which ``clipgru explain`` can explain."""
    from pipeline.learning import candidates

    monkeypatch.setattr(candidates, "_NUM_STEPS", 5)
    for name in set(candidates.CANDIDATES) - {"convgru", "gru of differences"}:
        monkeypatch.delitem(candidates.CANDIDATES, name)


@pytest.fixture(scope="session")
def one_torchlib() -> Iterator[None]:
    """torch.onnx makes its table of operators anew for each graph; here it is made once."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        registry = ONNXRegistry.from_torchlib()
        patch.setattr(ONNXRegistry, "from_torchlib", lambda *_, **__: registry)
        yield


@pytest.fixture(scope="session")
def pieces(one_torchlib: None) -> Pieces:
    """Of a model that reads differences, as ONNX; made once, as torch.export takes seconds."""
    from pipeline.export.pieces import make_pieces
    from tests.small import difference_model

    return make_pieces(difference_model())


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, pieces: Pieces) -> Path:
    """A folder with that model, ``model.safetensors``, and its export by the command line."""
    from pipeline.checkpoint import save_model
    from pipeline.cli import main
    from tests.small import difference_model

    folder = tmp_path_factory.mktemp("exported")
    save_model(folder / "model.safetensors", difference_model())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.export.files.make_pieces", lambda file: pieces)
        assert main(["export", str(folder / "model.safetensors"), "--format", "onnx", "--quiet"]) == 0
    return folder
