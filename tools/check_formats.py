"""Labelled stretches opened by the programs that other formats come from: what they read is what was written.

    python -m venv other && other/bin/pip install boris-behav-obs datumaro fiftyone label-studio-sdk deepethogram
    python tools/check_formats.py data/ceiling/manifest.csv --python other/bin/python

Writes the stretches of a manifest with ``clipgru convert``, reads them with each program's own code, in an environment
of its own as these want other versions of much, and compares labels and times, which may be off by a frame or two where
frames are counted. A format that holds a label at each frame has stretches of one label that touch as one. Of Label
Studio its own check of an annotation is asked, as what reads it is a server. ELAN and subtitles are in the tests.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.config import DecodeConfig
from pipeline.datasets.timelines.frames import clock_of_file
from pipeline.datasets.timelines.reading import read_timelines

# Each finds {video: [[start, end, label], ...]} in the file or folder OUT; in frames where these are counted.
READERS = {
    "boris": """
import os
os.environ["QT_QPA_PLATFORM"] = "offscreen"
from boris import project_functions
project = project_functions.open_project_json(OUT)[2]
found = {}
for name, observation in project["observations"].items():
    fine, message = project_functions.check_state_events_obs(name, project["behaviors_conf"], observation, "S")
    assert fine, message
    begun, found[name] = {}, []
    for time, _, code, *_ in sorted(observation["events"]):
        if code in begun:
            found[name].append([float(begun.pop(code)), float(time), code])
        else:
            begun[code] = time
""",
    "fiftyone": """
from fiftyone.utils.data import FiftyOneTemporalDetectionDatasetImporter
found = {}
with FiftyOneTemporalDetectionDatasetImporter(dataset_dir=OUT, data_path="data.json") as importer:
    for path, _, labels, *_ in importer:
        found[path] = [[d.support[0] - 1, d.support[1] - 1, d.label] for d in labels.detections] if labels else []
""",
    "deepethogram": """
import csv, glob, importlib.util, numpy, os
place = os.path.join(os.path.dirname(importlib.util.find_spec("deepethogram").origin), "file_io.py")
spec = importlib.util.spec_from_file_location("file_io", place)  # without what else it loads
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
found = {}
for file in glob.glob(OUT + "/*.csv"):
    is_there, labels = module.read_labels(file), next(csv.reader(open(file)))[1:]
    name = os.path.basename(file).removesuffix("_labels.csv")
    found[name] = []
    for label, column in zip(labels, is_there.T):
        if label != "background":
            edges = numpy.diff(numpy.concatenate([[0], column == 1, [0]]).astype(int))
            starts, stops = numpy.flatnonzero(edges == 1).tolist(), numpy.flatnonzero(edges == -1).tolist()
            found[name] += [[a, b, label] for a, b in zip(starts, stops)]
""",
    "cvat": """
import glob, os, re, tempfile
import datumaro
found = {}
for file in glob.glob(OUT + "/*.xml"):
    text = open(file).read()
    with tempfile.TemporaryDirectory() as folder:
        open(folder + "/annotations.xml", "w").write(text)
        os.mkdir(folder + "/images")
        for name in re.findall('name="(frame_[0-9]+)"', text):  # it asks for the pictures
            open(f"{folder}/images/{name}", "wb").close()
        data = datumaro.Dataset.import_from(folder, "cvat")
        names = data.categories()[datumaro.AnnotationType.label]
        frames = sorted((int(re.sub("[^0-9]", "", i.id)), names[a.label].name) for i in data for a in i.annotations)
    spans = []
    for label in sorted({label for _, label in frames}):
        for frame in [frame for frame, other in frames if other == label]:
            if spans and spans[-1][2] == label and spans[-1][1] == frame:
                spans[-1][1] = frame + 1
            else:
                spans.append([frame, frame + 1, label])
    found[os.path.basename(file).removesuffix(".xml")] = spans
""",
    "label_studio": """
