"""Agreement of predicted timelines with true ones, as the field's published tools measure it. Pure numpy.

pairs              truth and predictions of a video side by side, in seconds, on one grid
frames             accuracy; average precision of each label against the rest
segments           F1 at temporal overlap, edit score
detection          which predictions are right: at a temporal IoU, or near a true start
average_precision  of what is ranked, over videos that count once, several times or not at all
confusion          labels taken for one another; F1 over the overlap
onsets             delay, share found, false alarms an hour
figures            all of them, each with the interval of a bootstrap over videos
"""

from __future__ import annotations

from pipeline.timeline.metrics.figures import Figure, TimelineFigures, TimelineSettings, judge_timelines
from pipeline.timeline.metrics.frames import frame_average_precision
from pipeline.timeline.metrics.pairs import VideoPair, pair_videos

__all__ = [
    "Figure",
    "TimelineFigures",
    "TimelineSettings",
    "VideoPair",
    "frame_average_precision",
    "judge_timelines",
    "pair_videos",
]
