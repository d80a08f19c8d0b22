#!/usr/bin/env python3
"""Makes the data of the examples, in data/.

digits.csv.gz    1,797 handwritten digits from the scikit-learn wheel, one a line: 64 pixels (8x8, 0..16), the label
bytes_train.bin  C++ source text, one uint8 token a byte (nanoGPT's convention): nine tenths of LibTorch's own headers
bytes_val.bin    the other tenth
checksums.json   SHA-256 and size in bytes of each

The same LibTorch gives the same bytes. A file that is as it should be is left alone.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"

SCIKIT_LEARN = "1.7.2"
DIGITS = "sklearn/datasets/data/digits.csv.gz"
DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"

# Written by people, for the most part, and the same for every device that LibTorch was built for.
HEADER_FOLDERS = ("ATen/core", "c10", "torch/csrc")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digits() -> bytes:
    """digits.csv.gz out of the scikit-learn wheel, downloaded."""
    with tempfile.TemporaryDirectory() as folder:
        # The file is the same in every wheel; naming one makes this work with any Python on any machine.
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--python-version=3.12", "--platform=manylinux2014_x86_64",
               f"--dest={folder}", f"scikit-learn=={SCIKIT_LEARN}"]
        if subprocess.run(pip).returncode != 0:
            sys.exit(f"make_data.py: pip could not download scikit-learn {SCIKIT_LEARN}, see above.\n"
                     f"  {DATA / 'digits.csv.gz'} can also be copied from another clone.")
        wheel = next(pathlib.Path(folder).glob("*.whl"))
        content = zipfile.ZipFile(wheel).read(DIGITS)
    if sha256(content) != DIGITS_SHA256:
        sys.exit(f"make_data.py: {DIGITS} in {wheel.name} has SHA-256\n"
                 f"  {sha256(content)}, not\n  {DIGITS_SHA256}.\n"
                 "  It is not the file that the examples were written for, and was not stored. Does pip read from a "
                 "mirror\n  that changes packages? If scikit-learn's version was changed, change DIGITS_SHA256 too.")
    return content


def header_texts(include: pathlib.Path) -> tuple[bytes, bytes]:
    """LibTorch's headers joined in the order of their paths: for training, for validation."""
    headers = {path.relative_to(include).as_posix(): path
               for folder in HEADER_FOLDERS for path in (include / folder).rglob("*.h")}
    train, validation = [], []
    for name, path in sorted(headers.items()):
        content = path.read_bytes()
        if "/generated/" in name or not content.isascii():
            continue
        # By name, so that a file stays on its side when others come and go.
        is_validation = int(sha256(name.encode()), 16) % 10 == 0
        (validation if is_validation else train).append(content)
    if not train or not validation:
        sys.exit(f"make_data.py: {include} holds no headers of LibTorch; pass the folder above it as --libtorch.")
    return b"".join(train), b"".join(validation)


def read(path: pathlib.Path) -> bytes:
    """The file's content; empty when it is not there."""
    return path.read_bytes() if path.exists() else b""


def replace(path: pathlib.Path, content: bytes) -> None:
    """Writes the file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libtorch", type=pathlib.Path, required=True, help="folder that holds include/torch")
    parser.add_argument("--quiet", action="store_true", help="say nothing when nothing was to be done")
    arguments = parser.parse_args()

    DATA.mkdir(exist_ok=True)
    train, validation = header_texts(arguments.libtorch / "include")
    old_digits = read(DATA / "digits.csv.gz")
    wanted = {
        "digits.csv.gz": old_digits if sha256(old_digits) == DIGITS_SHA256 else digits(),
        "bytes_train.bin": train,
        "bytes_val.bin": validation,
    }
    checksums = {name: {"sha256": sha256(content), "size": len(content)} for name, content in wanted.items()}
    wanted["checksums.json"] = (json.dumps(checksums, indent=2) + "\n").encode()

    changed = [name for name, content in wanted.items() if read(DATA / name) != content]
    for name in changed:
        replace(DATA / name, wanted[name])
    if changed:
        print("Data: made", ", ".join(changed))
    elif not arguments.quiet:
        print("Data: already there (data/)")


if __name__ == "__main__":
    main()
