"""Runs the command line as `python -m vdd_ros`."""

import sys

from vdd_ros.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
