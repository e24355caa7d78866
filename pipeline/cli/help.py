"""The pages of ``--help``: options in groups by purpose, first the ten at most that people use first."""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Iterable
from typing import Any

import jsonargparse

from pipeline.config.text import shown

# Command -> title of a group -> its options. Others stay in the group of their settings, or among the general options.
_FIRST = "Used first"
_PURPOSES: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        _FIRST: (
            "config", "name", "data.root", "data.format", "data.batch_size", "training.epochs",
            "training.learning_rate", "model.backbone", "model.heads", "resume",
        )
    },
    "learn": {_FIRST: ("output", "num_folds", "num_seeds", "seed")},
    "label": {
        _FIRST: ("model", "order", "labels", "output", "seed"),
        "The page in a browser": ("serve", "allow_network", "allowed_hosts"),
    },
    "evaluate": {
        _FIRST: ("config", "data.root", "split", "output", "device", "clips", "mirror"),
        "A protocol of folds": ("protocol", "seeds", "no_baseline"),
    },
    "tune-timeline": {_FIRST: ("data.root", "data.annotations", "output", "device")},
    "score": {
        _FIRST: ("json", "split", "sample_fps", "background", "format", "truth_format"),
        "Thresholds and intervals": ("tolerance_seconds", "late_seconds", "resamples", "seed"),
    },
    "convert": {_FIRST: ("to", "format", "videos", "fps", "split")},
    "diagnose": {_FIRST: ("data.root", "split", "output", "device")},
    "predict": {
        _FIRST: (
            "json", "csv", "srt", "html", "video", "inference.mode", "timeline.enter_threshold", "timeline.min_seconds",
            "top_k", "device",
        ),
        "More files for the answers": (
            "jsonl", "parquet", "vtt", "stretches", "format", "html_embed_mb", "stats", "name",
            "no_clobber",
        ),
        "Many videos": ("engine", "workers", "shard", "retry"),
    },
    "webcam": {
        _FIRST: (
            "serve", "headless", "record", "replay", "fast", "inference.mode", "timeline.enter_threshold", "seconds",
            "top_k", "device",
        ),
        "The page in a browser": ("allow_network", "allowed_hosts"),
        "Events to other programs": (
            "webhook", "mqtt", "delivery.labels", "delivery.begin", "delivery.spool",
        ),
        "More outputs": ("stats", "name", "no_clobber"),
    },
    "export": {
        _FIRST: ("format", "output"),
        "Files in 8 bits": ("int8", "calibration_clips", "split", "data.root"),
    },
    "push": {_FIRST: ("private", "revision", "licence", "card_only")},
    "report": {_FIRST: ("output", "clips")},
    "explain": {_FIRST: ("output", "top", "device")},
    "explain-sampling": {_FIRST: ("output", "seed")},
    "check": {_FIRST: ("json", "csv", "all", "workers")},
    "doctor": {_FIRST: ("json", "num_files", "rounds")},
    "shard": {_FIRST: ("output", "shard_mb")},
}  # fmt: skip


def group_by_purpose(parser: ArgumentParser) -> None:
    """Move the options of a command into groups by purpose, which come before all others."""
    for place, (title, names) in enumerate(_PURPOSES.get(parser.prog.split()[-1], {}).items(), start=1):
        group = parser.add_argument_group(title)
        for name in names:
            _move(parser, parser._option_string_actions[f"--{name}"], group)
        parser._action_groups.insert(place, parser._action_groups.pop())
    general = next(group for group in parser._action_groups if group.title == "options")
    parser._action_groups.remove(general)
    parser._action_groups.append(general)


def _move(parser: ArgumentParser, action: Action, group: Any) -> None:
    for other in parser._action_groups:
        if action in other._group_actions:
            other._group_actions.remove(action)
    group._group_actions.append(action)


class HelpFormatter(jsonargparse.DefaultHelpFormatter):
    """Help of one option: its text, and its default where there is one."""

    def add_usage(self, usage: str | None, actions: Iterable[Action], *args: Any, **settings: Any) -> None:
        """Write the command and its positional arguments; the options follow in groups."""
        names = [self._format_args(action, action.dest) for action in actions if not action.option_strings]
        super().add_usage(" ".join(["%(prog)s [OPTIONS]", *names]), (), *args, **settings)

    def add_argument(self, action: Action) -> None:
        """Write an option, unless it only names a group of them, which the command line does not take."""
        if action.help != "Path to a configuration file.":
            super().add_argument(action)

    def _get_help_string(self, action: Action) -> str:
        is_bare = action.nargs == 0 or action.default in (None, SUPPRESS, [])
        return (action.help or "") + ("" if is_bare else f" (default: {shown(action.default)})")
