"""Work that is done behind the thread that asks for it, in order, a few things late."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class Behind:
    """A thread that does what it is given, one thing after the other. Whoever gives it more than `depth` things waits;
    with a depth of 0 he does them himself.

    What fails is raised where the next thing is given, or where it is waited for; nothing behind it is begun.
    """

    def __init__(self, depth: int) -> None:
        self._depth, self._failed = depth, False
        self._thread = ThreadPoolExecutor(1, "behind")
        self._open: deque[Future[None]] = deque()

    def do(self, task: Callable[..., None], *given: Any) -> None:
        """Do this behind all that was given before."""
        if self._depth == 0:
            task(*given)
            return
        while len(self._open) >= self._depth:
            self._open.popleft().result()
        self._open.append(self._thread.submit(self._next, task, given))

    def wait(self) -> None:
        """Until all is done."""
        while self._open:
            self._open.popleft().result()

    def _next(self, task: Callable[..., None], given: tuple[Any, ...]) -> None:
        if self._failed:
            return
        self._failed = True
        task(*given)
        self._failed = False

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown(cancel_futures=True)
