"""What an upgrade must leave as it is, version by version: `python -m tests.chart.identity` writes the present one's.

Kubernetes refuses a StatefulSet whose selector, claims or serviceName change, and another name is another object: what
hung on the old one is lost. The file of a version that was released is never changed; a new version gets its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import yaml

from tests.chart.chart import CHART, EXAMPLES, Manifest, is_hook, rendered

FOLDER: Final = Path(__file__).with_name("identities")
FIXED: Final = {
    "StatefulSet": ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"),
    "Service": ("selector", "clusterIP"),
    "PodDisruptionBudget": ("selector",),
    "NetworkPolicy": ("podSelector",),
    "ServiceMonitor": ("selector",),
}


def version() -> str:
    return str(yaml.safe_load((CHART / "Chart.yaml").read_text())["version"])


def identity(manifest: Manifest) -> dict[str, Any]:
    """The parts of an object that other things hang on."""
    spec = manifest.get("spec", {})
    return {name: spec[name] for name in FIXED.get(manifest["kind"], ()) if name in spec}


def identities(name: str) -> dict[str, Any]:
    """Of everything that an example makes and that stays, by kind and name."""
    stays = [each for each in rendered(name) if not is_hook(each)]
    return {f"{each['kind']}/{each['metadata']['name']}": identity(each) for each in stays}


def main() -> None:
    """Write the present version's file."""
    FOLDER.mkdir(exist_ok=True)
    whole = {name: identities(name) for name in EXAMPLES}
    (FOLDER / f"{version()}.json").write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
