"""Options of the commands that work on videos."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.config import DecodeConfig, DeliveryConfig, InferenceConfig, StreamingConfig, TimelineConfig, require
from pipeline.sources import distinct_names

_MAX_NAME_LENGTH = 100


def name_sources(shown: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return a name for each source: what ``--name`` gave, or else what may be seen of it; no two the same.

    Raises:
        UserError: there are not as many names as sources.
    """
    require(
        len(given) in (0, len(shown)),
        f"--name is given {len(given)} times for {len(shown)} sources; name each, in order",
    )
    return distinct_names(given or shown)


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        is_name = name.strip() and len(name) <= _MAX_NAME_LENGTH and name.isprintable()
        require(bool(is_name), f"--name {name!r}: a name has 1 to {_MAX_NAME_LENGTH} printable characters")
    require(len(set(names)) == len(names), f"--name {', '.join(names)}: each source needs a name of its own")


@dataclass(frozen=True)
class PredictOptions:
    """Reading of the videos, and the files for the answers."""

    inference: InferenceConfig = field(default_factory=InferenceConfig)
    """Conversion of frames to scores."""
    top_k: int = 5
    """Labels reported for each window."""
    timeline: TimelineConfig = field(default_factory=TimelineConfig)
    """Conversion of scores to segments."""
    json: str | None = None
    """Write windows and segments to this JSON file; here and below - is standard output."""
    csv: str | None = None
    """Write windows and segments to this CSV file."""
    jsonl: str | None = None
    """Write windows and segments as they come, a JSON object a line, to this file."""
    parquet: str | None = None
    """Write windows and segments to this Parquet file; needs pyarrow (pip install pyarrow)."""
    srt: str | None = None
    """Write segments as SubRip subtitles, a file a video, into this folder."""
    vtt: str | None = None
    """Write segments as WebVTT subtitles, a file a video, into this folder."""
    video: str | None = None
    """Write each video with label, score and time drawn in, as MP4, into this folder."""
    html: str | None = None
    """Write a page for each video, with its scores and segments to click on, into this folder."""
    html_embed_mb: float = 3.0
    """html: embed videos of up to this many megabytes in the page; larger ones are linked."""
    stretches: str | None = None
    """Write segments to this file or folder in the format of another tool, which --format names."""
    format: str = "manifest"
    """stretches: any format that clipgru convert writes, such as elan, boris, label_studio, activitynet or manifest."""
    stats: str | None = None
    """Write what was decoded, embedded and reused to this JSON file."""
    no_clobber: bool = False
    """End with an error instead of replacing a file that is there already."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    decode: dict[str, Any] = field(default_factory=dict, metadata={"given_of": DecodeConfig})
    """Decoding settings in place of the model file's."""
    name: tuple[str, ...] = ()
    """A name for a video, in answers, messages and file names; once for each, in order."""
    engine: Literal["local", "pool", "ray"] = "local"
    """local: one video after the other, any output. For many videos, with --parquet alone: pool, processes on this
    machine; ray, on the Ray cluster that the environment's RAY_ADDRESS names, or else a Ray of its own (pip install
    'clipgru[ray]'). These keep a journal of finished videos beside the table. Killed and started again, they go on
    from there; a video that changed is done anew. A video that ends its process is recorded as crashed, and not tried
    again; one whose Ray actor is lost, with its node or for want of memory, is tried three times."""
    workers: int | None = None
    """pool, ray: videos at a time; unset: as many as there are cores, on Ray all but one, which stays free."""
    shard: str | None = None
    """pool, ray: 2/4 is the second of four parts of the videos. Each part makes a table of its own beside --parquet;
    clipgru merge joins them."""
    retry: bool = False
    """pool, ray: try those videos again that could not be read, or crashed, in an earlier run."""
    quiet: bool = False
    """Print nothing but errors."""

    def __post_init__(self) -> None:
        self._check_engine()
        _check_names(self.name)
        require(self.top_k > 0, f"top_k must be at least 1, got {self.top_k}")
        require(
            self.stretches is not None or self.format == "manifest",
            f"--format {self.format} is of --stretches: say where to write them, as --stretches OUT",
        )
        require(self.html_embed_mb >= 0, f"html_embed_mb must not be negative, got {self.html_embed_mb}")
        piped = [f"--{name} -" for name in ("json", "csv", "jsonl", "parquet", "stats") if getattr(self, name) == "-"]
        require(len(piped) < 2, f"{' and '.join(piped)} would both write to standard output")

    def _check_engine(self) -> None:
        many = {"workers": self.workers is not None, "shard": self.shard is not None, "retry": self.retry}
        alone = ("json", "csv", "jsonl", "srt", "vtt", "video", "html", "stretches", "stats", "name")
        if self.engine == "local":
            given = [f"--{name}" for name, is_given in many.items() if is_given]
            require(not given, f"{', '.join(given)} is for many videos: add --engine pool (or ray) --parquet FILE")
            return
        require(self.parquet is not None, f"--engine {self.engine} makes a table: add --parquet FILE")
        given = [f"--{name}" for name in alone if getattr(self, name)]
        require(not given, f"{', '.join(given)} needs --engine local; --engine {self.engine} writes --parquet alone")
        require(self.workers is None or self.workers > 0, f"workers must be at least 1, got {self.workers}")
        if self.shard is not None:
            number, _, count = self.shard.partition("/")
            is_right = number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)
            require(is_right, f"shard must be such as 1/4, 2/4, 3/4 or 4/4, got {self.shard!r}")

    def files(self) -> dict[str, str | None]:
        """Map from option to file, for outputs that are one file for all videos."""
        return {f"--{name}": getattr(self, name) for name in ("json", "csv", "jsonl", "parquet", "stats")}


