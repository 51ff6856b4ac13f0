"""The console script: Ctrl-C is one line already while commands are imported, about a second."""

import sys

INTERRUPTED = 130


def main() -> None:
    """`cluster.main.main`, and what it says where it is interrupted before it is there."""
    try:
        from cluster.main import main as run
    except KeyboardInterrupt:
        print("moelab: interrupted", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)
    run()
