"""Whole evaluation protocols: train and test over folds and seeds from one experiment, each fold without sight of its
test rows, with a baseline that cannot use time trained beside it.

folds      the rows of each fold, by the name of a protocol
running    trains and judges fold after fold; a finished one stays in the run folder and is not trained again
clips      accuracy over all folds, beside the frame average
timelines  figures of whole videos, beside a head that sees one frame at a time and the same model by windows
"""