@dataclass(frozen=True)
class WebcamOptions:
    """Watching of the sources, and the outputs of the answers."""

    name: tuple[str, ...] = ()
    """A name for a source, wherever it is shown; once for each, in order. Unset: a camera's number, a file's path; of
    an address its host, and the last part of its path if that is harmless."""
    replay: bool = False
    """The sources are files, played at their own speed as if they were cameras."""
    fast: bool = False
    """With --replay: as fast as the model goes, and every frame; the same answers as predict."""
    headless: bool = False
    """No window: print events to standard output, a JSON object a line."""
    serve: str | None = field(default=None, metadata={"bare": "127.0.0.1:8000"})
    """Instead of a window, a page at this HOST:PORT for any number of browsers; needs pip install 'clipgru[serve]'."""
    allow_network: bool = False
    """serve: at an address that other machines reach; they watch and press the buttons without a password."""
    allowed_hosts: tuple[str, ...] = ()
    """serve: HOST or HOST:PORT of a proxy's page, as it stands in the browser; several times for several. No other
    foreign name is answered, also with allow_network."""
    record: str | None = None
    """Write each source's annotated video and events into this folder, in files named by when they began."""
    webhook: str | None = None
    """Send each segment as JSON by HTTP POST to this URL, at least once and in order; or to the URL in the first line
    of this file, with the header lines that follow there."""
    mqtt: str | None = None
    """Send each segment as JSON to the topic at mqtt://HOST:PORT/TOPIC (mqtts: with TLS), with QoS 1; or to the address
    in this file. Needs pip install 'clipgru[mqtt]'."""
    seconds: float | None = None
    """Seconds after which to stop; unset: when all sources have ended, or somebody quits."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    """Conversion of frames to scores."""
    timeline: TimelineConfig = field(default_factory=TimelineConfig)
    """Conversion of scores to segments."""
    streaming: StreamingConfig = field(default_factory=StreamingConfig)
    """Handling of sources that stall."""
    delivery: DeliveryConfig = field(default_factory=DeliveryConfig)
    """Delivery of segments to other programs."""
    decode: dict[str, Any] = field(default_factory=dict, metadata={"given_of": DecodeConfig})
    """replay: decoding settings in place of the model file's."""
    top_k: int = 5
    """Labels reported for each window."""
    stats: str | None = None
    """Write frames, latencies and times by stage to this JSON file."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    quiet: bool = False
    """Print nothing but errors and, with --headless, the events."""

    def __post_init__(self) -> None:
        _check_names(self.name)
        require(self.top_k > 0, f"top_k must be at least 1, got {self.top_k}")
        require(self.seconds is None or self.seconds > 0, f"seconds must be positive, got {self.seconds}")
        for host in self.allowed_hosts:
            is_host = re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?", host, re.ASCII)
            require(bool(is_host), f"--allowed_hosts {host!r}: write HOST or HOST:PORT, such as example.org:8443")
        require(not self.allowed_hosts or self.serve is not None, "--allowed_hosts is for the page: add --serve")
        require(self.replay or not self.fast, "--fast says how to replay files: use it together with --replay")
        require(
            not (self.fast and self.record),
            "--record does not go with --fast: clipgru predict --video FOLDER --jsonl FILE writes the same of files",
        )


@dataclass(frozen=True)
class CheckOptions:
    """Contents and files of the report."""

    workers: int | None = None
    """Processes that decode; unset: as many as there are cores, 8 at most."""
    json: str | None = None
    """Write all that was found to this JSON file; - is standard output."""
    csv: str | None = None
    """Write one line a file to this CSV file."""
    all: bool = False
    """List the usable files too."""
    quiet: bool = False
    """Print nothing but errors."""

    def __post_init__(self) -> None:
        require(self.workers is None or self.workers > 0, f"workers must be at least 1, got {self.workers}")


@dataclass(frozen=True)
class DoctorOptions:
    """Extent of the measurement, and the file for its results."""

    num_files: int = 20
    """Number of files to measure on, evenly spread over all."""
    rounds: int = 3
    """Times that each file is read; the median counts."""
    json: str | None = None
    """Write all that was measured to this JSON file."""
    quiet: bool = False
    """Print nothing but the config snippet."""

    def __post_init__(self) -> None:
        require(self.num_files > 0, f"num_files must be at least 1, got {self.num_files}")
        require(self.rounds > 0, f"rounds must be at least 1, got {self.rounds}")


@dataclass(frozen=True)
class ShardOptions:
    """Folder and size of the tar files."""

    output: str = "shards"
    """A new folder for the tar files and their index."""
    shard_mb: int = 500
    """Greatest size of a tar file in megabytes; a larger video has one to itself."""
    quiet: bool = False
    """Print nothing but errors and the summary."""

    def __post_init__(self) -> None:
        require(self.shard_mb > 0, f"shard_mb must be at least 1, got {self.shard_mb}")
