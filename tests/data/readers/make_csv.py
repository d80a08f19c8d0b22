"""Writes random tables as CSV, their values as raw bytes, and index.json: python make_csv.py FOLDER"""
import gzip
import json
import pathlib
import sys

import numpy as np

folder = pathlib.Path(sys.argv[1])
random = np.random.default_rng(20240607)
index = []


def table(dtype, shape, non_finite):
    """Values over the whole range of the dtype, tiny and huge ones as well."""
    bits = random.integers(0, 256, size=(*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    values = bits.view(dtype)[..., 0]
    return values if non_finite else np.where(np.isfinite(values), values, dtype(0.1))


def add(text, values, **options):
    name = f"{len(index)}.csv"
    (folder / name).write_bytes(gzip.compress(text) if options.pop("gzip", False) else text)
    values = np.where(np.isnan(values), np.abs(values), values)  # one NaN: text keeps no payload
    (folder / f"{name}.raw").write_bytes(np.ascontiguousarray(values).tobytes())
    index.append({"file": name, "raw": f"{name}.raw", "dtype": values.dtype.name,
                  "shape": values.shape, **options})


for i in range(60):
    dtype = [np.float32, np.float64][i % 2]
    non_finite = i % 5 == 0
    values = table(dtype, random.integers(1, 9, size=2), non_finite)
    if non_finite:
        values = np.where(np.isnan(values), dtype(np.nan), values)
        values.flat[0] = [np.nan, np.inf, -np.inf][i % 3]
    delimiter = [",", ";", "\t", " ", "|"][i % 5]
    space = " " if delimiter != " " and i % 3 == 0 else ""
    end = ["\n", "\r\n"][i // 5 % 2]
    lines = [(space + delimiter + space).join(str(cell) for cell in row) for row in values]
    header = random.random() < 0.5
    if header:
        lines.insert(0, "the, header; of any\tform")
    text = end.join(lines) + (end if random.random() < 0.5 else "")
    add(text.encode(), values, header=header, delimiter=delimiter, allow_non_finite=non_finite,
        gzip=bool(random.random() < 0.5))

# A table as large as the digits of UCI, written by NumPy itself.
digits = np.concatenate([random.integers(0, 17, (1797, 64)), random.integers(0, 10, (1797, 1))], 1)
for name in ["digits.csv", "digits.csv.gz"]:
    np.savetxt(folder / name, digits, fmt="%d", delimiter=",")
    text = (folder / name).read_bytes()
    add(text, digits.astype(np.float32), header=False, delimiter=",", allow_non_finite=False)

(folder / "index.json").write_text(json.dumps(index))
