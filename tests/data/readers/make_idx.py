"""Writes random arrays as IDX files, plain and gzip, and index.json: python make_idx.py FOLDER"""
import gzip
import json
import pathlib
import struct
import sys

import numpy as np

folder = pathlib.Path(sys.argv[1])
random = np.random.default_rng(1998)
codes = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}
index = []
for dtype, code in codes.items():
    for i in range(12):
        shape = [60, 28, 28] if i == 0 else random.integers(0 if i == 1 else 1, 7, size=i % 5 + 1).tolist()
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        values = np.frombuffer(random.bytes(size), dtype=np.dtype(dtype).newbyteorder(">")).reshape(shape)
        content = struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape) + values.tobytes()
        name = f"{dtype}_{i}.idx"
        (folder / name).write_bytes(gzip.compress(content) if i % 2 else content)
        (folder / f"{name}.raw").write_bytes(values.astype(dtype).tobytes())
        index.append({"file": name, "raw": f"{name}.raw", "dtype": dtype, "shape": shape})
(folder / "index.json").write_text(json.dumps(index))
