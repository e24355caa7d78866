"""Decode: a path becomes exact frames.

    causes      likely causes why a file is refused
    container   opens files safely: local, regular, of a known kind, of bounded size
    packets     one pass over a file's packets; mp4 (and boxes): the same from the tables of an MP4 or MOV
    index       number of frames, from the packets; cache: kept for the next time
    times       display time of each: as the file says where that is plausible, else counted
    orientation their mirror image and turn, to be shown upright
    reader      VideoReader: frames by number, by time, or as a stream
    pyav        the exact decoder, and the default
    proof       checks that the other decoders must pass before they are believed
    decord, opencv, torchcodec
    decoders    all of them by name
    isolated    the same reader with the decoder in another process, which is killed when it hangs
    worker      that other process; wire: messages between the two
    opener      VideoOpener: opens one video after the other as the settings say
    remote      brings a video from the web or a bucket, if that is allowed; unpacked: from the tar that it lies in
    picture     single pictures, for models that read pictures
    health      faults of a file, if any; bitstream: bytes that no encoder may write;
                complaints: errors that FFmpeg reports meanwhile; notes: facts that are no fault

A decoder is imported when it is first used, and torch when the first frame becomes a tensor.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config import DecodeConfig
from pipeline.decode.decoders import DECODERS, open_here
from pipeline.decode.opener import VideoOpener
from pipeline.decode.reader import VideoReader

__all__ = ["DECODERS", "VideoOpener", "VideoReader", "open_video"]


def open_video(path: str | Path, decoder: str = "pyav") -> VideoReader:
    """Opens a local video file for exact reading. Every decoder gives the same frames or refuses the file.

    This is for a file at hand: it decodes in this process, with the default limits. ``VideoOpener`` takes other
    settings, and decodes in another process if asked to.

    Args:
        path: a regular file; URLs, folders, pipes, playlists and single pictures are refused.
        decoder: a key of ``DECODERS``. ``pyav`` reads everything that FFmpeg can; the others only files they are exact
            on, and always from the start.

    Returns:
        A reader, to be used in a ``with`` statement and in this process only.

    Raises:
        DecodeError: the file is missing, no video, broken, too large, or not for this decoder.
        UserError: the decoder is unknown or not installed.
    """
    return open_here(Path(path), DecodeConfig(decoder=decoder))
