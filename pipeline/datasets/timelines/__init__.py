"""Readers of labelled stretches, true or predicted, as our own and other tools write them: files to ``LabelledVideo``s.

spans.py     texts and numbers to checked spans; the splits
tables.py    our manifest, EPIC-KITCHENS CSV, the CSV that ``predict`` writes
json_files.py  ActivityNet JSON, and what ``predict`` writes as JSON and JSON lines
text_files.py  MS-TCN's folders, THUMOS text files
formats.py   TIMELINE_FORMATS: the table of the above; telling a format by its content
names.py     the same video under different names
frames.py    numbers of frames to seconds
rows.py      rows of a training, whose videos are found by name
"""
