"""A process that ignores polite requests to end; run by test_drivers."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.write("still here\n")
    sys.stdout.flush()
    while True:
        signal.pause()
