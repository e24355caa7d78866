"""Display times of pictures: the file's own where they are plausible, else times counted at a rate.

Plausible are times that every picture has, that increase in the order in which the decoder gives the pictures, and that
last about as long as the header says. Display times come first, unless they are the decoding times moved by one
picture, as FFmpeg guesses them for H.264 without B-frames in AVI and ASF, which store one time a packet. Where they
fail (AVI stores none, and FFmpeg guesses wrong with B-frames), it is the decoding time of the packet at which the
decoder gave the picture: what the ffprobe command reports too. The last pictures come without a packet, and follow at
the usual step.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.container import Header

_Ticks = NDArray[np.int64]

NO_TIME = np.iinfo(np.int64).min
"""Marks a picture without a time."""
# A decoder holds back no more pictures.
_MAX_WITHOUT_PACKET = 32
# Two figures say the same within a tenth, and contradict each other by a factor of two.
_AGREEMENT, _CONTRADICTION = 1.1, 2.0
# A longer step, in usual ones, is a hole in the recording and says nothing of its rate.
_MAX_STEPS = 3
# Rounding to ticks moves a picture by less than a tick against the first, which is rounded too. A quarter more, so that
# nothing lies on the edge.
_SLACK_TICKS = 1.25
# _Ticks may be longer where the file shows that it rounds to them: its steps are of at least so many and differ by one.
_MAX_PLAIN_TICK_SECONDS, _MIN_ROUNDED_STEP = 1e-3, 3
_MIN_SLACK_SECONDS = 1e-6
# The number of pictures stands where FFmpeg looks for a duration.
_WITH_COUNT_FOR_DURATION = ("ivf",)
# MPEG-TS and -PS have no field for it.
_WITHOUT_DURATION = ("mpegts", "mpeg")


@dataclass(frozen=True)
class Stamps:
    """Times that a file stores for its N pictures, in ticks, in display order."""

    pts: _Ticks
    """``[N]``: display times; or empty."""
    dts: _Ticks
    """``[N]``: decoding times of the packets at which the decoder gave the pictures; or empty."""
    first_dts: int | None = None
    """Decoding time of the first packet."""
    num_ticks_last: int = 0
    """Duration of the last picture; 0 if the container does not say."""


@dataclass(frozen=True)
class PictureTimes:
    """Display times of N pictures."""

    pts_seconds: NDArray[np.float64]
    """``[N]``: the first at 0."""
    average_fps: Fraction
    duration_seconds: float
    first_tick: int | None
    """The first picture's time in the file; None where the file does not tell it."""
    why_counted: str = ""
    """The rate that times are counted at, and why; empty if they are the file's."""


def make_timeline(num_frames: int, stamps: Stamps, header: Header) -> PictureTimes | None:
    """Return the times of a file's pictures; None if nothing tells them."""
    faults = []
    for given in (stamps.dts, stamps.pts) if _is_next_in_line(stamps) else (stamps.pts, stamps.dts):
        is_display = given is stamps.pts
        ticks, fault = _completed(given, num_frames)
        fault = fault or _span_fault(ticks, stamps.num_ticks_last, header, is_display=is_display)
        if not fault:
            return _of_file(ticks, stamps, header, is_display=is_display)
        faults.append(fault)
    rate, reason = _counted_rate(num_frames, stamps, header)
    if not rate:
        return None
    why = f"{float(rate):.6g} pictures a second, {reason}, because {faults[0]}"
    times = np.arange(num_frames, dtype=np.float64) / float(rate)
    return PictureTimes(times, rate, float(num_frames / rate), stamps.first_dts, why)


def _is_next_in_line(stamps: Stamps) -> bool:
    """True if each display time is the decoding time of the picture after it, though pictures do not follow evenly."""
    pts, dts = stamps.pts, stamps.dts
    return len(pts) == len(dts) > 2 and np.array_equal(pts[:-1], dts[1:]) and bool(np.ptp(np.diff(dts)))


def _completed(given: _Ticks, num_frames: int) -> tuple[_Ticks, str]:
    """Return increasing times of all pictures, and the fault that they have; empty if none."""
    ticks = given[given != NO_TIME]
    if len(ticks) > 2 and ticks[-1] == ticks[-2]:  # MPEG-PS: the stamps of a pack are for one of its pictures
        ticks[-2] = (ticks[-3] + ticks[-1]) // 2
    steps, num_missing = np.diff(ticks), num_frames - len(ticks)
    if len(steps) and steps.min() <= 0:
        return ticks, f"the time of picture {int(np.argmax(steps <= 0)) + 1} is not after that of the one before"
    if not num_missing:
        return ticks, ""
    if num_missing > _MAX_WITHOUT_PACKET or not len(steps) or NO_TIME in given[: len(ticks)]:
        return ticks, f"{num_missing} of {num_frames} pictures have no time"
    return np.append(ticks, ticks[-1] + _middle(steps) * np.arange(1, num_missing + 1)), ""


