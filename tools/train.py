"""``clipgru train`` for a checkout: python tools/train.py --config configs/folder.yaml --data.root my_videos"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
