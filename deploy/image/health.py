"""Whether the container is well, for HEALTHCHECK: one that serves must answer /health, any other just runs.

MOELAB_HEALTH_URL says where (default: the port that `moelab serve` takes). Over https the certificate is not looked at:
the question goes to this container itself.
"""

import os
import ssl
import sys
import urllib.request
from pathlib import Path

DEFAULT = "http://127.0.0.1:8000/health"


def main() -> int:
    """0 where well, 1 where not."""
    command = Path("/proc/1/cmdline").read_bytes().split(b"\0")
    url = os.environ.get("MOELAB_HEALTH_URL")
    if url is None and b"serve" not in command:
        return 0
    context = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(url or DEFAULT, timeout=4.0, context=context) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:
        print(f"{url or DEFAULT}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
