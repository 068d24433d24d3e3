"""Executes a Dockerfile without Docker: each stage is an overlay on the one below it, each step a chroot into it.

The image `python:...-slim-bookworm` cannot be had here. In its place stands a Debian of the same release, made by
debootstrap of what that image holds, with Debian's own Python of the same minor version.

Needs root, in a mount namespace of its own (`enter`): nothing that is mounted here is seen outside, or stays.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.image.context import Context
from tests.image.dockerfile import Dockerfile, Stage, Step, filled

SUITE = "bookworm"
# What the official slim image holds beside the base system, Python itself, and awk and passwd, which every Debian has.
PACKAGES = "ca-certificates,netbase,tzdata,python3,python3-venv,python3-pip,python-is-python3,mawk,passwd"
NODES = ("null", "zero", "full", "random", "urandom", "tty")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
"""This machine's, whose way to the package index may have one of its own; only steps see them, not what is built."""
PIP_SETTINGS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
"""How this machine reaches its package index; handed to a step as a builder's proxy settings are."""


class Impossible(Exception):
    """This machine cannot do it; the message says what is missing."""


class StepFailed(Exception):
    """A step of the Dockerfile did not succeed."""


def enter() -> None:
    """Go on in a mount namespace of our own. Raises Impossible."""
    if os.environ.get("HEADRACE_TEST_MOUNTS") == str(os.getppid()):
        return
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        raise Impossible("chroot and mount need root, and unshare of util-linux")
    environment = {**os.environ, "HEADRACE_TEST_MOUNTS": str(os.getpid())}
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.orig_argv[1:]],
        env=environment,
        check=False,
    )
    sys.exit(done.returncode)


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def tmpfs(folder: Path, options: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", options, "tmpfs", str(folder))


def devices(root: Path, shared_memory: str) -> None:
    """A /dev with the few nodes that a container has, and shared memory of the given size."""
    tmpfs(root / "dev", "mode=755,size=64k,nosuid")
    for node in filter(lambda node: Path("/dev", node).exists(), NODES):
        (root / "dev" / node).touch()
        mount("--bind", f"/dev/{node}", str(root / "dev" / node))
    for link, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (root / "dev" / link).symlink_to(target)
    tmpfs(root / "dev" / "shm", f"mode=1777,nosuid,nodev,noexec,size={shared_memory}")


def debian(cache: Path) -> Path:
    """The root of the base image's stand-in, made once. Raises Impossible."""
    root = cache / SUITE
    if not (root / "complete").exists():
        if shutil.which("debootstrap") is None:
            raise Impossible("no debootstrap here: apt-get install debootstrap")
        shutil.rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        argv = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Impossible(f"debootstrap failed: {(done.stdout + done.stderr)[-600:]}")
        # As the slim image: no lists of packages, no downloaded ones.
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
        (root / "complete").touch()  # written last: an interrupted one is never taken for whole
    return root


class Builder:
    """Makes stages of a Dockerfile, each once, in folders under `work`; the context is what .dockerignore leaves."""

    def __init__(self, file: Dockerfile, context: Path, base: Path, work: Path, say: Callable[[str], None]) -> None:
        """`work`: what was built in it before is taken as it is; what a step keeps for others lies beside."""
        self._file, self._context, self._base, self._work, self._say = file, Context(context), base, work, say
        self._made: dict[str, list[Path]] = {}
        self.roots: dict[str, Path] = {}

    def build(self, name: str) -> Path:
        """The root of a stage. Raises StepFailed."""
        if name not in self.roots:
            stage = self._file.stage(name)
            if stage is None:
                raise StepFailed(f"there is no stage {name}")
            below = self._below(stage)
            built = self._work / name / "complete"
            self.roots[name] = self._layer(name, below)
            if not built.exists():
                self._prepare(self.roots[name])
                for step in stage.steps:
                    self._do(stage, step)
                built.touch()
        return self.roots[name]

    def _below(self, stage: Stage) -> list[Path]:
        if self._file.stage(stage.base) is None:
            return [self._base]
        self.build(stage.base)
        return self._made[stage.base]

    def _layer(self, name: str, below: list[Path]) -> Path:
        upper, workdir, merged = (self._work / name / part for part in ("upper", "work", "root"))
        for folder in (upper, workdir, merged):
            folder.mkdir(parents=True, exist_ok=True)
        lower = ":".join(map(str, below))
        mount("-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={workdir}", "overlay", str(merged))
        self._made[name] = [upper, *below]
        return merged

    def _prepare(self, root: Path) -> None:
        mount("--bind", "/proc", str(root / "proc"))
        devices(root, "64m")
        tmpfs(root / "tmp", "mode=1777")
        for name in ("resolv.conf", "hosts"):
            shutil.copyfile(Path("/etc", name), root / "etc" / name)
        if AUTHORITIES.exists():
            mount("--bind", str(AUTHORITIES), str(root / AUTHORITIES.relative_to("/")))

    def _do(self, stage: Stage, step: Step) -> None:
        root, known = self.roots[stage.name], self._file.known(stage.name, step)
        if step.word == "RUN":
            self._run(stage, step, known)
        elif step.word == "COPY":
            self._copy(stage, step, known)
        elif step.word == "WORKDIR":
            (root / filled(step.text, known).lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _place(self, stage: Stage, step: Step) -> str:
        """The working directory at a step."""
        places = [each.text for each in stage.steps[: stage.steps.index(step)] if each.word == "WORKDIR"]
        inherited = [each.text for below in self._file.lineage(stage.base) for each in below.all("WORKDIR")]
        return (places or inherited or ["/"])[-1]

    def _run(self, stage: Stage, step: Step, known: Mapping[str, str]) -> None:
        root, since = self.roots[stage.name], time.monotonic()
        self._say(f"{stage.name}, line {step.line}: RUN {step.text[:90]}")
        mounted = [target for flag in step.flag("mount") if (target := self._mount(root, flag)) is not None]
        place = shlex.quote(self._place(stage, step))
        reach = {name: os.environ[name] for name in PIP_SETTINGS if name in os.environ}
        done = subprocess.run(
            ["chroot", str(root), "/bin/sh", "-c", f"cd {place} && {step.text}"],
            env={**known, **reach, "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            check=False,
        )
        for target in reversed(mounted):
            subprocess.run(["umount", str(target)], check=True)
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-3000:]
            raise StepFailed(f"line {step.line} of the Dockerfile ended with {done.returncode}:\n{said}")
        self._say(f"    {time.monotonic() - since:.1f} s")

    def _mount(self, root: Path, flag: str) -> Path | None:
        """A cache or a secret, where the builder would put it; a secret that nobody gives is not there."""
        given = dict(part.split("=", 1) for part in flag.split(","))
        target = root / given["target"].lstrip("/")
        if given["type"] == "cache":
            source = self._work.with_name("cache") / given["target"].strip("/").replace("/", "-")
            source.mkdir(parents=True, exist_ok=True)
            target.mkdir(parents=True, exist_ok=True)
        elif given["type"] == "secret":
            source = Path("/etc") / given["id"]
            if not source.exists():
                return None
            target.touch()
        else:
            raise StepFailed(f"this builder has no mount of type {given['type']}")
        mount("--bind", str(source), str(target))
        return target

    def _copy(self, stage: Stage, step: Step, known: Mapping[str, str]) -> None:
        self._say(f"{stage.name}, line {step.line}: COPY {step.text[:90]}")
        root, (*sources, target) = self.roots[stage.name], [filled(word, known) for word in step.words]
        place = root / os.path.join(self._place(stage, step), target).lstrip("/")  # noqa: PTH118 - an absolute one wins
        if step.documents:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(step.documents[0])
            place.chmod(int((step.flag("chmod") or ["644"])[0], 8))
            return
        origin = self.build(step.flag("from")[0]) if step.flag("from") else self._context.folder
        for source in sources:
            self._copy_one(origin, source, place, into=target.endswith("/"), ours=not step.flag("from"))

    def _copy_one(self, origin: Path, source: str, place: Path, *, into: bool, ours: bool) -> None:
        found = origin / source.lstrip("/")
        if ours and not self._context.is_sent(source.strip("/")):
            raise StepFailed(f"COPY {source}: .dockerignore keeps it from the builder")
        if found.is_dir():
            shutil.copytree(
                found, place, symlinks=True, dirs_exist_ok=True, ignore=self._context.unsent if ours else None
            )
        elif found.exists():
            target = place / found.name if into else place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(found, target)
        else:
            raise StepFailed(f"COPY {source}: there is no such file")
