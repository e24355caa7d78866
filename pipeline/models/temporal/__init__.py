"""Temporal heads: a sequence in, a sequence out, the past carried in a state.

Every head keeps one contract, so that training, windows and streams are one code path:

    y, state = head(x, state)        x [B, T, ...], y [B, T, ...]; state None means ``initial_state``
    head.initial_state(x)            the state before the first frame
    a step is a call with T = 1
    head.recur(head.project(x))      the same in two halves: frame by frame, then over time

Any cut of a sequence into chunks, with the state handed on, gives the outputs of the whole. Vector heads read
``[B, T, D]``, map heads ``[B, T, C, H, W]``. Bidirectional heads read the future and say that they cannot stream.

``head`` is this contract; ``convgru``, ``convlstm``, ``gru``, ``mingru`` and ``pooling`` hold the heads with their
equations, ``stack`` puts them together by name. ``fast`` holds forms of them that are written by hand for a CPU, with
``prepared`` and ``winograd`` for their convolutions; the tests hold each against the equations.
"""
