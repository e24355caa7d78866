"""Explanations for people: the frames that a model sees, and their effect on its answer.

sheets    the exact frames of its clips; the worst clips of a diagnosis
memory    the changes that its update gate lets into memory, and the frames that decided the label
overlay   those as a video, a picture and JSON
"""
