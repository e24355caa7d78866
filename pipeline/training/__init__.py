"""Training: ``module`` (loss, metrics, optimiser), ``callbacks`` (progress, signals, files), ``fit`` (whole runs)."""
