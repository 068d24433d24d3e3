"""A real Prometheus that scrapes what it is told each second."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers import process


class Prometheus:
    """One that runs at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an instant query gives. Raises ValueError with Prometheus's own words when it is refused."""
        try:
            found: list[dict[str, Any]] = self._get(f"query?{urllib.parse.urlencode({'query': expression})}")["result"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{expression}: {error.read().decode()}") from error
        return found

    def marks(self, expression: str, start: float, step: int) -> list[float]:
        """When, from `start` until now, a range query gives a sample, as Grafana asks for annotations."""
        asked = {"query": expression, "start": start, "end": time.time(), "step": step}
        found = self._get(f"query_range?{urllib.parse.urlencode(asked)}")["result"]
        return sorted(at for series in found for at, _ in series["values"])

    def rules(self) -> list[dict[str, Any]]:
        """Every rule loaded, with its health."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}", timeout=10) as reply:
            return dict(json.load(reply)["data"])


def plain(target: str) -> dict[str, Any]:
    """A scrape of one service (host:port) as job `headrace`."""
    return {"job_name": "headrace", "static_configs": [{"targets": [target]}]}


@contextmanager
def prometheus(folder: Path, scrapes: Sequence[Mapping[str, Any]], rules: Path) -> Iterator[Prometheus]:
    """With these `scrape_configs` and these rules. Skips the test where none is installed."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is absent: apt-get install -y --no-install-recommends prometheus")
    (port,) = process.free_ports(1)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": list(scrapes),
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    log = folder / "prometheus.log"
    argv = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    running = process.start(argv, log)
    url = f"http://127.0.0.1:{port}"
    try:
        process.wait_until(lambda: _answers(f"{url}/-/ready"), running, log)
        yield Prometheus(url)
    finally:
        running.kill()
        running.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
