"""Streaming: cameras, network streams and replayed files become scores and events as they happen.

sources     what somebody types as a source
captures    pictures of an open source, one after the other
grid        live pictures on the model's time grid: one slot, nothing queues up
grabber     the thread that fills it, connects anew, and is watched
feeds       a source's grid frames in portions, whatever it is
track       one source's way from grid frames to scores and segments
streams     ``Streams``: several sources, one batch of the backbone
latency     percentiles in bounded memory
status      what there is to see of a source at one moment, and what a view is
window      a view: OpenCV's window
outputs     events, lines for people, recordings
messages    segments for other programs: webhook, MQTT
metrics     figures for Prometheus
webcam      ``clipgru webcam``: all of it
serve       the live page, a view that any number of browsers can watch; web: its addresses; board: what it tells
"""
