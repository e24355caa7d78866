"""Facts about a file that are good to know and no fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from av.video.reformatter import ColorTrc

from pipeline.decode.index import VideoIndex

_MIN_START_SECONDS = 0.1  # sound often begins a few hundredths of a second earlier
_HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}


def ratio_of(index: VideoIndex) -> str:
    """Return the sample aspect ratio as people write it, such as 16:11."""
    return "{}:{}".format(*index.info.sample_aspect_ratio.as_integer_ratio())


def notes_of(
    index: VideoIndex, color_trc: int, num_interlaced: int, num_frames: int, other_streams: Sequence[str]
) -> Iterator[str]:
    """Yield such facts about a file, in words.

    Args:
        index: its index.
        color_trc: its transfer characteristic, as FFmpeg numbers them.
        num_interlaced: of its ``num_frames`` pictures, those of two fields.
        other_streams: video streams that are not read, in words.
    """
    info = index.info
    if info.why_counted:
        yield f"times of pictures are counted: {info.why_counted}"
    if info.start_seconds_in_file >= _MIN_START_SECONDS:
        yield f"its pictures begin at {info.start_seconds_in_file:.3f} s of the file; times are counted from the first"
    if color_trc in _HDR:
        yield f"HDR ({_HDR[ColorTrc(color_trc)]}): its colours are not converted, so it looks dull"
    if num_interlaced:
        yield f"interlaced: {num_interlaced} of {num_frames} pictures are two half pictures, read as one"
    if info.sample_aspect_ratio != 1:
        yield f"its pixels are {ratio_of(index)}, wide to high; transform.fit crop keeps the shape of what is shown"
    if other_streams:
        yield f"video streams that are not read: {', '.join(other_streams)}; decode.stream chooses"
