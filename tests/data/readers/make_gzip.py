"""Writes text.bin and gzip files of it as different writers make them: python make_gzip.py FOLDER"""
import gzip
import pathlib
import sys
import zlib

folder = pathlib.Path(sys.argv[1])
text = b"".join(b"%d,%d\n" % (i, i * i % 97) for i in range(60))
(folder / "text.bin").write_bytes(text)
(folder / "small.gz").write_bytes(gzip.compress(text, 9))
(folder / "stored.gz").write_bytes(gzip.compress(text, 0))
with gzip.GzipFile(folder / "named.gz", "wb", mtime=1) as file:  # keeps the name in the header
    file.write(text)
members = gzip.compress(text[:100]) + gzip.compress(b"") + gzip.compress(text[100:])
(folder / "members.gz").write_bytes(members)
(folder / "padded.gz").write_bytes(gzip.compress(text) + bytes(512))

# Every optional field of the header: FTEXT, FHCRC, FEXTRA, FNAME, FCOMMENT.
header = b"\x1f\x8b\x08\x1f" + bytes(4) + b"\x00\x03" + b"\x04\x00AB\x00\x00" + b"name\0" + b"comment\0"
header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
(folder / "all_fields.gz").write_bytes(header + gzip.compress(text)[10:])

(folder / "zeros.gz").write_bytes(gzip.compress(bytes(1 << 24)))
