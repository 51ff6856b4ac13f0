"""Work beside the thread that decides: what comes next is asked for ahead of it, what is decided is done behind it."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import Event
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Behind:
    """A thread that does what it is given, one thing after the other. Whoever gives it more than `depth` things waits;
    with a depth of 0 he does them himself.

    What fails is raised where the next thing is given, where it is waited for and where the thread is left; nothing
    behind it is begun.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._thread = ThreadPoolExecutor(1, "behind")
        self._open: deque[Future[None]] = deque()
        self._error: BaseException | None = None

    def do(self, task: Callable[..., None], *given: Any) -> None:
        """Do this behind all that was given before."""
        if self._depth == 0:
            self._next(task, given)
        while len(self._open) >= self._depth > 0:
            self._open.popleft().result()
        if self._error is not None:
            raise self._error
        if self._depth > 0:
            self._open.append(self._thread.submit(self._next, task, given))

    def wait(self) -> None:
        """Until all is done."""
        while self._open:
            self._open.popleft().result()
        if self._error is not None:
            raise self._error

    def _next(self, task: Callable[..., None], given: tuple[Any, ...]) -> None:
        if self._error is None:
            try:
                task(*given)
            except BaseException as error:  # noqa: BLE001 (it is raised on the thread that asked)
                self._error = error

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown(cancel_futures=True)
        # What failed behind comes first: whoever waited for it may have met something else since.
        if self._error is not None and isinstance(error, Exception) and error is not self._error:
            raise self._error from error


class Ahead(Generic[T]):
    """Asks for the next thing while the last one is worked on; None is the last. What fails is raised by `take`.

    ask: it may call `until_handed_on`, to know what became of the last one. With `one_thread` it is asked in `take`.
    """

    def __init__(self, ask: Callable[[], T | None], *, one_thread: bool = False) -> None:
        self._ask, self._handed_on, self._closed = ask, Event(), False
        self._thread = None if one_thread else ThreadPoolExecutor(1, "ahead")
        self._handed_on.set()
        self._next: Future[T | None] | None = None

    def take(self) -> T | None:
        """The next thing; the one behind it is asked for at once."""
        if self._thread is None:
            return self._ask()
        found = self._ask() if self._next is None else self._next.result()
        if found is not None:
            self._handed_on.clear()
            self._next = self._thread.submit(self._ask)
        return found

    def hand_on(self) -> None:
        """The last thing that was taken is worked on no more."""
        self._handed_on.set()

    def until_handed_on(self) -> None:
        """Wait for that; raises CancelledError where nobody works on it any more."""
        if self._thread is not None:
            self._handed_on.wait()
        if self._closed:
            raise CancelledError

    def __enter__(self) -> "Ahead[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed = True
        self._handed_on.set()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
