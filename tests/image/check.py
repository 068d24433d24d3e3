"""Proves of the image what can be proved without Docker: builds each stage step by step, and starts the result.

    python -m tests.image.check [-k PART-OF-A-NAME] [--again]

Needs root, for chroot and mount, and debootstrap for the stand-in of the base image (roots.py says how they differ).
What was made lies in .cache/image. Ends with 0 when every check passed, with 2 where this machine cannot do it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.image import roots
from tests.image.container import Container
from tests.image.dockerfile import ROOT, Dockerfile
from tests.servers import process

WORK = ROOT / ".cache" / "image"
COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "ld", "as", "make", "cargo", "go", "rustc")
CLICKS = 40_000
"""More than are learned before a check is done with the service."""
USER = 10_001


@dataclass
class Bench:
    """What the checks work on."""

    file: Dockerfile
    builder: roots.Builder
    data: Path
    container: Container
    port: int

    @property
    def store(self) -> dict[str, str]:
        """A local store in the volume, and a port that nobody has."""
        return {"HEADRACE_STORE": "/data/store", "HEADRACE_HTTP_PORT": str(self.port)}

    @contextmanager
    def served(self, log: Path, user: str | None = None, **env: str) -> Iterator[subprocess.Popen[str]]:
        """The service while it learns from a file slowly; killed afterwards if it still runs."""
        command = ["run", "--replay", "/data/clicks.jsonl", "--rate", "300"]
        # Rejects of a replay are written where the command runs.
        running = self.container.start(*command, env={**self.store, **env}, user=user, place="/data", log=log)
        try:
            yield running
        finally:
            running.kill()
            running.wait()

    def learned(self, running: subprocess.Popen[str], log: Path, at_least: int, seconds: float = 120) -> float:
        """Wait until so many clicks are learned; answers the seconds that took."""
        since = time.monotonic()
        while time.monotonic() - since < seconds:
            if running.poll() is not None:
                break
            if metric(self.port, "headrace_learned_events_total") >= at_least:
                return time.monotonic() - since
            time.sleep(0.2)
        raise AssertionError(
            f"{at_least} clicks were not learned (exit code {running.poll()}):\n{log.read_text()[-3000:]}"
        )


def metric(port: int, name: str) -> float:
    """A sample of the service's, 0 while it is not there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def kernels(folder: Path) -> dict[str, str]:
    """Names and hashes of compiled kernels in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def own(folder: Path, uid: int, gid: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, uid, gid)


def last_json(output: str) -> str:
    """The last line that is JSON: others may be the log's."""
    return next(line for line in reversed(output.splitlines()) if line.startswith(("[", "{")))


def own_kernels(bench: Bench) -> None:
    """AssertionError when a kernel was compiled at run time, which takes a minute at each start of a container."""
    built = kernels(bench.builder.roots["service"] / "opt/headrace/kernels")
    now = kernels(bench.container.root / "tmp/headrace-kernels")
    assert now == built, f"compiled at run time: {sorted(dict(now.items() - built.items()))}"


def has_no_compiler(bench: Bench) -> str:
    """Nor pip in the environment that is shipped."""
    root = bench.builder.roots["service"]
    there = [f"{place}/{name}" for place in ("usr/bin", "usr/local/bin", "opt/headrace/bin") for name in COMPILERS]
    found = [path for path in there if (root / path).exists()]
    assert not found, f"compilers in the final stage: {found}"
    assert not list((root / "opt/headrace").glob("lib/python3*/site-packages/pip"))
    return "no compiler, no pip"


def is_small(bench: Bench) -> str:
    """What the image adds to its base; more than this would be something that nobody meant to ship."""
    root, size = bench.builder.roots["service"], 0
    for path in (root / "opt").rglob("*"):
        size += path.lstat().st_size
    assert size < 900 << 20, f"{size >> 20} MiB in /opt"
    return f"{size >> 20} MiB in /opt"


def has_compiled_kernels(bench: Bench) -> str:
    found = kernels(bench.builder.roots["service"] / "opt/headrace/kernels")
    assert sum(name.endswith(".nbc") for name in found) > 20, sorted(found)
    return f"{len(found)} files"


