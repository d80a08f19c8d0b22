#!/usr/bin/env python3
"""Runs a command and prints by how much its processes' memory grew at most, over the base_mb that each prints.

peak_memory.py COMMAND...

Memory that processes share counts in equal parts for each (Pss), and files, as the programs themselves, do not. Prints
the mean over the processes that print a base as peak_mb=VALUE, and the largest one as largest_mb=VALUE.
"""

import glob
import re
import subprocess
import sys
import time


def proportional_mb(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return sum(int(kb) for kb in re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", file.read(), re.MULTILINE)) / 1024
    except OSError:  # it has ended
        return 0


def descendants(pid):
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            with open(path, encoding="ascii") as file:
                for child in file.read().split():
                    found += [int(child)] + descendants(int(child))
        except OSError:
            pass
    return found


def main():
    command = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peaks = {}
    while command.poll() is None:
        for pid in descendants(command.pid):
            peaks[pid] = max(peaks.get(pid, 0), proportional_mb(pid))
        time.sleep(0.002)
    out, err = command.communicate()
    bases = [float(value) for value in re.findall(r"^base_mb=(\S+)$", out, re.MULTILINE)]
    if command.returncode != 0 or not bases:
        sys.exit(f"peak_memory.py: '{' '.join(sys.argv[1:])}' ended with {command.returncode}:\n{out}{err}")
    base = sum(bases) / len(bases)
    ranks = sorted(peaks.values())[-len(bases):]  # beside mpirun and the like, which are small
    print(f"peak_mb={sum(ranks) / len(ranks) - base:.6g}")
    print(f"largest_mb={max(ranks) - base:.6g}")


if __name__ == "__main__":
    main()
