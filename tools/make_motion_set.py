"""Makes a motion set of another size than the demo's: small videos in which only time tells the classes apart.

python tools/make_motion_set.py data/motion_320 --num_train_clips 320 --num_val_clips 32
clipgru train --config configs/motion.yaml --data.format folder --data.root data/motion_320
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.datasets.motion import MotionSetConfig, make_motion_set
from pipeline.errors import UserError


def main() -> int:
    """Makes it, unless it is there already."""
    default = MotionSetConfig()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="a new or empty folder")
    for name, words in (
        ("num_train_clips", "training clips of each class"),
        ("num_val_clips", "validation clips of each class"),
        ("num_test_clips", "test clips of each class"),
        ("num_untrimmed", "long videos with segments"),
        ("untrimmed_seconds", "length of a long video"),
        ("num_shapes", "shapes in a long video; of two, each has actions of its own, which overlap"),
        ("seed", "another seed makes other videos"),
    ):
        usual = getattr(default, name)
        parser.add_argument(f"--{name}", type=type(usual), default=usual, help=f"{words} (%(default)s)")
    sizes = vars(parser.parse_args())
    root = sizes.pop("root")
    try:
        print(make_motion_set(root, MotionSetConfig(**sizes)))
    except UserError as error:
        print(f"make_motion_set: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