def _middle(steps: _Ticks) -> int:
    return int(np.sort(steps)[(len(steps) - 1) // 2])


def _span_fault(ticks: _Ticks, num_ticks_last: int, header: Header, *, is_display: bool) -> str:
    """Return a text if the times contradict the header, else an empty one. Times contradict its rate and duration
    together; decoding times, which writers push on to keep them apart, also a duration that they exceed. Display times
    that mostly follow each other at its rate have a hole, or a picture that stands."""
    if not header.seconds_per_tick:
        return "the file has no unit of time"
    claimed, num_frames = float(header.duration_seconds), len(ticks)
    if num_frames < 2 or not claimed or header.container in _WITH_COUNT_FOR_DURATION:
        return ""
    tick, span = float(header.seconds_per_tick), float(ticks[-1] - ticks[0])
    seconds = tick * (span + (num_ticks_last or span / (num_frames - 1)))
    step = tick * float(_usual_step(ticks))
    if is_display and step and header.guessed_fps and _are_near(step, 1 / float(header.guessed_fps)):
        return ""
    is_sure = any(_are_near(num_frames / float(rate), claimed) for rate in _header_rates(header))
    is_far = seconds > claimed * _CONTRADICTION or claimed > seconds * _CONTRADICTION
    if (is_sure and is_far) or (not is_display and seconds > claimed * _AGREEMENT):
        return f"they last {seconds:.6g} s and the header says {claimed:.6g} s"
    return ""


def _of_file(ticks: _Ticks, stamps: Stamps, header: Header, *, is_display: bool) -> PictureTimes:
    tick, first, rates = header.seconds_per_tick, int(ticks[0]), _header_rates(header)
    usual = stamps.num_ticks_last or (_middle(np.diff(ticks)) if len(ticks) > 1 else 0)
    last = usual * tick if usual else next((1 / rate for rate in reversed(rates)), tick)
    span = (int(ticks[-1]) - first) * tick + last
    if header.container == "avi" and len(ticks) >= header.num_frames:  # empty chunks may show the last one for longer
        span = max(span, header.duration_seconds - first * tick)
    # Headers of variable-rate files are often wrong; those of constant rate say 30000/1001, which rounded ticks do not.
    seconds = float(span)
    fps = next((rate for rate in rates if abs(len(ticks) / float(rate) - seconds) <= 0.5 / float(rate)), None)
    if fps is None:
        fps = len(ticks) / span
    elif abs(len(ticks) / float(fps) - seconds) <= 2 * _SLACK_TICKS * float(tick):  # the last one's end is rounded too
        seconds = float(len(ticks) / fps)
    pts_seconds = (ticks - first).astype(np.float64) * float(tick)
    # What a decoder holds back is not late: a player of AVI shows chunk k at tick k.
    begin = first if is_display and header.container != "avi" else stamps.first_dts
    return PictureTimes(pts_seconds, fps, seconds, begin)


def _counted_rate(num_frames: int, stamps: Stamps, header: Header) -> tuple[Fraction, str]:
    """Return a rate and the reason for it: the header's if the usual step or the duration agrees with it, or neither is
    known; else that of the usual step, or of the duration; 0 if nothing tells it."""
    steps = [_usual_step(given) * header.seconds_per_tick for given in (stamps.pts, stamps.dts)]
    witnesses = [(1 / step, "as most of its pictures follow each other") for step in steps if step]
    # A duration that FFmpeg makes of the first and the last times says nothing where recordings are joined.
    is_witness = header.container not in (*_WITH_COUNT_FOR_DURATION, *(_WITHOUT_DURATION if witnesses else ()))
    if header.duration_seconds > 0 and is_witness:
        words = f"to fill the {float(header.duration_seconds):.6g} s that its header says"
        witnesses.append((num_frames / header.duration_seconds, words))
    for rate in _header_rates(header):
        if not witnesses or any(_are_near(rate, witness) for witness, _ in witnesses):
            return rate, "as its header says"
    return witnesses[0] if witnesses else (Fraction(0), "")


def _usual_step(given: _Ticks) -> Fraction:
    """Ticks from a picture to the next, as a mean without holes and steps back; 0 if that cannot be told."""
    steps = np.diff(given[given != NO_TIME])
    steps = steps[steps > 0]
    if len(steps) < 2:
        return Fraction(0)
    steps = steps[steps <= _MAX_STEPS * _middle(steps)]
    return Fraction(int(steps.sum()), len(steps))


def _header_rates(header: Header) -> list[Fraction]:
    """Return the header's rates, the likelier first. The guess is a standard rate where there is one near, but the
    least common multiple of the steps where they vary."""
    return [rate for rate in dict.fromkeys((header.guessed_fps, header.average_fps)) if rate]


def _are_near(one: float | Fraction, other: float | Fraction) -> bool:
    return one < other * _AGREEMENT and other < one * _AGREEMENT


def _steps(pts_seconds: NDArray[np.float64], tick_seconds: float) -> tuple[int, int]:
    """The shortest and the longest step from a picture to the next, in ticks; (0, 0) if there are too few."""
    if len(pts_seconds) < 3 or not tick_seconds:
        return 0, 0
    steps = np.rint(np.diff(pts_seconds) / tick_seconds)
    return int(steps.min()), int(steps.max())


def is_constant_rate(pts_seconds: NDArray[np.float64], tick_seconds: float) -> bool:
    """True if the steps from picture to picture are equal, but for rounding to ticks."""
    shortest, longest = _steps(pts_seconds, tick_seconds)
    return longest - shortest <= (shortest >= _MIN_ROUNDED_STEP)


def shown_from(pts_seconds: NDArray[np.float64], tick_seconds: float) -> NDArray[np.float64]:
    """Return the time that each picture is taken as shown from, ``[N]`` like ``pts_seconds``: a little before its time,
    by no more than rounding to ticks may have moved it, nor a third of the gap before it.

    So 1/30 s, asked for as 0.033333, finds a picture that Matroska stores at 0.033 or at 0.034.
    """
    shortest, longest = _steps(pts_seconds, tick_seconds)
    is_rounded = shortest < longest and is_constant_rate(pts_seconds, tick_seconds)
    slack = _SLACK_TICKS * (tick_seconds if is_rounded else min(tick_seconds, _MAX_PLAIN_TICK_SECONDS))
    return pts_seconds - np.minimum(max(slack, _MIN_SLACK_SECONDS), np.diff(pts_seconds, prepend=-np.inf) / 3)
