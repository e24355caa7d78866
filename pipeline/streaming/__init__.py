"""Streaming: cameras, network streams and replayed files become scores and events as they happen.

status      what there is to see of a source at one moment, and what a view is
serve       the live page, a view that any number of browsers can watch; web: its addresses; board: what it tells
"""
