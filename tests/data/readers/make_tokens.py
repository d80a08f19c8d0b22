"""Writes tokens as nanoGPT's prepare.py does, and as int64: python make_tokens.py FOLDER"""
import pathlib
import sys

import numpy as np

folder = pathlib.Path(sys.argv[1])
random = np.random.default_rng(50257)
for dtype in ["uint8", "uint16"]:
    tokens = random.integers(0, np.iinfo(dtype).max + 1, size=5000).astype(dtype)
    tokens.tofile(folder / f"{dtype}.bin")
    tokens.astype(np.int64).tofile(folder / f"{dtype}.int64")
