"""The labelling page as a web application: which address answers with what.

    /                      the page; its styles, scripts and icon beside it
    /events                news as server-sent events: what is saved, what is learned, which videos have changed
    /folder.json           the labels, and all videos with how much of each is labelled
    /videos/N.json         one video: facts, stretches, drafts
    /videos/N/times        the time of each of its pictures, float64, little-endian
    /videos/N/scores       probabilities of the labels at each grid frame, uint8 (255 is 1)
    /videos/N/file         the file, for the browser's own player
    /pictures/N/F.jpg      picture F of video N
    /changes, /undo, /redo POST: a change, which names the versions that it saw; 409 with what is there if it is late
    /learn, /next          POST: learn from what is labelled; the stretch whose label would help most

``serving.site`` says what keeps other sites out. A POST carries JSON, of ``MAX_BODY_BYTES`` at most.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pipeline.errors import UserError
from pipeline.labelling.assistant import Assistant
from pipeline.labelling.numbered import NoSuchVideoError, NumberedVideos
from pipeline.labelling.store import LabelStore
from pipeline.labelling.stretches import (
    BACKGROUND,
    UNLABELLED,
    ConflictError,
    Edit,
    Stretch,
    span_from_json,
    span_to_json,
)
from pipeline.labelling.survey import Survey
from pipeline.serving import site
from pipeline.serving.site import NO_STORE, Site, event

MAX_BODY_BYTES = 262_144
_PRIVATE = {"Cache-Control": "private, max-age=600"}
_Endpoint = Callable[[Request], Awaitable[Response]]


class LabelSite(Site):
    """The application over a folder.

    Args:
        store: the labels.
        videos: by number.
        survey: their lengths.
        assistant: drafts, and what to label next.
        own_names, allowed_hosts: as ``Site`` takes them.
    """

    def __init__(
        self,
        store: LabelStore,
        videos: NumberedVideos,
        survey: Survey,
        assistant: Assistant,
        own_names: Sequence[str] | None,
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        self._store, self._videos, self._survey, self._assistant = store, videos, survey, assistant
        super().__init__(Path(__file__).parent / "page", own_names, allowed_hosts)

    def routes(self) -> list[Route]:
        """Return the routes beside the page itself."""
        return [
            Route("/folder.json", self._answer(self._folder)),
            Route("/videos/{video}.json", self._answer(self._video)),
            Route("/videos/{video}/times", self._answer(self._times)),
            Route("/videos/{video}/scores", self._answer(self._scores)),
            Route("/videos/{video}/file", self._answer(self._file)),
            Route("/pictures/{video}/{picture}.jpg", self._answer(self._picture)),
            Route("/changes", self._taking(self._change), methods=["POST"]),
            Route("/undo", self._taking(self._undo), methods=["POST"]),
            Route("/redo", self._taking(self._redo), methods=["POST"]),
            Route("/learn", self._taking(self._learn), methods=["POST"]),
            Route("/next", self._taking(self._next), methods=["POST"]),
        ]

    def _answer(self, look: Callable[[Mapping[str, str]], Response]) -> _Endpoint:
        """An endpoint that may read files, so in a thread; a fault of a video is told with 422."""

        async def answer(request: Request) -> Response:
            try:
                return await asyncio.to_thread(look, request.path_params)
            except NoSuchVideoError as error:
                return PlainTextResponse(str(error), status_code=404)
            except UserError as error:
                return PlainTextResponse(str(error), status_code=422)

        return answer

    def _taking(self, take: Callable[[dict[str, Any]], Response]) -> _Endpoint:
        async def answer(request: Request) -> Response:
            if refusal := self.refusal(request):
                return refusal
            body = b""
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    return PlainTextResponse(f"more than {MAX_BODY_BYTES} bytes", status_code=413)
            try:
                values = json.loads(body or b"{}")
            except (ValueError, RecursionError):
                return PlainTextResponse("the body is not JSON", status_code=400)
            if not isinstance(values, dict):
                return PlainTextResponse("the body is not an object", status_code=400)
            return await asyncio.to_thread(self._taken, take, values)

        return answer

    def _taken(self, take: Callable[[dict[str, Any]], Response], values: dict[str, Any]) -> Response:
        try:
            return take(values)
        except ConflictError as error:
            now = [_describe_stretch(stretch) for stretch in error.stretches]
            return JSONResponse({"message": str(error), "stretches": now}, status_code=409, headers=NO_STORE)
        except NoSuchVideoError as error:
            return PlainTextResponse(str(error), status_code=404)
        except UserError as error:
            return PlainTextResponse(str(error), status_code=400)

    # News

    async def tell(self) -> AsyncIterator[str]:
        """Yield the state when it changes, and the lines of the videos that have."""
        seen: tuple[Any, ...] = ()
        known: dict[int, dict[str, Any]] = {}
        told_at = time.monotonic()
        while not self.is_closing:
            now = self._store.revision, self._store.problem, self._survey.revision, self._assistant.revision
            if now != seen:
                seen, told_at = now, time.monotonic()
                lines = await asyncio.to_thread(self._lines)
                news = [line for line in lines if known.get(line["number"]) != line]
                known |= {line["number"]: line for line in news}
                yield event("state", self._state() | {"videos": news if len(news) < len(lines) else None})
            elif time.monotonic() - told_at > site.BEAT_SECONDS:
                yield event("beat", None)
                told_at = time.monotonic()
            await asyncio.sleep(site.UPDATE_SECONDS)

    def _state(self) -> dict[str, Any]:
        return {
            "problem": self._store.problem,
            "labels": self._store.labels,
            "may_overlap": self._store.may_overlap,
            "learning": self._assistant.status(),
        }

    def _folder(self, _: Mapping[str, str]) -> Response:
        if self._store.look_for_videos() or self._survey.faults:
            self._survey.look_again()
        answer = {"folder": self._store.folder.resolve().name, "videos": self._lines()} | self._state()
        return JSONResponse(answer, headers=NO_STORE)

    def _lines(self) -> list[dict[str, Any]]:
        return [self._line(number, name) for number, name in enumerate(self._videos.names())]

    def _line(self, number: int, name: str) -> dict[str, Any]:
        video, duration = self._store.videos[name], self._survey.durations_seconds.get(name)
        labelled = None if duration is None else round(video.labelled_seconds(duration), 3)
        return {
            "number": number,
            "name": name,
            "revision": video.revision,
            "seconds": duration,
            "labelled_seconds": labelled,
            "num_stretches": len(video.stretches),
            "rest": video.rest,
            "drafts_revision": self._assistant.revision_of(name),
            "fault": self._survey.faults.get(name, ""),
        }

    # One video

    def _video(self, wanted: Mapping[str, str]) -> Response:
        name = self._videos.name(wanted["video"])
        answer = self._labels_of(name) | {"name": name, "fault": ""}
        try:
            info, _ = self._videos.open(name)
        except UserError as error:
            return JSONResponse(answer | {"fault": str(error), "facts": None}, headers=NO_STORE)
        facts = {
            "num_frames": info.num_frames,
            "seconds": info.duration_seconds,
            "fps": float(info.average_fps),
            "width": round(info.width * info.sample_aspect_ratio),
            "height": info.height,
            "codec": info.codec,
            "container": info.container,
            "times": info.times,
            "is_turned": bool(info.rotation_degrees or info.is_mirrored),
        }
        return JSONResponse(answer | {"facts": facts}, headers=NO_STORE)

    def _labels_of(self, name: str) -> dict[str, Any]:
        video = self._store.videos[name]
        stretches = sorted(video.stretches.values(), key=lambda stretch: stretch.span.start_seconds)
        return {
            "revision": video.revision,
            "rest": video.rest,
            "stretches": [_describe_stretch(stretch) for stretch in stretches],
            "drafts": self._drafts_of(name),
            "num_rejected": len(video.rejected),
        }

    def _drafts_of(self, name: str) -> list[dict[str, Any]]:
        video = self._store.videos[name]
        return [
            {
                "span": span_to_json(self._videos.snapped(name, draft.span)),
                "score": draft.score,
                "whole": span_to_json(draft.whole),
            }
            for draft in self._assistant.drafts_of(video)
        ]

    def _times(self, wanted: Mapping[str, str]) -> Response:
        _, times = self._videos.open(self._videos.name(wanted["video"]))
        return Response(times.astype("<f8").tobytes(), media_type="application/octet-stream", headers=NO_STORE)

    def _scores(self, wanted: Mapping[str, str]) -> Response:
        found = self._assistant.scores_of(self._videos.name(wanted["video"]))
        if found is None:
            return Response(status_code=204, headers=NO_STORE)
        labels, sample_fps, scores = found
        headers = {**NO_STORE, "X-Labels": json.dumps(labels), "X-Sample-Fps": repr(sample_fps)}
        return Response(scores.tobytes(), media_type="application/octet-stream", headers=headers)

    def _file(self, wanted: Mapping[str, str]) -> Response:
        name = self._videos.name(wanted["video"])
        return FileResponse(self._videos.path(name), headers=NO_STORE)

    def _picture(self, wanted: Mapping[str, str]) -> Response:
        name = self._videos.name(wanted["video"])
        return Response(self._videos.jpeg(name, wanted["picture"]), media_type="image/jpeg", headers=_PRIVATE)

    # Changes

    def _change(self, values: dict[str, Any]) -> Response:
        name = self._videos.name(values.get("video"))
        edits = [self._edit(name, value) for value in _list_of(values, "edits")]
        rest = values.get("rest")
        if rest not in (None, BACKGROUND, UNLABELLED):
            raise UserError(f"rest must be {BACKGROUND} or {UNLABELLED}")
        reject = [span_from_json(value) for value in _list_of(values, "reject")]
        self._store.change(name, _who(values), edits, rest=rest, reject=reject)
        return self._changed(name)

    def _edit(self, name: str, value: Any) -> Edit:
        keys = ("id", "version")
        if not isinstance(value, dict) or not all(isinstance(value.get(key), int | None) for key in keys):
            raise UserError("an edit must be an object with id, version and to")
        id, version, to = value.get("id"), value.get("version"), value.get("to")
        if to is None:
            return Edit(id, version, None)
        span, before = span_from_json(to), self._store.videos[name].stretches
        kept = [time for s in before.values() for time in (s.span.start_seconds, s.span.end_seconds)]
        snapped = self._videos.snapped(name, span, kept)
        if snapped.end_seconds <= snapped.start_seconds:
            raise UserError("the stretch holds no picture: set its end later than its start")
        return Edit(id, version, snapped)

    def _undo(self, values: dict[str, Any], *, redo: bool = False) -> Response:
        change = self._store.undo(_who(values), redo=redo)
        if change is None:
            return JSONResponse({"video": None}, headers=NO_STORE)
        return self._changed(change.video)

    def _redo(self, values: dict[str, Any]) -> Response:
        return self._undo(values, redo=True)

    def _changed(self, name: str) -> Response:
        answer = self._labels_of(name) | {"video": self._videos.number(name), "problem": self._store.problem}
        return JSONResponse(answer, headers=NO_STORE)

    # Learning

    def _learn(self, values: dict[str, Any]) -> Response:
        first = values.get("video")
        self._assistant.learn(None if first is None else self._videos.name(first))
        return JSONResponse(self._assistant.status(), status_code=202, headers=NO_STORE)

    def _next(self, values: dict[str, Any]) -> Response:
        offer = self._assistant.next_offer()
        if offer is None:
            return JSONResponse({"video": None}, headers=NO_STORE)
        answer = {"video": self._videos.number(offer.video), "start": offer.start_seconds, "end": offer.end_seconds}
        return JSONResponse(answer | {"why": offer.why}, headers=NO_STORE)


def _describe_stretch(stretch: Stretch) -> dict[str, Any]:
    return {"id": stretch.id, "version": stretch.version, "span": span_to_json(stretch.span)}


def _list_of(values: dict[str, Any], name: str) -> list[Any]:
    found = values.get(name, [])
    if not isinstance(found, list):
        raise UserError(f"{name} must be a list")
    return found


def _who(values: dict[str, Any]) -> str:
    who = values.get("who")
    if not isinstance(who, str) or not re.fullmatch(r"[\w-]{1,64}", who, re.ASCII):
        raise UserError("who must be up to 64 letters and digits")
    return who
