"""Labelled stretches, true or predicted, as our own and other tools write them: files to ``LabelledVideo``s and back.

spans.py          texts and numbers to checked spans; files from anywhere, of bounded size
tables.py         our manifest, EPIC-KITCHENS CSV, the CSV that ``predict`` writes
json_files.py     ActivityNet JSON, and what ``predict`` writes as JSON and JSON lines
json_datasets.py  FiftyOne, Create ML
text_files.py     MS-TCN's folders, THUMOS text files
subtitles.py      SubRip, WebVTT
xml_files.py      ELAN, CVAT
boris.py          BORIS: projects and tables
via.py            VIA: projects and tables
label_studio.py   Label Studio
ethograms.py      V-TRACE, DeepEthogram
frames.py         numbers of frames to seconds and back
losses.py         what a format cannot hold
formats.py        TIMELINE_FORMATS: the table of the above
reading.py        files in any of the formats, which the content tells
names.py          the same video under different names
rows.py           rows of a training, whose videos are found by name
writing.py        files in any of the formats; predicted.py: those of ``predict``
"""
