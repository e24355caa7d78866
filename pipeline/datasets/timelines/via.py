"""Temporal segments of the VIA video annotator, version 3: its project (JSON) and its table (CSV).

Source: the project format 3.1 of VIA (Dutta and Zisserman, "The VIA Annotation Software for Images, Audio and Video",
ACM Multimedia 2019; www.robots.ox.ac.uk/~vgg/software/via).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.datasets.annotations import read_text
from pipeline.datasets.delimited import composed, read_table
from pipeline.datasets.timelines.frames import ClockOf
from pipeline.datasets.timelines.spans import (
    as_list,
    as_mapping,
    csv_lines,
    is_json,
    join_spans,
    read_outer_json,
    read_span,
)
from pipeline.errors import UserError
from pipeline.schema import read_json, to_json
from pipeline.timeline.labelled import LabelledSpan, LabelledVideo

_ATTRIBUTE, _ANCHOR, _SELECT, _VIDEO, _LOCAL = "TEMPORAL-SEGMENTS", "FILE1_Z2_XY0", 4, 4, 1
VIA_HEADER = "# CSV_HEADER"


def read_via(path: Path, split: str | None = None) -> list[LabelledVideo]:
    """Read a VIA 3 project, or the CSV that it exports: each temporal segment is a stretch. The label is its attribute
    TEMPORAL-SEGMENTS, else the one for temporal segments, else the first. ``split`` does nothing.

    Raises:
        UserError: not such a file; names the file and the entry.
    """
    return _read_project(path) if is_json(path) else _read_table(path)


def _read_project(path: Path) -> list[LabelledVideo]:
    project = as_mapping(read_outer_json(path), str(path), "a VIA project")
    sections = {
        name: as_mapping(project.get(name, {}), f"{path}: {name}", "an object") for name in ("file", "view", "metadata")
    }
    attributes = as_mapping(project.get("attribute", {}), f"{path}: attribute", "an object")
    names: dict[str, str] = {}
    for view, value in sections["view"].items():
        where = f"{path}: view.{view}"
        files = as_list(as_mapping(value, where, "an object").get("fid_list") or [""], f"{where}.fid_list")
        file = as_mapping(sections["file"].get(str(files[0]), {}), f"{path}: file.{files[0]}", "an object")
        names[view] = composed(str(file.get("fname") or file.get("src") or view))
    rows: list[tuple[str, LabelledSpan | None]] = [(name, None) for name in names.values()]
    left_out: dict[str, list[str]] = {name: [] for name in names.values()}
    for key, value in sections["metadata"].items():
        where = f"{path}: metadata.{key}"
        item = as_mapping(value, where, "an object")
        name = names.get(str(item.get("vid")))
        if name is None:
            raise UserError(f"{where}: vid {item.get('vid')!r} is no view of the project")
        span, lost = _segment(where, item.get("z"), item.get("xy"), item.get("av"), attributes)
        rows += [(name, span)] if span else []
        left_out[name] += lost
    found = join_spans(rows)
    return [replace(video, left_out=tuple(dict.fromkeys(left_out[video.name]))) for video in found]


def _segment(
    where: str, times: object, shape: object, values: object, attributes: Mapping[str, Any]
) -> tuple[LabelledSpan | None, list[str]]:
    """The stretch of an entry, and what of it has no place here."""
    if not isinstance(times, list) or len(times) != 2 or shape:
        return None, ["regions and single frames"]
    chosen = as_mapping(values, where, "an object of attributes")
    known = [(key, attributes[key] if isinstance(attributes.get(key), Mapping) else {}) for key in chosen]
    ranked = sorted(known, key=lambda each: (_name_of(*each) != _ATTRIBUTE, each[1].get("anchor_id") != _ANCHOR))
    if not ranked:
        raise UserError(f"{where}: the segment has no attribute, which would be its label")
    key, attribute = ranked[0]
    options = attribute.get("options")
    label = str(chosen[key])
    label = str(options.get(label, label)) if isinstance(options, Mapping) else label
    return read_span(where, times[0], times[1], label), ["further attributes"] if len(ranked) > 1 else []


def _name_of(key: str, attribute: Mapping[str, Any]) -> str:
    return str(attribute.get("aname", key))


def _read_table(path: Path) -> list[LabelledVideo]:
    """The table names its columns, and the attributes, in comments."""
    text = read_text(path)
    said = re.search(r"^# ATTRIBUTES? = (.*)$", text, re.MULTILINE)
    named = as_mapping(read_json(said[1], f"{path}: ATTRIBUTE"), str(path), "an object") if said else {}
    attributes = {key: value if isinstance(value, Mapping) else {"aname": value} for key, value in named.items()}
    rows: list[tuple[str, LabelledSpan | None]] = []
    left_out: dict[str, list[str]] = {}
    for place, values in read_table(path, ("file_list", "metadata"), comment="#", header_after=VIA_HEADER):
        files = read_json(values["file_list"], place) if values["file_list"].startswith("[") else [values["file_list"]]
        name = composed(str(files[0])) if isinstance(files, list) and files else path.stem
        if "temporal_segment_start" in values:
            times: object = [values["temporal_segment_start"], values["temporal_segment_end"]]
        else:
            times = read_json(values.get("temporal_coordinates") or "[]", place)
        shape = read_json(values.get("spatial_coordinates") or "[]", place)
        span, lost = _segment(place, times, shape, read_json(values["metadata"], place), attributes)
        rows.append((name, span))
        left_out.setdefault(name, []).extend(lost)
    return [replace(video, left_out=tuple(dict.fromkeys(left_out[video.name]))) for video in join_spans(rows)]


def _attributes(videos: Sequence[LabelledVideo]) -> dict[str, Any]:
    labels = sorted({span.label for video in videos for span in video.spans})
    about = {
        "aname": _ATTRIBUTE,
        "anchor_id": _ANCHOR,
        "type": _SELECT,
        "desc": "Temporal segment",
        "default_option_id": "",
    }
    return {"1": about | {"options": {label: label for label in labels}}}


def write_via(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write a VIA 3 project."""
    numbers = [str(number) for number in range(1, len(videos) + 1)]
    files = {
        number: {"fid": number, "fname": video.name, "type": _VIDEO, "loc": _LOCAL, "src": video.name}
        for number, video in zip(numbers, videos, strict=True)
    }
    metadata = {
        f"{number}_{place:06d}": {
            "vid": number,
            "flg": 0,
            "z": [span.start_seconds, span.end_seconds],
            "xy": [],
            "av": {"1": span.label},
        }
        for number, video in zip(numbers, videos, strict=True)
        for place, span in enumerate(video.spans)
    }
    project = {
        "project": {
            "pid": "__VIA_PROJECT_ID__",
            "rev": "__VIA_PROJECT_REV_ID__",
            "rev_timestamp": "__VIA_PROJECT_REV_TIMESTAMP__",
            "pname": "",
            "creator": "",
            "created": 0,
            "data_format_version": "3.1.1",
            "vid_list": numbers,
        },
        "config": {
            "file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}},
            "ui": {
                "file_content_align": "center",
                "file_metadata_editor_visible": True,
                "spatial_metadata_editor_visible": False,
                "temporal_segment_metadata_editor_visible": True,
                "spatial_region_label_attribute_id": "",
                "gtimeline_visible_row_count": "4",
            },
        },
        "attribute": _attributes(videos),
        "file": files,
        "metadata": metadata,
        "view": {number: {"fid_list": [number]} for number in numbers},
    }
    return {"": to_json(project, ensure_ascii=False) + "\n"}


def write_via_table(videos: Sequence[LabelledVideo], clock_of: ClockOf) -> dict[str, str]:
    """Write the CSV that VIA 3 exports."""
    columns = "metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata"
    head = f"# ATTRIBUTE = {to_json(_attributes(videos), ensure_ascii=False)}\n{VIA_HEADER} = {columns}\n"
    rows = [
        [
            f"{number}_{place:06d}",
            json.dumps([video.name], ensure_ascii=False),
            0,
            json.dumps([span.start_seconds, span.end_seconds]),
            "[]",
            json.dumps({"1": span.label}, ensure_ascii=False),
        ]
        for number, video in enumerate(videos, 1)
        for place, span in enumerate(video.spans)
    ]
    return {"": head + csv_lines(rows)}
