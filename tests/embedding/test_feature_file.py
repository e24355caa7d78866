"""Files of features that lie, are damaged, or are no files: refused in one line, whatever numpy would do with them."""

from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.embedding.feature_file import at_grid, check_feature_file, read_feature_file
from pipeline.errors import DecodeError
from tests.sandbox import furnish_ms_tcn

GOOD = np.random.default_rng(0).normal(size=(6, 70)).astype(np.float16)


class Touch:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled",)


def saved(array: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def lied(header: str, version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode("latin-1") + GOOD.tobytes()


def shaped(shape: str, descr: str = "'<f2'") -> bytes:
    return lied(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n")


LIES = {
    "objects": saved(np.array([[Touch()]], dtype=object)),
    "pickle": pickle.dumps(Touch()),
    "archive": b"PK\x03\x04" + bytes(100),
    "empty archive": b"PK\x05\x06\0\0\0",
    "short": b"\x93NUM",
    "version": lied("{}", version=9),
    "larger than the file": shaped("(6, 1000000000000)"),
    "larger than any": shaped("(6, 99999999999999999999999)"),
    "negative": shaped("(-6, -70)"),
    "truth": shaped("(True, 6)"),
    "fraction": shaped("(6.0, 70.0)"),
    "none": shaped("(6, 0)"),
    "deep": lied("(" * 9000),
    "unclosed": lied("{'descr': '<f2', 'shape': (6,\n"),
    "unclosed text": lied("{'descr': '''<f2\n"),
    "code": lied("__import__('os').mkdir('unpickled')\n"),
    "no type": shaped("(6, 70)", "'<z9'"),
    "records": shaped("(6, 70)", "[('a', 'O')]"),
    "other bytes": lied("\xff\xfe{'descr'"),
    "whole numbers": saved(GOOD.astype(np.int32)),
    "complex": saved(GOOD.astype(np.complex64)),
    "a row": saved(GOOD[0]),
    "cut off": saved(GOOD)[:-200],
    "web page": b"<!DOCTYPE html>",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.npy").write_bytes(LIES[lie])
    with pytest.raises(DecodeError, match=r"^a\.npy: open: no feature file: ") as refused:
        read_feature_file(Path("a.npy"), 6)
    assert "\n" not in str(refused.value)
    assert not Path("unpickled").exists()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(DecodeError, match="not a regular file"):
        read_feature_file(tmp_path / "a.npy", 6)


def test_a_number_that_is_none_is_told_with_its_file(tmp_path: Path) -> None:
    for wrong in (np.nan, np.inf, 1e300):
        array = GOOD.T.astype(np.float64)
        array[40, 3] = wrong
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(DecodeError, match=r"a\.npy: decode: a feature is not a finite number"):
            at_grid(tmp_path / "a.npy", read_feature_file(tmp_path / "a.npy", 6), 2.0, 2.0)
        if wrong != 1e300:  # finite, until it is read as float32
            with pytest.raises(DecodeError, match="not a finite number"):
                check_feature_file(tmp_path / "a.npy")


def test_check_looks_at_features_as_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    furnish_ms_tcn(tmp_path / "set")
    data = f"data:\n  format: ms_tcn\n  root: {tmp_path / 'set'}\n  features_fps: 2\n"
    (tmp_path / "config.yaml").write_text(data)
    assert main(["check", str(tmp_path / "config.yaml")]) == 0
    assert "4 files: 4 usable" in capsys.readouterr().err
    (tmp_path / "set" / "features" / "b.npy").write_bytes(LIES["unclosed"])
    assert main(["check", str(tmp_path / "config.yaml")]) == 1
    said = capsys.readouterr().err
    assert "4 files: 3 usable, 0 degraded, 1 unusable" in said
    assert "no feature file" in said


def test_check_writes_over_no_file_of_the_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        furnish_ms_tcn(tmp_path / f"set{number}")
    data = f"data:\n  format: ms_tcn\n  root: {tmp_path / 'set{split}'}\n  features_fps: 2\n"
    (tmp_path / "config.yaml").write_text(data)
    for name in ("mapping.txt", "splits/train.split1.bundle", "groundTruth/a.txt", "features/a.npy"):
        path = tmp_path / "set1" / name
        before = path.read_bytes()
        assert main(["check", str(tmp_path / "config.yaml"), "--csv", str(path)]) == 2
        assert "would be written over the input" in capsys.readouterr().err
        assert path.read_bytes() == before
