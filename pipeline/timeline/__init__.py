"""Scores of windows -> scores of grid frames -> labelled segments, and how well segments agree. No input, no output.

    scores     WindowScores; the mean over the windows that cover a frame; smoothing
    runs       hysteresis gives each frame a label; frames of one label are a run; short runs go to a neighbour
    segments   Timeline: all of that, fed window by window; merge_segments: the same over an iterable
    tracks     Tracks: a Timeline for each label, where labels may overlap
    tuning     thresholds and the shortest segment, chosen on labelled videos
    labelled   LabelledVideo: truth or predictions as any tool writes them
    metrics/   how well two timelines agree

Every step runs as the video does: a frame's score is final once no later window can cover it, and a segment is final
once its label has changed for good, so memory does not grow with the length of the video.
"""
