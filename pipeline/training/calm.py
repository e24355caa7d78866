"""Lightning without its announcements."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def calm_lightning() -> Iterator[None]:
    """Silences Lightning's announcements and its advice on worker counts, which are settled here. An interrupt, for
    which Lightning ends the process with exit code 1, stays an interrupt."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*Checkpoint directory.*exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*not resumable.*")  # the sampler and the datamodule are
        warnings.filterwarnings("ignore", ".*`training_step` returned `None`.*")
        warnings.filterwarnings("ignore", ".*LeafSpec.*")
        warnings.filterwarnings("ignore", ".*Total length of `list` across ranks is zero.*")  # nothing is validated
        warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # what is logged is the same on all ranks
        warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")
        warnings.filterwarnings("ignore", ".*have no `val_dataloader`.*")
        logger.setLevel(logging.ERROR)
        try:
            yield
        except SystemExit as ended:
            if isinstance(ended.__context__, KeyboardInterrupt):
                raise ended.__context__ from None
            raise
        finally:
            logger.setLevel(level)
