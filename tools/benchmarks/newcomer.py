"""The record of a newcomer's way through the tutorial: its steps, in seconds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_PROMISED_SECONDS = 1200
_WORDS_A_MINUTE = 238
"""In which English that is no fiction is read (Brysbaert, 2019)."""


@dataclass(frozen=True)
class Step:
    """One step of the way, how long it took, what the shell said of it, and what came of it."""

    what: str
    seconds: float
    exit_code: int = 0
    found: dict[str, Any] = field(default_factory=dict)


def reading_seconds(page: str) -> float:
    """How long somebody reads a page."""
    return 60 * len(page.split()) / _WORDS_A_MINUTE


def table(steps: list[Step]) -> str:
    """Of the steps and all of them together, in Markdown."""
    lines = [f"| {_shown(step)} | {step.seconds:.1f} | {_words(step.found)} |" for step in steps]
    total = f"| **all** | **{total_seconds(steps):.1f}** | |"
    return "\n".join(["| step | seconds | what came of it |", "|---|---|---|", *lines, total])


def _shown(step: Step) -> str:
    name = f"`{step.what}`" if " " in step.what and not step.what.startswith(("label:", "reading")) else step.what
    return f"{name} (exit code {step.exit_code})" if step.exit_code else name


def _words(found: dict[str, Any]) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {_text(value)}" for name, value in found.items())


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def total_seconds(steps: list[Step]) -> float:
    return sum(step.seconds for step in steps)


def is_late(steps: list[Step]) -> bool:
    """True if all took longer than the page promises."""
    return total_seconds(steps) > _PROMISED_SECONDS


def verdict(steps: list[Step]) -> str:
    """In a sentence."""
    failed = [step.what for step in steps if step.exit_code]
    if failed:
        return f"Failed at `{failed[0]}`."
    return f"{total_seconds(steps) / 60:.1f} minutes, {'MORE' if is_late(steps) else 'less'} than twenty."


def write(
    steps: list[Step], videos: dict[str, Any], scores: list[dict[str, float]], on: dict[str, Any], folder: Path
) -> None:
    """``newcomer.md`` and ``newcomer.json``."""
    parts = [
        "# A newcomer's way through the tutorial",
        f"    python tools/check_tutorial.py {videos['folder']} --output benchmarks",
        "docs/tutorial.md word by word, from a fresh clone and empty caches: three long videos that nobody has "
        f"labelled, the labelling page, a live answer. **{verdict(steps)}** The reading of the page is among the "
        f"steps, at {_WORDS_A_MINUTE} words a minute.",
        f"{videos['minutes_to_label']:.1f} minutes of {videos['folder']}, in {len(videos['labelled'])} videos of as "
        f"many days, and {videos['last_minutes']:.1f} minutes of another day that nobody labels. On the labelling page "
        "a script presses the keys that the tutorial tells of, in a Chromium, and answers from a table of true times. "
        "It takes the time of a person: 0.28 s for a key and 1.35 s for a decision (the keystroke-level model of Card, "
        "Moran and Newell), and it watches each stretch once, as fast as it was filmed. Counts under *label* go on "
        "from one round to the next.",
        table(steps),
        "The model after each Learn, on the video that was not labelled (not a part of the way):",
        score_table(scores),
        f"{on['cores']} cores ({on['cpu']}), commit {on['commit']}. Load average {on['load_before']} before the start, "
        f"{on['load_average']} in the end: what is above 0 before the start are other programs, which had their share "
        "of the cores. Python's packages came from an index near by; a slow line adds what some gigabytes take on it.",
    ]
    (folder / "newcomer.md").write_text("\n\n".join(parts) + "\n")
    found = {"machine": on, "videos": videos, "steps": [asdict(step) for step in steps], "scores": scores}
    (folder / "newcomer.json").write_text(json.dumps(found, indent=1) + "\n")


def score_table(scores: list[dict[str, float]]) -> str:
    """A row for each Learn."""
    lines = ["| Learn | frame accuracy | F1@10 | F1@25 | F1@50 |", "|---|---|---|---|---|"]
    for number, found in enumerate(scores, start=1):
        lines.append(f"| {number} | " + " | ".join(f"{100 * value:.1f} %" for value in found.values()) + " |")
    return "\n".join(lines)
