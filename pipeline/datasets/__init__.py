"""Annotations to rows, rows to samples.

The annotation formats and the splits are light (no torch, no decoder); the rest follows the data.

    annotations.py     VideoRow and Annotations, the form of every format; finding files, reading text
    official.py        UCF101, HMDB51, UT-Interaction, as published
    parts.py           train, val and test: their spellings, and the folders that are such
    delimited.py       tables of text, as people and spreadsheets write them
    tables.py          Kinetics CSV files; the manifest (CSV or JSON lines)
    folders.py         a folder per class
    shards.py          all videos in a few tar files: packing them, reading their index
    formats.py         DATA_FORMATS: the table of the above, and of pictures
    splits.py          splits and folds that never share a source video, and the check that none does
    settled.py         from the data settings to the rows of each part
    stretches.py       labelled stretches against the length of their files
    videos.py          rows to samples to batches
    identities.py      the videos that a model has seen
    datamodule.py      from rows to loaders
    motion.py          the motion set: small real video files in which only time tells the classes apart
    motion_actions.py  its classes: the change in each, its extent and speed
    motion_scene.py    its pictures: textures and shapes
    motion_files.py    its video files
    motion_timelines.py  its long videos as data of task timeline
"""
