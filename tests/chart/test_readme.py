"""The chart's README says what its values are, and every value is said."""

from __future__ import annotations

import re

import yaml

from helm import readme
from tests.chart.chart import CHART, EXAMPLES

VALUES = (CHART / "values.yaml").read_text(encoding="utf-8")


def test_committed_is_what_the_values_make() -> None:
    """After a change of values.yaml or README.head.md: `python -m helm.readme`."""
    assert readme.FILE.read_text(encoding="utf-8") == readme.readme()


def test_every_value_is_described() -> None:
    """Each leaf of values.yaml has a comment, or belongs to a value that has one; each comment ends its sentence."""
    described = list(readme.described(VALUES))
    paths = {value.path for value in described}
    # A group of described values does not describe what else is in it.
    whole = {path for path in paths if not any(other.startswith(f"{path}.") for other in paths)}
    covered = [
        leaf
        for leaf in readme.leaves(yaml.safe_load(VALUES))
        if not any(f"{leaf}.".startswith(f"{path}.") for path in whole)
    ]

    assert covered == []
    assert [value.path for value in described if not re.search(r"[.`]\)?$|\.\*\*$", value.text)] == []


def test_a_table_row_is_read_from_its_comment() -> None:
    """A comment of several lines, nested keys, and a comment that is not about a value."""
    text = "# A heading.\n\n# -- The first\n# line and the second.\na:\n  # -- Inner.\n  b: 1\n  c: 2\n"
    text += "# -- Flow.\nd: {e: []}\n"

    assert [(value.path, value.text, value.default) for value in readme.described(text)] == [
        ("a", "The first line and the second.", {"b": 1, "c": 2}),
        ("a.b", "Inner.", 1),
        ("d", "Flow.", {"e": []}),
    ]
    assert list(readme.leaves(yaml.safe_load(text))) == ["a.b", "a.c", "d.e"]
    assert readme.table(text).splitlines()[2:] == [
        "| `a` | | The first line and the second. |",
        "| `a.b` | `1` | Inner. |",
        '| `d` | `{"e": []}` | Flow. |',
    ]


def test_examples_are_tried() -> None:
    """What a user may start from is what the tests of rendering start from."""
    assert set(EXAMPLES) == {"directory", "embedded", "external-ray", "kuberay", "mutual-tls", "shards", "strimzi"}
