#!/usr/bin/env python3
"""Runs every command and compiles every program that the documentation shows.

    snippets_test.py SOURCE_DIR BUILD_DIR CXX LIBTORCH

Shell blocks run in order in a folder that looks like a built clone. C++ blocks are built: one that registers a module,
a callback or a communication hook is a plug-in and trains on the digits, one that calls cli() becomes a program together with it, and any other main()
runs. YAML blocks are resolved by `fit --print_config`.
"""

import json
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# tests/package/package_test.sh runs these commands with an installation of its own.
RUN_ELSEWHERE = ("cmake --install",)


class Failure(Exception):
    pass


def run(command, folder, shell=False):
    result = subprocess.run(command, cwd=folder, shell=shell, text=True, capture_output=True, timeout=600)
    if result.returncode != 0:
        raise Failure(f"exit code {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}")
    return result.stdout


def compile_command_of(build, file):
    """How this build compiles a plug-in, with its precompiled header, which saves most of the time."""
    for entry in json.loads((build / "compile_commands.json").read_text()):
        if entry["file"].endswith(file):
            words = shlex.split(entry["command"])
            ends_with_a_value = ("-o", "-c", "-MT", "-MF")
            return [word for i, word in enumerate(words)
                    if word not in ends_with_a_value and word != "-MD" and words[i - 1] not in ends_with_a_value]
    raise Failure(f"{build}/compile_commands.json has no {file}")


class Clone:
    """A folder with a clone's data and built programs, whose runs/ is its own."""

    def __init__(self, source, build, compiler, libtorch, folder):
        self.build, self.compiler, self.libtorch, self.folder = build, compiler, libtorch, folder
        self.source = source
        for name in ("configs", "data", "examples"):
            (folder / name).symlink_to(source / name)
        (folder / "build").symlink_to(build)
        (folder / "tools").mkdir()
        # The set-up was done by what built this tree; that it is there is all that can be checked here.
        (folder / "tools/setup.sh").write_text(f'#!/bin/sh\ntest -x "{source}/tools/setup.sh"\n')
        (folder / "tools/setup.sh").chmod(0o755)
        self.plugin_source = None
        self.compile_command = compile_command_of(build, "examples/digits/digits_mlp.cpp")

    def compile(self, sources, output, shared=False):
        objects = []
        for source in sources:
            objects.append(source.with_suffix(".o"))
            run([*self.compile_command, "-c", str(source), "-o", str(objects[-1])], self.build)
        libraries = [f"{self.build}/lib", f"{self.libtorch}/lib"]
        run(
            [self.compiler, *(["-shared"] if shared else []), *map(str, objects), *[f"-L{l}" for l in libraries],
             "-ltrainer", "-ltorch_cpu", "-lc10", "-Wl,--allow-shlib-undefined",
             *[f"-Wl,-rpath,{l}" for l in libraries], "-o", str(output)], self.folder)

    def sh(self, text):
        if not any(marker in text for marker in RUN_ELSEWHERE):
            run(["bash", "-euo", "pipefail", "-c", text], self.folder)

    def yaml(self, text):
        (self.folder / "snippet.yaml").write_text(text)
        run(["build/bin/trainer", "fit", "--config", "snippet.yaml", "--print_config"], self.folder)

    def cpp(self, text):
        source = self.folder / "snippet.cpp"
        source.write_text(text)
        if "TRAINER_REGISTER_MODULE" in text:
            module = re.search(r"TRAINER_REGISTER_MODULE\((\w+)\)", text).group(1)
            self.plugin_source = self.folder / "module.cpp"
            self.plugin_source.write_text(text)
            self.compile([source], self.folder / "libsnippet.so", shared=True)
            run(["build/bin/trainer", "fit", "--plugin", "./libsnippet.so", "--config", "configs/digits.yaml",
                 f"--model={module}", "--trainer.max_epochs=1", "--trainer.callbacks=[]"], self.folder)
        elif "TRAINER_REGISTER_CALLBACK" in text:
            callback = re.search(r"TRAINER_REGISTER_CALLBACK\((\w+)\)", text).group(1)
            self.compile([source], self.folder / "libsnippet.so", shared=True)
            run(["build/bin/trainer", "fit", "--plugin", "./libsnippet.so", "--config", "configs/digits.yaml",
                 "--trainer.max_epochs=1", f"--trainer.callbacks=[{callback}]"], self.folder)
        elif "TRAINER_REGISTER_CLASS" in text:  # a communication hook
            hook = re.search(r"TRAINER_REGISTER_CLASS\((\w+)\)", text).group(1)
            self.compile([source], self.folder / "libsnippet.so", shared=True)
            run(["build/bin/trainer", "fit", "--plugin", "./libsnippet.so", "--config", "configs/digits.yaml",
                 "--trainer.max_epochs=1", "--trainer.callbacks=[]", "--trainer.devices=2",
                 "--trainer.strategy.class_path=DDP", f"--trainer.strategy.init_args.comm_hook={hook}"], self.folder)
        elif "trainer::cli(" in text:
            self.compile([source, self.plugin_source], self.folder / "snippet")
            if "Perceptron" not in run(["./snippet", "list"], self.folder):
                raise Failure("the program does not list its own module")
        else:
            self.compile([source], self.folder / "snippet")
            run(["./snippet"], self.folder)


def main():
    source, build, compiler, libtorch = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    pages = [source / "README.md", source / "CONTRIBUTING.md", *sorted((source / "docs").rglob("*.md")),
             *sorted((source / "examples").rglob("README.md"))]
    done, failed = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        clone = Clone(source, build, compiler, libtorch, pathlib.Path(folder))
        for page in pages:
            text = page.read_text(encoding="utf-8")
            for match in BLOCK.finditer(text):
                language, block = match.groups()
                action = getattr(clone, language, None) if language in ("sh", "yaml", "cpp") else None
                if action is None:
                    continue
                done += 1
                line = text.count("\n", 0, match.start()) + 1
                try:
                    action(block)
                except (Failure, subprocess.TimeoutExpired) as error:
                    failed += 1
                    print(f"{page.relative_to(source)}:{line}: {language} block: {error}")
    print(f"{done} snippets, {failed} failed")
    sys.exit(1 if failed or done < 10 else 0)


if __name__ == "__main__":
    main()
