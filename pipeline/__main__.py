"""``python -m pipeline`` is ``clipgru``."""

from pipeline.cli import console_main

console_main()
