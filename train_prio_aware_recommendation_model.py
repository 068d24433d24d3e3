"""The batch contract's program, under its old name: the same as `headrace train`, flags, environment and exit codes."""

import sys

from stream.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
