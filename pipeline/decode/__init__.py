"""Decode: a path becomes exact frames.

    container   opens files safely: local, regular, of a known kind
    index       number of frames and their times, from the packets
    reader      VideoReader: frames by number, by time, or as a stream
    pyav        the exact decoder, and the default
    proof       what the other decoders must show before they are believed
    decord, opencv

A decoder is imported when it is first used.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from pipeline.config import DecodeConfig
from pipeline.decode.reader import Backend, VideoFile, VideoReader
from pipeline.errors import UserError, unknown_name

__all__ = ["DECODERS", "VideoReader", "open_video"]


def _pyav(file: VideoFile) -> Backend:
    from pipeline.decode.pyav import PyavBackend

    return PyavBackend(file)


def _decord(file: VideoFile) -> Backend:
    try:
        from pipeline.decode.decord import DecordBackend
    except ImportError as error:
        cure = "pip install decord (made for x86-64 only), or use the pyav decoder"
        raise UserError(f"decoder 'decord' cannot be imported ({error}); {cure}") from error
    return DecordBackend(file)


def _opencv(file: VideoFile) -> Backend:
    try:
        from pipeline.decode.opencv import OpencvBackend
    except ImportError as error:
        cure = "pip install opencv-python, or use the pyav decoder"
        raise UserError(f"decoder 'opencv' cannot be imported ({error}); {cure}") from error
    return OpencvBackend(file)


DECODERS: dict[str, Callable[[VideoFile], Backend]] = {"pyav": _pyav, "decord": _decord, "opencv": _opencv}


def open_video(path: str | Path, decoder: str = "pyav") -> VideoReader:
    """Opens a local video file for exact reading. Every decoder gives the same frames or refuses the file.

    Args:
        path: a regular file; URLs, folders, pipes, playlists and single pictures are refused.
        decoder: a key of ``DECODERS``. ``pyav`` reads everything that FFmpeg can; the others only files they are exact
            on, and always from the start.

    Returns:
        A reader, to be used in a ``with`` statement and in this process only.

    Raises:
        DecodeError: the file is missing, no video, broken, or not for this decoder.
        UserError: the decoder is unknown or not installed.
    """
    if decoder not in DECODERS:
        raise unknown_name("decoder", decoder, DECODERS)
    with ExitStack() as stack:
        file = stack.enter_context(closing(VideoFile(Path(path), DecodeConfig())))
        reader = VideoReader(file, DECODERS[decoder](file))
        stack.pop_all()  # from here on the reader closes the file
    return reader
