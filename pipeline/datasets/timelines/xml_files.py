"""Labelled stretches in XML: ELAN's annotation documents (.eaf) and CVAT's tags.

Sources: EAF Annotation Format 3.0 (Max Planck Institute for Psycholinguistics); XML annotation format 1.1
(docs.cvat.ai/docs/manual/advanced/xml_format).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote
from xml.etree.ElementTree import Element, SubElement, TreeBuilder, indent, tostring
from xml.parsers.expat import ExpatError, ParserCreate

from pipeline.datasets.delimited import composed
from pipeline.datasets.timelines.frames import ClockOf
from pipeline.datasets.timelines.names import flat_names
from pipeline.datasets.timelines.spans import read_bytes, read_number, read_span
from pipeline.errors import UserError
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo, Span

_MAX_DEPTH = 50
_EAF_SCHEMA = {
    "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "xsi:noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
}
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_DOCUMENT = '<?xml version="1.0" encoding="UTF-8"?>\n'


def _read_xml(path: Path, root: str) -> Element:
    """Return the elements of an XML file from anywhere: it may declare no document type, so that no entity is expanded
    and nothing is fetched.

    Raises:
        UserError: it is too large, not XML, nested too deep, declares a type, or its root is another one.
    """
    builder, parser, depth = TreeBuilder(), ParserCreate(), 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise UserError(f"{path}: nested deeper than {_MAX_DEPTH} elements, which no annotations are")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: object) -> None:
        raise UserError(f"{path}: declares a document type, which is not read: remove its DOCTYPE line")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    parser.buffer_text = True
    try:
        parser.Parse(read_bytes(path), True)
    except ExpatError as error:
        raise UserError(f"{path}: not XML: {error}") from None
    except (ValueError, LookupError) as error:  # from looking for the encoding
        raise UserError(f"{path}: not XML that is read: {error}; save it as UTF-8") from None
    found: Element = builder.close()
    if found.tag != root:
        raise UserError(f"{path}: its root is {found.tag[:80]}, and not {root}")
    return found


def _write_xml(root: Element) -> str:
    indent(root)
    return _DOCUMENT + _NOT_IN_XML.sub("", tostring(root, encoding="unicode")) + "\n"


def read_elan(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read an ELAN document: each aligned annotation is a stretch, its text the label, or the name of its tier where it
    has none. The video is that of the first media descriptor. ``split`` does nothing.

    Raises:
        UserError: not such a file; names the file and the annotation.
    """
    root = _read_xml(path, "ANNOTATION_DOCUMENT")
    header = root.find("HEADER")
    units = "milliseconds" if header is None else header.get("TIME_UNITS", "milliseconds")
    if units != "milliseconds":
        raise UserError(f"{path}: TIME_UNITS {units!r}: only milliseconds are read; save it with ELAN 6")
    media = None if header is None else header.find("MEDIA_DESCRIPTOR")
    origin = 0.0 if media is None else read_number(str(path), "TIME_ORIGIN", media.get("TIME_ORIGIN", "0"))
    slots = {slot.get("TIME_SLOT_ID", ""): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    spans: list[LabelledSpan] = []
    left_out = ["tiers' names"] if len(root.findall("TIER")) > 1 and _names_matter(root) else []
    for tier in root.iter("TIER"):
        for item in tier.iter("ALIGNABLE_ANNOTATION"):
            ends = [slots.get(item.get(f"TIME_SLOT_REF{number}", "")) for number in (1, 2)]
            label = (item.findtext("ANNOTATION_VALUE") or "").strip() or tier.get("TIER_ID", "")
            if None in ends:
                left_out.append("annotations without a time")
                continue
            place = f"{path}: annotation {item.get('ANNOTATION_ID')}"
            start, end = ((read_number(place, "TIME_VALUE", text) + origin) / 1000 for text in ends)
            spans.append(read_span(place, start, end, label))
        left_out += ["annotations of annotations"] if tier.find("ANNOTATION/REF_ANNOTATION") is not None else []
    name = path.stem if media is None else _media_name(media, path.stem)
    return [LabelledVideo(name, tuple(spans), left_out=tuple(dict.fromkeys(left_out)))]


def _names_matter(root: Element) -> bool:
    """True if a tier's name is not what its annotations say."""
    return any(
        (item.findtext("ANNOTATION_VALUE") or "").strip()
        not in ("", tier.get("TIER_ID", "").rpartition(" #")[0], tier.get("TIER_ID"))
        for tier in root.iter("TIER")
        for item in tier.iter("ALIGNABLE_ANNOTATION")
    )


def _media_name(media: Element, default: str) -> str:
    url = media.get("RELATIVE_MEDIA_URL") or media.get("MEDIA_URL") or ""
    return composed(unquote(url.removeprefix("file://")).removeprefix("./")) or default


def write_elan(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write an ELAN document a video: a tier a label, and a further one (``LABEL #2``) where a label overlaps itself,
    because the annotations of a tier may not overlap."""
    return {f"{name}.eaf": _elan(video) for name, video in flat_names(videos).items()}


def _elan(video: LabelledVideo) -> str:
    about = {"AUTHOR": "", "DATE": "1970-01-01T00:00:00+00:00", "FORMAT": "3.0", "VERSION": "3.0"}
    root = Element("ANNOTATION_DOCUMENT", about | _EAF_SCHEMA)
    header = SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=video.name, MIME_TYPE="video/*", RELATIVE_MEDIA_URL=video.name)
    order = SubElement(root, "TIME_ORDER")
    tiers = _tiers(video.spans)
    times = sorted({time for spans in tiers.values() for span in spans for time in _milliseconds(span)})
    slots = {time: f"ts{number}" for number, time in enumerate(times, 1)}
    for time, slot in slots.items():
        SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(time))
    number = 0
    for name, spans in tiers.items():
        tier = SubElement(root, "TIER", LINGUISTIC_TYPE_REF="default-lt", TIER_ID=name)
        for span in spans:
            number += 1
            start, end = _milliseconds(span)
            item = SubElement(
                SubElement(tier, "ANNOTATION"),
                "ALIGNABLE_ANNOTATION",
                ANNOTATION_ID=f"a{number}",
                TIME_SLOT_REF1=slots[start],
                TIME_SLOT_REF2=slots[end],
            )
            SubElement(item, "ANNOTATION_VALUE").text = span.label
    SubElement(
        root, "LINGUISTIC_TYPE", GRAPHIC_REFERENCES="false", LINGUISTIC_TYPE_ID="default-lt", TIME_ALIGNABLE="true"
    )
    return _write_xml(root)


def _milliseconds(span: Span) -> tuple[int, int]:
    return round(1000 * max(0.0, span.start_seconds)), round(1000 * max(0.0, span.end_seconds))


def _tiers(spans: Sequence[Span]) -> dict[str, list[Span]]:
    tiers: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: (span.start_seconds, span.end_seconds)):
        if _milliseconds(span)[0] == _milliseconds(span)[1]:
            continue  # ELAN has none
        number = 1
        while (name := span.label if number == 1 else f"{span.label} #{number}") in tiers:
            if tiers[name][-1].end_seconds <= span.start_seconds:
                break
            number += 1
        tiers.setdefault(name, []).append(span)
    return tiers


def read_cvat(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read CVAT's XML (for images, or for video) of a video task: consecutive frames with a tag are a stretch, and so
    are those in which a track is to be seen. Times are frames of the video. ``split`` does nothing.

    Raises:
        UserError: not such a file.
    """
    root = _read_xml(path, "annotations")
    task = root.find("meta/task")
    first = int(_number(path, task, "start_frame", 0))
    step = int(read_number(str(path), "frame_filter", (root.findtext("meta/task/frame_filter") or "1").split("=")[-1]))
    if step < 1:
        raise UserError(f"{path}: frame_filter is step={step}; CVAT takes every step-th frame, at least every one")
    shown: dict[str, list[int]] = defaultdict(list)
    left_out: list[str] = []
    for image in root.iter("image"):
        frame = int(read_number(str(path), "the id of an image", image.get("id")))
        for tag in image.iter("tag"):
            shown[tag.get("label", "")].append(frame)
            left_out += ["attributes"] if tag.find("attribute") is not None else []
        left_out += ["shapes"] if any(child.tag not in ("tag",) for child in image) else []
    spans = [
        read_span(str(path), start, stop, label) for label, frames in shown.items() for start, stop in _runs(frames)
    ]
    for track in root.iter("track"):
        left_out += ["shapes"]
        spans += [read_span(str(path), start, stop, track.get("label")) for start, stop in _visible(path, track)]
    source = root.findtext("meta/task/source") or root.findtext("meta/source") or path.stem
    in_video = tuple(
        LabelledSpan(first + step * span.start_seconds, first + step * span.end_seconds, span.label)
        for span in sorted(spans, key=lambda span: (span.start_seconds, span.end_seconds, span.label))
    )
    return [LabelledVideo(composed(source), in_video, in_frames=True, left_out=tuple(dict.fromkeys(left_out)))]


def _number(path: Path, element: Element | None, name: str, default: float) -> float:
    text = None if element is None else element.findtext(name)
    return read_number(str(path), name, text) if text else default


def _runs(frames: Sequence[int]) -> Iterator[tuple[int, int]]:
    """``[0, 1, 2, 5]`` -> ``(0, 3), (5, 6)``"""
    begun: int | None = None
    ordered = sorted(set(frames))
    for frame, following in zip(ordered, [*ordered[1:], None], strict=True):
        begun = frame if begun is None else begun
        if following != frame + 1:
            yield begun, frame + 1
            begun = None


def _visible(path: Path, track: Element) -> Iterator[tuple[int, int]]:
    """Frames from each shape that is to be seen to the next one that is outside."""
    begun, last = None, 0
    for shape in track:
        if shape.get("frame") is None:
            continue
        last = int(read_number(str(path), "the frame of a shape", shape.get("frame")))
        if shape.get("outside") == "1" and begun is not None:
            yield begun, last
            begun = None
        elif shape.get("outside") != "1" and begun is None:
            begun = last
    if begun is not None:
        yield begun, last + 1


def write_cvat(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write CVAT's XML for images a video, an ``image`` for each frame that has a tag."""
    return {f"{name}.xml": _cvat(video, clock_of) for name, video in flat_names(videos).items()}


def _cvat(video: LabelledVideo, clock_of: ClockOf) -> str:
    clock = clock_of(video)
    shown: dict[int, list[str]] = defaultdict(list)
    for span in video.spans:
        for frame in range(clock.frame(span.start_seconds), clock.frame(span.end_seconds)):
            shown[frame] += [] if span.label in shown[frame] else [span.label]
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")
    facts: dict[str, str] = {"name": video.name, "size": str(clock.num_frames or max(shown, default=-1) + 1)}
    for name, text in (facts | {"mode": "annotation", "start_frame": "0", "source": video.name}).items():
        SubElement(task, name).text = text
    labels = SubElement(task, "labels")
    for label in sorted({span.label for span in video.spans}):
        entry = SubElement(labels, "label")
        SubElement(entry, "name").text = label
        SubElement(entry, "type").text = "tag"
    for frame in sorted(shown):
        image = SubElement(root, "image", id=str(frame), name=f"frame_{frame:06d}")
        for label in shown[frame]:
            SubElement(image, "tag", label=label, source="manual")
    return _write_xml(root)


XML_ROOTS: dict[str, str] = {"ANNOTATION_DOCUMENT": "elan", "annotations": "cvat"}
"""Root of a document -> the format that it shows."""
