#!/usr/bin/env python3
"""Reads the #include lines of the sources and fails on an arrow that points the wrong way.

The layers are those of docs/architecture.md: trainer/core knows nothing above it, the interfaces and the engine know
no concrete strategy, callback or logger, and nothing includes an example. builtins.cpp registers everything and api.h
is the umbrella of user code, so these two may look up.

    tools/check_layers.py [ROOT]      exit code 1 and one line for each wrong arrow
"""

import pathlib
import re
import sys

FOLDERS = ("trainer", "strategies", "callbacks", "loggers", "examples", "benchmarks", "tools", "tests")
MAY_LOOK_UP = {"trainer/builtins.cpp", "trainer/api.h"}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)

# Who may be included by whom: the first rule whose pattern matches the including file holds. A file may always include
# its own folder's headers.
ALLOWED = (
    (r"trainer/core/", (r"trainer/core/", r"trainer/version\.h")),
    (r"trainer/cli/", (r"trainer/",)),
    (r"trainer/(data|optim)/", (r"trainer/core/", r"trainer/(data|optim)/", r"trainer/progress\.h")),
    (r"trainer/checkpoint/", (r"trainer/core/", r"trainer/(checkpoint|optim)/")),
    (r"trainer/(strategy|accelerator|logger|progress|precision|world|job)\.", (r"trainer/core/", r"trainer/\1\.", r"trainer/progress\.h")),
    (r"trainer/metrics/", (r"trainer/core/", r"trainer/metrics/", r"trainer/strategy\.h")),
    (r"trainer/(module|metric_collector|metric_rows|manual_optimization)\.", (r"trainer/(core|optim|metrics)/", r"trainer/(module|metric_collector|metric_rows|manual_optimization|logger|strategy|progress)\.h")),
    (r"trainer/", (r"trainer/(?!cli/)",)),
    (r"strategies/cuda/", (r"trainer/(core/|(strategy|accelerator|world|version)\.h)", r"strategies/(comm|cuda)/")),
    (r"strategies/", (r"trainer/core/", r"trainer/(strategy|accelerator|world|job|version)\.h", r"trainer/optim/", r"strategies/(?!cuda/)")),
    (r"loggers/", (r"trainer/core/", r"trainer/logger\.h", r"loggers/")),
    (r"callbacks/", (r"trainer/(?!cli/)", r"callbacks/")),
    (r"examples/", (r"trainer/", r"callbacks/", r"loggers/", r"strategies/(?!cuda/)")),
    (r"benchmarks/", (r"trainer/", r"callbacks/", r"loggers/", r"strategies/(?!cuda/)", r"tests/support/")),
    (r"(tools|tests)/", (r"",)),
)

# Libraries that are known in one place only.
CONFINED = (
    (r"CLI/", r"trainer/cli/", "CLI11"),
    (r"spdlog/", r"trainer/core/log\.cpp$", "spdlog"),
    (r"yaml-cpp/", r"trainer/core/yaml\.cpp$", "yaml-cpp"),
    (r"mpi\.h$", r"strategies/mpi/", "MPI"),
    (r"(cuda|cublas|nccl|c10/cuda/|ATen/cuda/|torch/csrc/cuda/|torch/cuda\.h)", r"strategies/cuda/", "CUDA and NCCL"),
    (r"strategies/cuda/", r"strategies/cuda/", "libtrainer_cuda, a library of its own,"),
)


def is_ours(header):
    return header.split("/")[0] in FOLDERS and "/" in header


def problems_of(path, header):
    if is_ours(header) and path not in MAY_LOOK_UP:
        for pattern, allowed in ALLOWED:
            match = re.match(pattern, path)
            if match:
                if not any(re.match(match.expand(rule) if "\\1" in rule else rule, header) for rule in allowed):
                    yield f"{path} includes {header}: the arrow points the wrong way"
                break
        else:
            yield f"{path}: no rule for this folder in tools/check_layers.py"
    if is_ours(header) and header.startswith("examples/"):
        yield f"{path} includes {header}: nothing includes an example"
    for pattern, home, name in CONFINED:
        if re.match(pattern, header) and not re.match(home, path) and not path.startswith(("tests/", "benchmarks/")):
            yield f"{path} includes {header}: {name} is known only in {home}"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    files = [f for folder in FOLDERS for f in sorted((root / folder).rglob("*")) if f.suffix in (".h", ".cpp")]
    if not files:
        sys.exit(f"{root}: no sources found")
    problems = []
    for file in files:
        path = file.relative_to(root).as_posix()
        for header in INCLUDE.findall(file.read_text(encoding="utf-8")):
            problems.extend(problems_of(path, header))
    for problem in problems:
        print(problem)
    print(f"{len(files)} files, {len(problems)} wrong arrows")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
