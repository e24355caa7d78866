"""The live view in a window of OpenCV: for each source the picture, the best labels, what was recognised, figures."""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.clip import Image
from pipeline.errors import UserError
from pipeline.report.drawing import FONT, GREY, WHITE, in_font
from pipeline.streaming.board import HISTORY_SECONDS, Board, Card, LabelStretch
from pipeline.streaming.status import Command, SourceStatus

Colour = tuple[int, int, int]

KEYS: dict[int, Command] = {ord("q"): "quit", 27: "quit", ord("p"): "pause", ord("r"): "reset"}

_TITLE = "clipgru    q quit   p pause   r reset"
_PICTURE_WIDTH, _PANEL_WIDTH, _HEIGHT, _STRIP_HEIGHT = 480, 320, 360, 40
_NUM_LABELS = 5
_SHOWS_A_SECOND = 30
_DARK, _BAR = (30, 30, 30), (16, 128, 98)
# Of Okabe and Ito, "Color Universal Design", 2008: told apart by colour-blind people too.
_COLOURS = ("e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7")


def colour_of(label: str | None) -> Colour:
    """Colour of a label, the same in every run; grey for none. RGB."""
    code = "464646" if label is None else _COLOURS[zlib.crc32(label.encode()) % len(_COLOURS)]
    red, green, blue = bytes.fromhex(code)
    return red, green, blue


class WindowView:
    """Shows the sources one under the other; reads the keys q, p and r.

    Raises:
        UserError: OpenCV cannot open a window here.
    """

    def __init__(self) -> None:
        self._board = Board()
        self._next_show = 0.0
        _check_display()
        try:
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error as error:
            raise _no_window("this build of OpenCV has no windows") from error

    def show(self, statuses: Sequence[SourceStatus]) -> Sequence[Command]:
        """Draws at most 30 times a second, and looks at the keys. A window that is closed means quit."""
        self._board.publish(statuses)
        if time.monotonic() < self._next_show or not statuses:
            return []
        self._next_show = time.monotonic() + 1 / _SHOWS_A_SECOND
        rows = np.concatenate([draw_source(card) for card in self._board.cards])
        cv2.imshow(_TITLE, cv2.cvtColor(rows, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1) & 0xFF
        if cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1:
            return ["quit"]
        return [KEYS[key]] if key in KEYS else []

    def close(self) -> None:
        """Takes the window away."""
        cv2.destroyAllWindows()


def _check_display() -> None:
    """Qt, which OpenCV's windows use on Linux, ends the process if there is no display."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise _no_window("there is no display (neither DISPLAY nor WAYLAND_DISPLAY is set)")


def _no_window(reason: str) -> UserError:
    return UserError(
        f"no window can be opened: {reason}. Use --headless to print events, or --serve to watch in a browser"
    )


def draw_source(card: Card) -> Image:
    """RGB: the picture at the left, labels and figures at the right, the strip of the last minute below."""
    status = card.status
    image = np.full((_HEIGHT + _STRIP_HEIGHT, _PICTURE_WIDTH + _PANEL_WIDTH, 3), _DARK, np.uint8)
    if status.picture is not None:
        _paste(image[:_HEIGHT, :_PICTURE_WIDTH], status.picture)
    panel = image[:_HEIGHT, _PICTURE_WIDTH:]
    _write(panel, f"{status.name}", 24, WHITE, 0.5)
    _write(panel, f"{status.state}   {status.time_seconds:.1f} s", 46, GREY, 0.45)
    on_now = ", ".join(status.labels)
    _write(panel, on_now or "-", 84, colour_of(status.label) if on_now else GREY, 0.9)
    for place, (label, score) in enumerate(status.top[:_NUM_LABELS]):
        _draw_score(panel, label, score, 104 + 28 * place)
    for place, line in enumerate(_figures(status)):
        _write(panel, line, 268 + 20 * place, GREY, 0.42)
    _draw_strip(image[_HEIGHT + 8 : -8], card.runs, status.time_seconds)
    return image


def _draw_strip(image: Image, runs: Sequence[LabelStretch], end_seconds: float) -> None:
    """Fills RGB ``[h, w, 3]`` with the last minute, oldest at the left; labels of one moment share its height."""
    width, image[:] = image.shape[1], colour_of(None)
    for run in runs:
        ages = (end_seconds - run.start_seconds, end_seconds - run.end_seconds)
        left, right = (round(width * (1 - min(age / HISTORY_SECONDS, 1.0))) for age in ages)
        for rows, label in zip(np.array_split(image[:, left:right], max(len(run.labels), 1)), run.labels, strict=False):
            rows[:] = colour_of(label)


def _draw_score(panel: Image, label: str, score: float, top: int) -> None:
    right = 12 + round((_PANEL_WIDTH - 24) * min(max(score, 0.0), 1.0))
    cv2.rectangle(panel, (12, top), (_PANEL_WIDTH - 12, top + 22), (60, 60, 60), cv2.FILLED)
    cv2.rectangle(panel, (12, top), (right, top + 22), _BAR, cv2.FILLED)
    _write(panel, f"{score:4.0%}  {label}", top + 16, WHITE, 0.45, left=18)


def _figures(status: SourceStatus) -> list[str]:
    latency = "  ".join(f"{name} {value:.0f}" for name, value in status.latency_ms.items()) or "-"
    stages = "  ".join(f"{name} {value:.1f}" for name, value in status.stage_ms.items())
    return [
        f"in {status.frames_in}  used {status.frames_used}  dropped {status.frames_dropped}",
        f"latency ms  {latency}",
        f"ms a step  {stages}",
        status.message,
    ]


def _write(image: Image, text: str, baseline: int, colour: Colour, scale: float, left: int = 12) -> None:
    cv2.putText(image, in_font(text)[:48], (left, baseline), FONT, scale, colour, 1, cv2.LINE_AA)


def _paste(place: Image, picture: Image) -> None:
    """The whole picture as large as it fits, in the middle."""
    ratio = min(place.shape[0] / picture.shape[0], place.shape[1] / picture.shape[1])
    height, width = (max(1, int(side * ratio)) for side in picture.shape[:2])
    top, left = (place.shape[0] - height) // 2, (place.shape[1] - width) // 2
    place[top : top + height, left : left + width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
