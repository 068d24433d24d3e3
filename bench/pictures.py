"""The picture of `make demo` in docs/pictures.md: plays it, and draws what its live table shows in the end.

    python -m bench.pictures docs/demo.svg [--events N]

A whole year takes two minutes.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME

from stream.demo.play import Plan, play
from stream.demo.show import Tally, table

COLUMNS = 76
LOCAL = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""Without the fonts that it would have a browser fetch from elsewhere."""


def main() -> None:
    """Play, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--events", type=int, default=None, help="stop after this many")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        plan = Plan(asked.events, 0, None, Path(folder) / "demo")
        result = play(plan, Console(file=sys.stderr), lambda tally: draw(tally, asked.picture))
    if not result["identical_after_kill"]:
        raise SystemExit("the model that was killed is not the one that was not: see above")


def draw(tally: Tally, picture: Path) -> None:
    """The live table as an SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(table(tally))
    picture.write_text(console.export_svg(title="make demo", theme=SVG_EXPORT_THEME, code_format=LOCAL))


if __name__ == "__main__":
    main()
