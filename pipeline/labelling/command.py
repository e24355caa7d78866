"""``clipgru label``: the page over a folder, until a signal; and ``clipgru learn`` on a folder that was labelled so."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.decode import VideoOpener
from pipeline.errors import DecodeError, UserError
from pipeline.files.stopping import StopRequest
from pipeline.labelling.assistant import Assistant
from pipeline.labelling.messages import LearnJob, News
from pipeline.labelling.pictures import PictureServer
from pipeline.labelling.store import LabelStore
from pipeline.labelling.survey import Survey
from pipeline.options import LabelOptions, LearnOptions
from pipeline.serving.server import PageServer, parse_address
from pipeline.terminal import PlainConsole

_TICK_SECONDS = 0.2


def run_label(folder: Path, options: LabelOptions, console: PlainConsole) -> int:
    """Serve the page until a signal comes.

    Returns:
        0, or 128 + the signal if something could not be saved.

    Raises:
        UserError: no folder or video, another program labels there, or the page cannot be served.
    """
    host, port = parse_address(options.serve)
    with StopRequest().listening() as stop, ExitStack() as stack:
        page = open_page(folder, options, stack, host, port)
        if not options.quiet:
            console.print(f"label at {page.url} (ctrl-c ends; everything is saved as you go)")
        while not stop:
            time.sleep(_TICK_SECONDS)
    return 0


def open_page(folder: Path, options: LabelOptions, stack: ExitStack, host: str, port: int) -> PageServer[Any]:
    """Start all that the page needs; what ``stack`` closes is closed in reverse order.

    Raises:
        UserError: as ``run_label``.
    """
    may_overlap = None if options.labels is None else options.labels == "several"
    store = LabelStore(folder, may_overlap=may_overlap)
    stack.callback(store.close)
    if not store.videos:
        raise UserError(f"{folder} holds no video; put some there (mp4, avi, mkv, webm, mov, ts, ...)")
    opener = stack.enter_context(VideoOpener(replace(options.decode, index_cache=True)))
    pictures = PictureServer(opener)
    stack.callback(pictures.close)
    output = Path(options.output) if options.output else folder / "model.safetensors"
    assistant = Assistant(
        store, options.decode, model=options.model, order=options.order, output=output, seed=options.seed
    )
    stack.callback(assistant.close)
    survey = Survey(store, opener)
    stack.callback(survey.close)

    def make_site(own_names: Any, allowed_hosts: Any) -> Any:
        from pipeline.labelling.numbered import NumberedVideos
        from pipeline.labelling.site import LabelSite

        return LabelSite(store, NumberedVideos(store, pictures, survey), survey, assistant, own_names, allowed_hosts)

    page = PageServer(make_site, host, port, options.allow_network, options.allowed_hosts)
    stack.callback(page.close)
    return page


def learn_folder(folder: Path, options: LearnOptions, console: PlainConsole) -> dict[str, Any]:
    """Learn a model of timelines from a folder that was labelled, as the page's button does, and write it.

    Returns:
        What is printed.

    Raises:
        UserError: nothing is labelled, or no labelled video can be read.
    """
    from pipeline.labelling.features import FeatureMaker
    from pipeline.labelling.teaching import Teacher

    store = LabelStore(folder)
    try:
        rows, rejected = store.rows(), {name: video.rejected for name, video in store.videos.items()}
        paths, may_overlap = {row.name: row.path for row in rows}, store.may_overlap
    finally:
        store.close()
    maker = FeatureMaker(options.decode)
    left_out = [name for name, path in paths.items() if not _has_features(maker, name, path, options, console)]
    news: list[News] = []
    job = LearnJob(
        tuple(row for row in rows if row.name not in left_out),
        {name: [(s.start_seconds, s.end_seconds) for s in spans] for name, spans in rejected.items()},
        {name: path for name, path in paths.items() if name not in left_out},
        output=Path(options.output),
        seed=options.seed,
        may_overlap=may_overlap,
    )
    Teacher(maker, news.append).learn(job)
    figures = {f"held_out_{name.replace(' ', '_')}": round(value, 4) for name, value in news[-1].figures.items()}
    return {"model": options.output, **figures, "seconds": dict(news[-1].seconds), "left_out": left_out}


def _has_features(maker: Any, name: str, path: Path, options: LearnOptions, console: PlainConsole) -> bool:
    """Make the features of a video that are not there; false, and said, if it cannot be read."""
    try:
        if maker.find(path) is None:
            if not options.quiet:
                console.print(f"looking at {name}")
            maker.make(path)
    except DecodeError as error:
        console.print(f"left out: {error}", style="red")
        return False
    return True
