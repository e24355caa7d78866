"""The rows of tools/benchmark.py, one module a group; ``timing`` measures, ``tables`` writes."""
