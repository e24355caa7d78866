"""The network, in the order of the data: ``backbones`` (frame -> feature map), ``temporal`` (sequence -> sequence),
``recognizer`` (both, and a classifier)."""
