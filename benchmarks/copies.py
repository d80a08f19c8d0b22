#!/usr/bin/env python3
"""Runs a command several times at once, each copy on a core of its own, and prints the mean of their figures.

copies.py N FIGURE COMMAND...
"""

import os
import re
import subprocess
import sys


def main():
    count, figure, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    cores = sorted(os.sched_getaffinity(0))
    copies = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         preexec_fn=lambda core=cores[i % len(cores)]: os.sched_setaffinity(0, {core}))
        for i in range(count)
    ]
    values = []
    for copy in copies:
        out, err = copy.communicate()
        found = re.search(rf"^{figure}=(\S+)$", out, re.MULTILINE)
        if copy.returncode != 0 or not found:
            sys.exit(f"copies.py: '{' '.join(command)}' ended with {copy.returncode}:\n{out}{err}")
        values.append(float(found.group(1)))
    print(f"{figure}={sum(values) / len(values):.6g}")


main()
