#!/usr/bin/env python3
"""Runs commands in turn and sums up the figures they print as `figure=value` lines.

compare.py NAME FIGURE[,FIGURE...] --runs N --ours COMMAND [--theirs COMMAND]

Both sides run once in every round, so that what else the machine does hits both; a ratio is that of one round, ours
by theirs. The last line is `NAME ratio=<median> min=<min> max=<max>` of the first figure; without --theirs, `ratio` is
the figure's name. BENCHMARK_START tells a command when it was started.
"""

import argparse
import os
import re
import shlex
import statistics
import subprocess
import sys
import time


def run(command):
    environment = os.environ | {"BENCHMARK_START": repr(time.time())}
    result = subprocess.run(shlex.split(command), env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"compare.py: '{command}' ended with {result.returncode}:\n{result.stderr}")
    return {name: float(value) for name, value in re.findall(r"^(\w+)=(\S+)$", result.stdout, re.MULTILINE)}


def figure_of(figures, name, command):
    if name not in figures:
        sys.exit(f"compare.py: '{command}' printed no {name}=...")
    return figures[name]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("figures", type=lambda text: text.split(","))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--theirs")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error(f"--runs is {arguments.runs}: must be at least 1")

    values = {name: [] for name in arguments.figures}
    for round_number in range(1, arguments.runs + 1):
        ours = run(arguments.ours)
        theirs = run(arguments.theirs) if arguments.theirs else None
        for name in arguments.figures:
            value = figure_of(ours, name, arguments.ours)
            text = f"round {round_number}: {name} ours={value:g}"
            if theirs is not None:
                other = figure_of(theirs, name, arguments.theirs)
                text += f" theirs={other:g}"
                value /= other
            values[name].append(value)
            print(text, flush=True)
    for name, all_values in reversed(values.items()):
        title = arguments.name if name == arguments.figures[0] else f"{arguments.name}/{name}"
        what = "ratio" if arguments.theirs else name
        print(f"{title} {what}={statistics.median(all_values):.4g} min={min(all_values):.4g} max={max(all_values):.4g}")


main()
