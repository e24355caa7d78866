"""``clipgru webcam`` for a checkout: python tools/webcam.py runs/mine/model.safetensors 0"""

import sys

from pipeline.__main__ import console_main

if __name__ == "__main__":
    console_main(["webcam", *sys.argv[1:]])
