"""Rules that the bytes of a packet must keep, whatever a decoder makes of them.

FFmpeg's H.264 and HEVC decoders make pictures of bytes that no encoder may write. Inside a NAL unit three bytes in a
row are never 000000, 000001 or 000002: an encoder puts a 3 between (ITU-T H.264 and H.265, 7.4.1 and 7.4.2). And where
NAL units carry their lengths, as in MP4, MOV, Matroska and FLV, these must fill the packet exactly (ISO/IEC 14496-15).
"""

from __future__ import annotations

_FORBIDDEN = (b"\x00\x00\x00", b"\x00\x00\x01", b"\x00\x00\x02")
# Some writers align NAL units with zeros at the end.
_MAX_ALIGNING_ZEROS = 3
# Where the decoder configuration says how many bytes a length has, less one, in its last two bits.
_PLACE_OF_LENGTH_SIZE = {"h264": 4, "hevc": 21}
_CONFIGURATION_VERSION = 1  # else the packets have start codes, and no lengths


def num_length_bytes(codec: str, configuration: bytes | None) -> int:
    """Bytes of the length before each NAL unit of a stream; 0 if there is none, or no NAL units."""
    place = _PLACE_OF_LENGTH_SIZE.get(codec)
    if place is None or not configuration or len(configuration) <= place:
        return 0
    return 1 + (configuration[place] & 3) if configuration[0] == _CONFIGURATION_VERSION else 0


def are_nal_units_sound(packet: bytes, length_bytes: int) -> bool:
    """True if a packet is made of whole NAL units without forbidden bytes."""
    position = 0
    while position < len(packet):
        start = position + length_bytes
        position = start + int.from_bytes(packet[position:start], "big")
        if start > len(packet) or position > len(packet) or not _is_sound(packet[start:position]):
            return False
    return True


def _is_sound(unit: bytes) -> bool:
    content = unit.rstrip(b"\x00")
    if len(unit) - len(content) > _MAX_ALIGNING_ZEROS:
        return False
    return not any(forbidden in content for forbidden in _FORBIDDEN)
