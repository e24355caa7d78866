"""Temporal heads: a sequence in, a sequence out, the past carried in a state.

Every head speaks the same words, so that training, windows and streams are one code path:

    y, state = head(x, state)        x [B, T, ...], y [B, T, ...]; state None means ``initial_state``
    head.initial_state(x)            the state before the first frame
    a step is a call with T = 1
    head.recur(head.project(x))      the same in two halves: frame by frame, then over time

Any cut of a sequence into chunks, with the state handed on, gives the outputs of the whole. Vector heads read
``[B, T, D]``, map heads ``[B, T, C, H, W]``. Bidirectional heads read the future and say that they cannot stream.

``head`` is this contract; ``vectors``, ``maps`` and ``minimal`` hold the heads, ``stack`` puts them together by name.
Below them lies what makes them fast, held against plain loops in the tests: ``convolution`` (all steps in one call,
weights reordered once), ``recurrence`` (the loops of ConvGRU and ConvLSTM with derivatives written out), ``scan`` (the
recurrence of the minimal GRUs) and ``derivatives`` (when these are used, and what they refuse).
"""