import json
from label_studio_sdk.label_interface import LabelInterface
tasks = json.load(open(OUT))
results = [result for task in tasks for annotation in task["annotations"] for result in annotation["result"]]
labels = {label for result in results for label in result["value"]["timelinelabels"]}
shown = "".join(f'<Label value="{label}"/>' for label in sorted(labels))
page = LabelInterface(
    '<View><Video name="video" value="$video"/>'
    f'<TimelineLabels name="labels" toName="video">{shown}</TimelineLabels></View>'
)
found = {}
for task in tasks:
    assert all(page.validate_annotation(annotation) for annotation in task["annotations"]), task
    results = [result for annotation in task["annotations"] for result in annotation["result"]]
    found[task["data"]["video"]] = [
        [part["start"] - 1, part["end"], result["value"]["timelinelabels"][0]]
        for result in results for part in result["value"]["ranges"]
    ]
""",
}  # fmt: skip
FRAMES_OFF = {"fiftyone": 2, "deepethogram": 1, "cvat": 1, "label_studio": 1}
"""By so many, as they count frames; FiftyOne, which is given seconds, rounds to frames in a way of its own."""
JOINED = ("deepethogram", "cvat")

Spans = list[tuple[float, float, str]]


def joined(spans: Spans) -> Spans:
    """The same, with stretches of one label that touch as one."""
    found: Spans = []
    for start, end, label in sorted(spans, key=lambda span: (span[2], span[0])):
        if found and found[-1][2] == label and found[-1][1] >= start:
            found[-1] = found[-1][0], max(end, found[-1][1]), label
        else:
            found.append((start, end, label))
    return sorted(found)


def differences(theirs: Spans, ours: Spans, tolerance: float) -> list[str]:
    """Stretches of one that are not among the other's."""
    if len(theirs) != len(ours):
        return [f"{len(theirs)} stretches for {len(ours)}"]
    return [
        f"{own} became {other}"
        for own, other in zip(sorted(ours), sorted(theirs), strict=True)
        if own[2] != other[2] or max(abs(own[0] - other[0]), abs(own[1] - other[1])) > tolerance
    ]


def main() -> int:
    """Write, let others read, compare; 1 if something differs or a program is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--python", default=sys.executable, help="of the environment with the other programs")
    parser.add_argument("--formats", nargs="+", default=list(READERS), choices=list(READERS))
    arguments = parser.parse_args()
    truth = {Path(video.name).stem: video for video in read_timelines(arguments.manifest)}
    clocks = {name: clock_of_file(arguments.manifest.parent / v.name, DecodeConfig()) for name, v in truth.items()}
    num_wrong = 0
    for name in arguments.formats:
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder, "out"))
            words = ["-m", "pipeline", "convert", str(arguments.manifest), "--to", name, out, "--quiet"]
            subprocess.run([sys.executable, *words], check=True)
            code = f"OUT = {out!r}\n{READERS[name]}\nimport json\nprint('FOUND' + json.dumps(found))"
            done = subprocess.run([arguments.python, "-c", code], capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: cannot be read: {done.stderr.strip().splitlines()[-1]}")
            num_wrong += 1
            continue
        found = json.loads(done.stdout.rpartition("FOUND")[2])
        wrong = []
        for video, own in truth.items():
            spans: Spans = [(span.start_seconds, span.end_seconds, span.label) for span in own.spans]
            theirs: Spans = [tuple(span) for key, some in found.items() if Path(key).stem == video for span in some]
            clock = clocks[video]
            if name in FRAMES_OFF:
                theirs = [(clock.seconds(start), clock.seconds(end), label) for start, end, label in theirs]
            tolerance = FRAMES_OFF.get(name, 0) * (clock.seconds(1) - clock.seconds(0)) + 0.001
            wrong += differences(theirs, joined(spans) if name in JOINED else spans, tolerance)
        num_stretches = sum(len(video.spans) for video in truth.values())
        print(f"{name}: {len(found)} videos, {num_stretches} stretches, {len(wrong)} other than written", *wrong[:3])
        num_wrong += bool(wrong)
    return min(num_wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
