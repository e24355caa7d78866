"""The decoders by name. Each is imported when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from pipeline.config import DecodeConfig
from pipeline.decode.reader import Backend, VideoFile, VideoReader
from pipeline.errors import UserError, unknown_name


def _pyav(file: VideoFile) -> Backend:
    from pipeline.decode.pyav import PyavBackend

    return PyavBackend(file)


def _decord(file: VideoFile) -> Backend:
    with _installed("decord", "pip install decord (made for x86-64 only)"):
        from pipeline.decode.decord import DecordBackend
    return DecordBackend(file)


def _opencv(file: VideoFile) -> Backend:
    with _installed("opencv", "pip install opencv-python"):
        from pipeline.decode.opencv import OpencvBackend
    return OpencvBackend(file)


def _torchcodec(file: VideoFile) -> Backend:
    with _installed("torchcodec", "pip install torchcodec and FFmpeg's libraries"):
        from pipeline.decode.torchcodec import TorchcodecBackend
    return TorchcodecBackend(file)


@contextmanager
def _installed(decoder: str, cure: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, RuntimeError, OSError) as error:  # the last two: installed, without libraries that it needs
        brief = str(error).splitlines()[0] if str(error) else type(error).__name__
        cause = f"decoder {decoder!r} cannot be imported ({brief}); {cure}, or use the pyav decoder"
        raise UserError(cause) from error


DECODERS: dict[str, Callable[[VideoFile], Backend]] = {
    "pyav": _pyav,
    "decord": _decord,
    "opencv": _opencv,
    "torchcodec": _torchcodec,
}


def check_decoder(name: str) -> None:
    """Raises ``UserError`` if it is no key of ``DECODERS``."""
    if name not in DECODERS:
        raise unknown_name("decoder", name, DECODERS)


def open_with_backend(path: Path, config: DecodeConfig) -> tuple[VideoFile, Backend]:
    """A file and the decoder that ``config`` names, in this process. Raises as ``open_video``."""
    check_decoder(config.decoder)
    with ExitStack() as stack:
        file = stack.enter_context(closing(VideoFile(path, config)))
        backend = DECODERS[config.decoder](file)
        stack.pop_all()  # from here on the caller closes the file
    return file, backend


def open_here(path: Path, config: DecodeConfig) -> VideoReader:
    """A reader that decodes in this process. Raises as ``open_video``."""
    return VideoReader(*open_with_backend(path, config))
