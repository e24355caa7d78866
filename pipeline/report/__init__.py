"""What people and programs read of a run over videos. Every writer is fed as things happen, in bounded memory.

files      output files that get their names when they are complete; errors of a full disk in words
records    what is written of a video, a window and a segment, and to how many decimals
json_file, csv_file, jsonl, parquet    one file for all videos
subtitles  SRT and WebVTT, one file a video
mp4, drawing, annotated                the video with label, score and time drawn in
strip, page                            one self-contained HTML page a video; page.html is its template
writers    all that a run asked for, as one
tables     of an evaluation
"""
