"""Builds etcd and the Kubernetes API server from the Go module proxy, once: `python -m tests.servers.kube.build`.

Some minutes and 400 MB. The API server's module cannot be installed as it is: it replaces its staging folders, which
are released as modules of their own, so a module of ours requires those.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

KUBERNETES: Final = "v1.37.2"
STAGING: Final = "v0.37.2"
"""Under which Kubernetes releases its staging folders."""
ETCD: Final = "v3.7.3"
FOLDER: Final = Path(__file__).parents[3] / ".cache" / "kube"

_ETCD_MAIN: Final = """package main

import (
\t"os"

\t"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
"""
_API_SERVER: Final = """package tools

import _ "k8s.io/kubernetes/cmd/kube-apiserver/app"
"""
# What it says of itself; a module that Go builds does not know its own version, and charts ask for one.
_VERSION: Final = " ".join(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in zip(
        ("gitMajor", "gitMinor", "gitVersion"), (*KUBERNETES[1:].split(".")[:2], KUBERNETES), strict=True
    )
)


def missing(folder: Path) -> list[str]:
    """Which of the two are not there."""
    return [name for name in ("etcd", "kube-apiserver") if not (folder / name).is_file()]


def build(folder: Path) -> None:
    """Build what is missing. Raises subprocess.CalledProcessError when a step fails."""
    go = shutil.which("go")
    if go is None:
        raise SystemExit("the API server is built from source: install Go 1.26 or newer")
    folder.mkdir(parents=True, exist_ok=True)
    for name in missing(folder):
        with tempfile.TemporaryDirectory() as work:
            {"etcd": _etcd, "kube-apiserver": _api_server}[name](go, Path(work), folder / name)


def _etcd(go: str, work: Path, program: Path) -> None:
    (work / "go.mod").write_text(f"module etcd\n\ngo 1.26\n\nrequire go.etcd.io/etcd/server/v3 {ETCD}\n")
    (work / "main.go").write_text(_ETCD_MAIN)
    _run(go, "mod", "tidy", at=work)
    _run(go, "build", "-o", str(program), ".", at=work)


def _api_server(go: str, work: Path, program: Path) -> None:
    found = _run(go, "mod", "download", "-json", f"k8s.io/kubernetes@{KUBERNETES}", at=work)
    given = Path(json.loads(found)["GoMod"]).read_text()
    staged = re.findall(r"^\s*(?:replace )?(k8s\.io/\S+) => \./staging", given, re.MULTILINE)
    version = re.search(r"^go \S+$", given, re.MULTILINE)
    lines = ["module apiserver", "", version[0] if version else "go 1.26", ""]
    lines += [f"require k8s.io/kubernetes {KUBERNETES}", ""]
    lines += [f"replace {name} => {name} {STAGING}" for name in staged]
    (work / "go.mod").write_text("\n".join(lines) + "\n")
    (work / "tools.go").write_text(_API_SERVER)
    # -e: tests of other modules name packages that were never released.
    _run(go, "mod", "tidy", "-e", at=work)
    flags = f"-s -w {_VERSION}"
    _run(go, "build", f"-ldflags={flags}", "-o", str(program), "k8s.io/kubernetes/cmd/kube-apiserver", at=work)


def _run(*argv: str, at: Path) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
    done = subprocess.run(argv, cwd=at, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
