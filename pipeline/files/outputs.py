"""The outputs of a command: refused before anything is opened where one of them would destroy something."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files.failures import STDOUT, OutputError
from pipeline.files.lock import locked_file
from pipeline.files.writing import is_special
from pipeline.sources import VIDEO_SUFFIXES, has_address, shown_path

_Identity = tuple[int | str, ...]


@contextmanager
def claimed(
    outputs: Mapping[str, str | Path | None],
    inputs: Iterable[str | Path] = (),
    *,
    no_clobber: bool = False,
    videos: Collection[str] = (),
) -> Iterator[None]:
    """Hold the output files of a command for this process alone, after a look at what they would replace.

    Args:
        outputs: option -> file; - is standard output, None stands for an option that was not given.
        inputs: files that the command reads; addresses and missing files are passed over.
        no_clobber: refuse files that are there already.
        videos: options whose output is a video, and so may replace one.

    Raises:
        UserError: an output is an input or would replace a video, two are one file, one is there already or cannot be
            made, or another process is writing it.
    """
    files = {option: Path(target) for option, target in outputs.items() if target and str(target) != STDOUT}
    check_outputs(files, inputs, no_clobber=no_clobber)
    with ExitStack() as stack:
        for option, path in files.items():
            if path.is_dir():
                raise UserError(f"{option} {path}: that is a folder: name a file")
            if option not in videos and path.suffix.lower() in VIDEO_SUFFIXES and _status(path):
                raise UserError(f"{option} {path} is a video, and what is written is none; choose another name")
            if not is_special(path):
                stack.enter_context(locked_file(path))
        yield


def check_outputs(outputs: Mapping[str, Path], inputs: Iterable[str | Path] = (), *, no_clobber: bool = False) -> None:
    """Compare outputs with inputs and each other: by device and inode, so that links and other spellings of a path do
    not hide that two are one file.

    Args:
        outputs: name in the message -> file. Pipes and devices are passed over.
        inputs: files that are read.
        no_clobber: also refuse files that are there already.

    Raises:
        UserError: an output is an address or an input, two are one file, or one is there already.
    """
    seen: dict[_Identity, tuple[str, Path]] = {}
    for option, path in outputs.items():
        if has_address(path):
            raise UserError(f"{option} {shown_path(path)}: outputs are files, and that is an address; name a file")
        if is_special(path) and not _status(path):
            continue
        other, _ = seen.setdefault(_identity(path), (option, path))
        if other != option:
            raise UserError(f"{other} and {option} name the same file, {path}; give each its own")
        if no_clobber and os.path.exists(path) and not is_special(path):
            raise OutputError(f"{option}: {path} is there already, and --no_clobber keeps it; choose another name")
    for source in inputs if any(len(identity) == 2 for identity in seen) else ():
        status = _status(source)
        if status and (status.st_dev, status.st_ino) in seen:
            option, path = seen[status.st_dev, status.st_ino]
            raise UserError(f"{option} {path} would be written over the input {source}; choose another name")


def files_in(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return outputs for ``claimed`` and ``check_outputs``: files of one folder."""
    return {f"the output {name}": folder / name for name in names}


def folded(name: str) -> str:
    """Return the form that a name shares with those that some file systems take for the same: in other case, or
    composed otherwise."""
    return unicodedata.normalize("NFC", name).casefold()


def _status(path: str | Path) -> os.stat_result | None:
    """Return the status of a plain file; else None."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # a name with a zero byte
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _identity(path: Path) -> _Identity:
    """Return the identity that all names of a file share: device and inode; before it exists those of its nearest
    folder, and the names below."""
    below: list[str] = []
    path = Path(os.path.realpath(path))
    while not os.path.exists(path) and path != path.parent:
        below.insert(0, folded(path.name))
        path = path.parent
    status = path.stat()
    return status.st_dev, status.st_ino, *below
