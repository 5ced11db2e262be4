"""Runs the command line as `python -m vdd_ros`."""

from vdd_ros.cli.main import main

if __name__ == "__main__":
    main()
