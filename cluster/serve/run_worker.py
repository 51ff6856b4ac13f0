"""The process that carries out one run for a front door: a request on standard input, lines of JSON on standard output.

Lines: {"progress": [done, total, text]}, then for each policy its result in pieces, {"result": [policy, digest, piece,
last]}, or in place of them {"error": [exit code, sentence]}. It ends at once when standard input closes.
"""

import json
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from emulation.errors import MoelabError

if TYPE_CHECKING:
    from cluster.observe.result import Result

PIECE = 256 << 10
"""Characters of a piece of a result."""
PROGRESS_S = 0.1
INTERNAL = 70
TOO_LARGE = 3
SPARE_BYTES = 32 << 20
"""How far below its limit of memory a run is ended: an interpreter that has none left cannot tell so any more."""
LOOK_S = 0.02


class Lines:
    """Progress and results, a line each, on what was standard output; whatever else prints goes to standard error."""

    def __init__(self) -> None:
        self._file, self._one = os.fdopen(os.dup(1), "w", encoding="utf-8"), threading.Lock()
        os.dup2(2, 1)
        self._next_s = 0.0

    def say(self, kind: str, data: list[Any]) -> None:
        """Write one line."""
        with self._one:
            self._file.write(json.dumps({kind: data}) + "\n")
            self._file.flush()

    def update(self, done: int, total: int, text: str) -> None:
        """So much is done; said ten times a second at most."""
        if time.monotonic() >= self._next_s or done == total:
            self._next_s = time.monotonic() + PROGRESS_S
            self.say("progress", [done, total, text])


def main() -> None:
    """Read the request, carry it out, tell how it went."""
    lines = Lines()
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (request["memory_bytes"],) * 2)
    threading.Thread(target=_end_before_its_limit, args=(request["memory_bytes"], lines), daemon=True).start()
    try:
        for policy, result in _carry_out(request, lines).items():
            for piece, last in _pieces(shared_json(result)):
                lines.say("result", [policy, result.digest, piece, last])
    except MemoryError:
        lines.say("error", [TOO_LARGE, _too_large(request["memory_bytes"])])
    except MoelabError as error:
        lines.say("error", [error.exit_code, str(error)])
    except Exception as error:  # noqa: BLE001 (told as ours, with its traceback in the server's log)
        traceback.print_exc()
        lines.say("error", [INTERNAL, f"this is a fault of moelab's, not of your config: {type(error).__name__}"])


def _carry_out(request: dict[str, Any], lines: Lines) -> "dict[str, Result]":
    from cluster import run as running
    from cluster.serve.offered import undumped

    config = undumped(request)
    if request["compare"]:
        return running.compare(config, lines)
    return {config.policy.name: running.run(config, lines)}


def shared_json(result: "Result") -> str:
    """The text of a result without its host's part, which is not for others."""
    data = {**result.model_dump(mode="json", exclude={"host"}), "digest": result.digest}
    return json.dumps(data, sort_keys=True, allow_nan=False)


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    for at in range(0, len(text), PIECE):
        yield text[at:at + PIECE], at + PIECE >= len(text)


def _end_with_parent() -> None:
    """Nobody listens any more when standard input closes."""
    sys.stdin.buffer.read()
    os._exit(1)


def _too_large(limit_bytes: int) -> str:
    return f"the run needs more than the {limit_bytes} bytes of memory that a run over the network may have"


def _end_before_its_limit(limit_bytes: int, lines: Lines) -> None:
    """End the process, and say why, when little is left; where the kernel does not tell, MemoryError alone does."""
    sentence, page_bytes = [TOO_LARGE, _too_large(limit_bytes)], resource.getpagesize()
    with suppress(OSError), open("/proc/self/statm", "rb", buffering=0) as told:
        while int(told.read(256).split()[5]) * page_bytes < limit_bytes - SPARE_BYTES:
            time.sleep(LOOK_S)
            told.seek(0)
        lines.say("error", sentence)
        os._exit(TOO_LARGE)


if __name__ == "__main__":
    main()
