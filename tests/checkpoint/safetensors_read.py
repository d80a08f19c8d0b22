"""The reference implementation's side of safetensors_test.cpp (safetensors 0.8 or later, NumPy).

rewrite IN OUT   reads IN and writes what it read to OUT, through NumPy where NumPy has the dtype
write OUT        writes tensors that the test knows
accept FOLDER    prints the names of the files in FOLDER that the reference reads
"""

import pathlib
import sys

import numpy as np
from safetensors import SafetensorError, TensorSpec, deserialize, safe_open, serialize_file

NUMPY = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32",
    "F64": "float64", "C64": "complex64",
}  # fmt: skip
OTHERS = {
    "BF16": "bfloat16", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


def spec(dtype, shape, array):
    return TensorSpec(
        dtype=dtype, shape=shape, data_ptr=array.ctypes.data, data_len=array.nbytes
    )


def rewrite(source, target):
    specs, arrays = {}, []
    with safe_open(source, framework="np") as file:
        metadata = file.metadata()
        for name, view in deserialize(pathlib.Path(source).read_bytes()):
            dtype = view["dtype"]
            if dtype in NUMPY:
                array = file.get_tensor(name)
                assert array.dtype == NUMPY[dtype] and array.flags.c_contiguous, name
                specs[name] = spec(NUMPY[dtype], array.shape, array)
            else:
                array = np.frombuffer(view["data"], dtype=np.uint8)
                specs[name] = spec(OTHERS[dtype], view["shape"], array)
            arrays.append(array)
    serialize_file(specs, target, metadata=metadata)


def write(target):
    """0, 1, 2, ... of shape [2, 3] in every dtype of NumPy, and bfloat16 made by hand."""
    arrays = {d: np.arange(6).reshape(2, 3).astype(n) for d, n in NUMPY.items()}
    specs = {d: spec(NUMPY[d], array.shape, array) for d, array in arrays.items()}
    bfloat16 = (np.arange(6, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)
    specs["BF16"] = spec("bfloat16", [2, 3], bfloat16)
    scalar = np.array(7, dtype=np.int64)
    specs["scalar \N{GREEK SMALL LETTER BETA}"] = spec("int64", [], scalar)
    empty = np.zeros((0, 4), dtype=np.float32)
    specs["empty"] = spec("float32", [0, 4], empty)
    serialize_file(specs, target, metadata=None)


def accept(folder):
    for path in sorted(pathlib.Path(folder).iterdir()):
        try:
            deserialize(path.read_bytes())
        except SafetensorError:
            continue
        print(path.name)


if __name__ == "__main__":
    {"rewrite": rewrite, "write": write, "accept": accept}[sys.argv[1]](*sys.argv[2:])
