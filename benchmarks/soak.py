#!/usr/bin/env python3
"""Trains under `trainer launch` while a rank fails every now and then, and compares with a run that is left alone.

soak.py TRAINER_PROGRAM [--minutes M] [--every SECONDS] [--ranks N] [--strategy S] [--stops]

Every SECONDS on average a random rank is killed (SIGKILL) or crashes (SIGSEGV); with --stops one in four is stopped
(SIGSTOP) instead, and a rank counts as dead after 5 s without a sign of life. Prints, as the last line, the share of
the undisturbed run's steps that the disturbed one takes in the same time; exit code 1 where their states differ by a byte.
"""

import argparse
import filecmp
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

STEPS_BETWEEN_CHECKPOINTS = 50


def command(options, root, steps):
    checkpoints = f"{{class_path: ModelCheckpoint, init_args: {{every_n_train_steps: {STEPS_BETWEEN_CHECKPOINTS}}}}}"
    return [
        options.trainer, "launch", "-n", str(options.ranks), "--max-restarts", "1000000", "--",
        "fit", "--config", "configs/gpt_bytes.yaml", f"--trainer.callbacks=[{checkpoints}]", "--trainer.logger=[]",
        f"--trainer.strategy={options.strategy}", f"--trainer.max_steps={steps}", f"--trainer.default_root_dir={root}",
        "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
        "--model.init_args.sample_tokens=1", "--data.init_args.batch_size=4",
    ]


def ranks_of(launch):
    """The processes that mpirun has started for it."""
    def children(pid):
        try:
            return [int(child) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
                    for child in (task / "children").read_text().split()]
        except OSError:
            return []
    return [rank for mpirun in children(launch) for rank in children(mpirun)]


def run(options, root, steps, draw=None):
    """Seconds, and how many failures there were."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if options.stops:
        environment["TRAINER_HEARTBEAT_TIMEOUT_S"] = "5"
    begin = time.monotonic()
    failures = 0
    with open(f"{root}.log", "w", encoding="utf-8") as log:
        job = subprocess.Popen(command(options, root, steps), stdout=log, stderr=log, env=environment)
        next_failure = begin + draw.expovariate(1 / options.every) if draw else float("inf")
        while job.poll() is None:
            time.sleep(0.01)
            if time.monotonic() < next_failure:
                continue
            next_failure += draw.expovariate(1 / options.every)
            victims = ranks_of(job.pid)
            if victims:
                failures += 1
                kinds = [signal.SIGKILL, signal.SIGSEGV, signal.SIGKILL, signal.SIGSTOP if options.stops else signal.SIGSEGV]
                os.kill(draw.choice(victims), kinds[failures % 4])
    if job.returncode != 0:
        sys.exit(f"soak.py: the job ended with {job.returncode}:\n{pathlib.Path(f'{root}.log').read_text()[-5000:]}")
    return time.monotonic() - begin, failures


def state_of(root):
    checkpoints = pathlib.Path(root, "version_0", "checkpoints")
    return checkpoints / (checkpoints / "last").read_text().strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainer")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--stops", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trial, _ = run(options, f"{folder}/trial", 500)
        begun, _ = run(options, f"{folder}/begun", 1)
        steps = int(options.minutes * 60 * 499 / (trial - begun))
        alone, _ = run(options, f"{folder}/alone", steps)
        print(f"alone: {steps} steps in {alone:.1f} s", flush=True)
        disturbed, failures = run(options, f"{folder}/disturbed", steps, random.Random(options.seed))
        print(f"disturbed: {failures} failures, {disturbed:.1f} s", flush=True)
        a, b = state_of(f"{folder}/alone"), state_of(f"{folder}/disturbed")
        names = sorted(path.name for path in a.iterdir() if path.name not in ("config.yaml", "manifest.json"))
        _, differing, missing = filecmp.cmpfiles(a, b, names, shallow=False)
        if differing or missing:
            sys.exit(f"soak.py: {differing + missing} of {b.name} differ from those of {a.name}")
        print(f"soak share={alone / disturbed:.3f} failures={failures} steps={steps}")


main()