def cannot_be_written(bench: Bench) -> str:
    done = bench.container.run("sh", "-c", "id; touch /app/x; touch /opt/headrace/x; touch /tmp/x", entrypoint=[])
    assert f"uid={USER}(headrace) gid={USER}(headrace)" in done.output, done.output
    assert done.output.count("Read-only file system") == 2, done.output
    assert done.code == 0, done.output
    return "root read-only, /tmp writable, uid 10001 has a name"


def answers_help(bench: Bench) -> str:
    done = bench.container.run("--help")
    assert done.code == 0, done.output
    assert "Usage" in done.output
    return f"{done.seconds:.1f} s"


def doctor_names_the_broker(bench: Bench) -> str:
    """Nothing listens there: one line says so, with what to set; the other checks go on."""
    env = {**bench.store, "HEADRACE_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    done = bench.container.run("doctor", "--json", env=env)
    found = {check["name"]: check for check in json.loads(last_json(done.output))}
    assert done.code == 1, done.output
    assert found["kafka"]["state"] == "fail", done.output
    assert "127.0.0.1:1" in found["kafka"]["detail"]
    assert "HEADRACE_KAFKA_BOOTSTRAP" in found["kafka"]["remedy"]
    others = {name: check for name, check in found.items() if name != "kafka"}
    assert {check["state"] for check in others.values()} <= {"ok", "warn"}, done.output
    return f"{done.seconds:.1f} s; " + ", ".join(f"{name} {check['state']}" for name, check in found.items())


def run_names_the_broker(bench: Bench) -> str:
    env = {**bench.store, "HEADRACE_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    done = bench.container.run("run", env=env)
    assert done.code == 5, done.output
    assert "no Kafka broker answered at 127.0.0.1:1" in done.output
    assert "HEADRACE_KAFKA_BOOTSTRAP" in done.output
    assert "Traceback" not in done.output
    return f"exit code 5 after {done.seconds:.1f} s: {done.output.splitlines()[-1][:140]}"


def names_a_missing_secret(bench: Bench) -> str:
    done = bench.container.run("run", env={"MINIO_ACCESS_KEY": "somebody", "MINIO_ENDPOINT": "127.0.0.1:1"})
    assert done.code == 2, done.output
    assert "HEADRACE_STORE_SECRET_KEY" in done.output
    return f"exit code 2 after {done.seconds:.1f} s: {done.output.splitlines()[-1][:140]}"


def names_what_must_be_writable(bench: Bench) -> str:
    """Read-only, and nobody gave it a /tmp."""
    place = bench.data.parent / "closed"
    closed = Container(
        bench.file, "service", bench.builder.roots["service"], place, {"/data": bench.data}, writable=False
    )
    done = closed.run("run", "--replay", "/data/clicks.jsonl", env=bench.store)
    assert done.code == 2, done.output
    assert "NUMBA_CACHE_DIR" in done.output, done.output
    assert "--tmpfs /tmp" in done.output, done.output
    return f"exit code 2 after {done.seconds:.1f} s: {done.output.splitlines()[-1][:140]}"


def learns_read_only(bench: Bench) -> str:
    """It learns, is found healthy, and ends by SIGTERM in good order; no kernel was compiled."""
    log = bench.data.parent / "service.log"
    with bench.served(log) as running:
        seconds = bench.learned(running, log, 500)
        healthy = bench.container.run(*json.loads(bench.container.health), entrypoint=[], env=bench.store)
        assert healthy.code == 0, healthy.output
        assert bench.container.stop(running) == 0, log.read_text()[-3000:]
    ill = bench.container.run(*json.loads(bench.container.health), entrypoint=[], env=bench.store)
    assert ill.code == 1, ill.output
    assert "nobody answers" in ill.output
    own_kernels(bench)
    return f"500 clicks learned {seconds:.1f} s after the start; healthy, then ended with 0, then not healthy"


def can_be_verified(bench: Bench) -> str:
    done = bench.container.run("verify", env=bench.store)
    assert done.code == 0, done.output
    return done.output.splitlines()[-1]


def goes_on_as_another_user(bench: Bench) -> str:
    """As OpenShift runs it: a uid that nobody has heard of, in the group root. The lineage goes on where it stopped."""
    own(bench.data, 54_321, 0)
    bench.container.forget()
    log = bench.data.parent / "another.log"
    with bench.served(log, user="54321:0") as running:
        bench.learned(running, log, 500)
        assert bench.container.stop(running) == 0, log.read_text()[-3000:]
    return "uid 54321"


def trains_as_ever(bench: Bench) -> str:
    """The batch contract's program in its old place."""
    folder = bench.data / "batch/data"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clickstream.json").write_text("\n".join((bench.data / "clicks.jsonl").read_text().splitlines()[:4000]))
    own(bench.data, USER, USER)
    bench.container.forget()
    env = {"HEADRACE_MODEL_EPOCHS": "2"}
    program = ["python", "/app/train_prio_aware_recommendation_model.py", "--store", "/data/batch"]
    done = bench.container.run(*program, entrypoint=[], env=env)
    assert done.code == 0, done.output
    assert (bench.data / "batch/models/prio_aware_recommendation_model.pkl").stat().st_size > 1000
    own_kernels(bench)
    return f"{done.seconds:.1f} s"


def has_purchases(bench: Bench) -> str:
    """The demo's image: the whole year, where docker-compose.yml's producer looks for it."""
    root = bench.builder.build("demo")
    place = bench.data.parent / "demo"
    demo = Container(bench.file, "demo", root, place, {})
    count = "import pyarrow.parquet as p; print(p.read_metadata('/usr/share/headrace/purchases.parquet').num_rows)"
    done = demo.run("python", "-c", count, entrypoint=[])
    assert done.output.strip() == "1469307", done.output
    return f"{done.output.strip()} purchases"


CHECKS: list[Callable[[Bench], str]] = [
    has_no_compiler,
    is_small,
    has_compiled_kernels,
    cannot_be_written,
    answers_help,
    names_a_missing_secret,
    names_what_must_be_writable,
    doctor_names_the_broker,
    run_names_the_broker,
    learns_read_only,
    can_be_verified,
    goes_on_as_another_user,
    trains_as_ever,
    has_purchases,
]


def prepared(options: argparse.Namespace) -> Bench:
    """Builds the service. Raises what roots.py raises."""
    work, stages = WORK / "run", WORK / "stages"
    for folder in (work, *([] if options.again else [stages])):
        shutil.rmtree(folder, ignore_errors=True)
    data = work / "data"
    data.mkdir(parents=True)
    lines = [
        json.dumps({"user_id": f"u{k % 97}", "product_id": f"p{k * k % 211}", "timestamp": 1_700_000_000 + k})
        for k in range(CLICKS)
    ]
    (data / "clicks.jsonl").write_text("\n".join(lines))
    own(data, USER, USER)
    file = Dockerfile.ours()
    builder = roots.Builder(file, ROOT, roots.debian(WORK), stages, say)
    root = builder.build("service")
    container = Container(file, "service", root, work / "container", {"/data": data})
    (port,) = process.free_ports(1)
    return Bench(file, builder, data, container, port)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-k", default="", help="only checks whose name contains this")
    parser.add_argument("--again", action="store_true", help="start what was built last time, build nothing")
    options = parser.parse_args()
    try:
        roots.enter()
        bench = prepared(options)
    except roots.Impossible as reason:
        say(f"The image cannot be checked on this machine: {reason}")
        return 2
    except roots.StepFailed as reason:
        say(f"FAIL  the image cannot be built: {reason}")
        return 1
    failed = 0
    for check in CHECKS:
        if options.k in check.__name__:
            try:
                say(f"ok    {check.__name__}: {check(bench)}")
            except Exception as reason:  # noqa: BLE001 - whatever it is, the check has failed, and the others go on
                failed += 1
                say(f"FAIL  {check.__name__}: {type(reason).__name__} {reason}")
    say(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
