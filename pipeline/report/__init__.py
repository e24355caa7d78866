"""Outputs of a run over videos, for people and programs. Every writer is fed as things happen, in bounded memory.

files      output files that get their names when they are complete; errors of a full disk in words
records    values written for a video, a window and a segment, and their decimals
json_file, csv_file, jsonl, parquet    one file for all videos
subtitles  SRT and WebVTT, one file a video
mp4, drawing, annotated                the video with label, score and time drawn in
strip, page                            one self-contained HTML page a video; page.html is its template
writers    all outputs that a run asked for, as one
tables     of an evaluation
"""
