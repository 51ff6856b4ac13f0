"""What commands share: where they print, and a bar for what takes longer than two seconds."""

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

PATIENCE_S = 2.0
WIDE = 200


def console() -> "Console":
    """Standard output; where it is no terminal, as wide as $COLUMNS says, or 200."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(soft_wrap=True)
    asked = os.environ.get("COLUMNS", "")
    return Console(width=int(asked) if asked.isdecimal() and int(asked) >= 40 else WIDE, soft_wrap=True)


def printable(text: str) -> str:
    """A text from a file, with what would steer a terminal written out."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


class Bar:
    """A progress bar on stderr, once two seconds have passed, and only on a terminal; quiet: not at all."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._began = time.monotonic()
        self._wanted = sys.stderr.isatty() and not quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = ""

    def update(self, done: int, total: int, text: str) -> None:
        """So much is done. total 0: nothing yet, and the text says what it waits for, which is told on any stderr."""
        if total == 0 and not self._wanted:
            if text != self._said:
                print(f"moelab: {text}", file=sys.stderr, flush=True)
                self._said = text
            return
        if self._bar is None:
            if not self._wanted or time.monotonic() - self._began < PATIENCE_S:
                return
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(text, total=total or None)
            self._bar.start()
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total or None, description=text)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
