"""From frames to features: the one place where pictures pass the backbone, and where a sequence is held together.

frames   FrameEmbedder: the frames of one source in, their features out; owns the frames that the next ones look back at
clips    ClipEmbedder: whole clips through transform and backbone, in torch
arrays   frames and features in memory, of numpy or torch
"""
