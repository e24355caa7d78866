"""Fixtures that several test files use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
