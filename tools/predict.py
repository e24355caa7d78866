"""``clipgru predict`` for a checkout: python tools/predict.py runs/mine/model.safetensors video.mp4"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
