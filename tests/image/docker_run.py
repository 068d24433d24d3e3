"""Stands in for `docker run`, with this machine's Python as the image: keeps the boundaries that a page can trip over.

A container sees the variables of --env-file and no others, a /tmp that is gone when it ends, and of this machine's
folders those that --volume names. Not as Docker: paths are translated where a word of the command names them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.image.dockerfile import ROOT

OPTIONS = ("--tmpfs", "--shm-size", "--name", "--restart", "--stop-timeout", "--publish")
"""What is taken and means nothing here."""
PROGRAMS = {"python": [sys.executable], "headrace": [sys.executable, "-m", "stream.cli"]}
KEPT = ("PATH", "HOME", "LANG")


def main(argv: list[str]) -> int:
    given = parsed(argv)
    own = Path(tempfile.mkdtemp(prefix="container-", dir=Path.cwd().parent))
    folders, closed = {"/tmp": own, "/app": ROOT}, []
    for volume in given.volume:
        source, target, *mode = volume.split(":")
        folders[target] = Path(source)
        closed += [Path(source)] if mode == ["ro"] else []
    places = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, folders))})(?=/)")
    words = [places.sub(lambda match: str(folders[match[1]]), word) for word in given.command]
    env = {name: os.environ[name] for name in KEPT if name in os.environ} | {"PYTHONPATH": str(ROOT)}
    env |= dict(line.split("=", 1) for line in Path(given.env_file).read_text().splitlines())
    program = [*PROGRAMS[given.entrypoint], *(words or ["run"])]
    if given.detach:
        os.chdir(folders[given.workdir])
        os.execve(program[0], program, env)  # noqa: S606 - signals are for the program itself
    before = [sorted(folder.iterdir()) for folder in closed]
    code = subprocess.run(program, cwd=folders[given.workdir], env=env, check=False).returncode
    shutil.rmtree(own)
    if [sorted(folder.iterdir()) for folder in closed] != before:
        sys.stderr.write(f"written into what is mounted read-only: {closed}\n")
        return 125
    return code


def parsed(argv: list[str]) -> argparse.Namespace:
    """Ends the process at an option that it does not know, as Docker does."""
    parser = argparse.ArgumentParser(prog="docker", allow_abbrev=False)
    parser.add_argument("verb", choices=["run"])
    for flag in ("--rm", "--read-only", "--detach"):
        parser.add_argument(flag, action="store_true")
    for option in OPTIONS:
        parser.add_argument(option)
    parser.add_argument("--env-file", required=True)
    parser.add_argument("--volume", action="append", default=[])
    parser.add_argument("--workdir", default="/app")
    parser.add_argument("--entrypoint", default="headrace")
    parser.add_argument("image")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
