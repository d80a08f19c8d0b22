"""Makes random arrays for read_npy, and checks what write_npy made of them.

python make_npy.py FOLDER make    x.npy of every dtype, shape, order and version, x.npy.raw, index.json
python make_npy.py FOLDER check   x.npy.ours, for each of the index, holds the same array
"""
import json
import pathlib
import sys

import numpy as np

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float16", "float32", "float64", "complex64", "complex128"]
SHAPES = [(), (1,), (7,), (0,), (3, 4), (0, 3), (3, 0), (2, 0, 5), (1,) * 32, (2,) * 7]
VERSIONS = [(1, 0), (2, 0), (3, 0)]


def random_array(random, dtype, shape):
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if dtype == "bool":
        return random.integers(0, 2, size=shape).astype(bool)
    return np.frombuffer(random.bytes(size), dtype=dtype).reshape(shape)


def make(folder):
    random = np.random.default_rng(2006)
    index = []
    for dtype in DTYPES:
        shapes = SHAPES + [tuple(random.integers(0, 6, size=random.integers(0, 6))) for _ in range(30)]
        for i, shape in enumerate(shapes):
            values = random_array(random, dtype, shape)
            stored = values.astype(values.dtype.newbyteorder("<>"[i // 2 % 2]))
            stored = np.asarray(stored, order="CF"[i % 2])
            name = f"{dtype}_{i}.npy"
            with open(folder / name, "wb") as file:
                np.lib.format.write_array(file, stored, version=VERSIONS[i % 3], allow_pickle=False)
            (folder / f"{name}.raw").write_bytes(values.tobytes())
            index.append({"file": name, "raw": f"{name}.raw", "dtype": dtype,
                          "shape": [int(n) for n in shape]})
    (folder / "index.json").write_text(json.dumps(index))
    np.save(folder / "small.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    np.save(folder / "bools.npy", np.array([[True, False], [False, True]]))
    np.save(folder / "fortran.npy", np.asfortranarray(np.arange(12.0).reshape(3, 4)))
    np.save(folder / "objects.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    np.save(folder / "fields.npy", np.zeros(3, dtype=[("x", "f4"), ("y", "i4")]))
    np.save(folder / "strings.npy", np.array(["a", "bcd"]))
    np.save(folder / "dates.npy", np.array(["2024-01-01"], dtype="datetime64[D]"))
    np.save(folder / "longdouble.npy", np.zeros(2, dtype=np.longdouble))


def check(folder):
    index = json.loads((folder / "index.json").read_text())
    for entry in index:
        values = np.load(folder / entry["file"], allow_pickle=False)
        with open(folder / (entry["file"] + ".ours"), "rb") as file:
            ours = np.load(file, allow_pickle=False)
            assert file.read() == b"", entry
            assert file.tell() % 64 == ours.nbytes % 64, entry
        assert ours.dtype == values.dtype.newbyteorder("="), entry
        assert ours.shape == values.shape, entry
        assert ours.tobytes() == values.astype(ours.dtype).tobytes(), entry
    assert index


{"make": make, "check": check}[sys.argv[2]](pathlib.Path(sys.argv[1]))
