"""What a model sees and what it makes of it, for people.

sheets    the exact frames of its clips; the worst clips of a diagnosis
memory    what its update gate lets into memory, and the frames that decided the label
overlay   those as a video, a picture and JSON
"""
