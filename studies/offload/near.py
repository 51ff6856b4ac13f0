"""The near memory of the engine: slots that hold an expert, and how an expert comes into one."""

import sys
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

import torch
from torch import Tensor

PIECE_BYTES = 1 << 20
"""A paced copy moves so much and then waits for its time."""

SWITCH_S = 1e-4
"""How long a thread may keep the interpreter while others want it, where copies need a thread of it themselves."""


class Slot:
    """Room for one expert: a flat buffer and two instants, when it was filled and when it was last used."""

    __slots__ = ("coming", "filled", "flat", "used", "was_used")

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat
        self.coming = False
        self.was_used = False
        self.filled: torch.cuda.Event | threading.Event
        self.used: torch.cuda.Event


class Near(Protocol):
    """Where experts are computed, and what brings them there."""

    device: torch.device

    @abstractmethod
    def slots(self, count: int, elements: int, dtype: torch.dtype) -> list[Slot]:
        """So many empty slots."""

    @abstractmethod
    def fetch(self, slot: Slot, source: Tensor) -> None:
        """Start a copy into the slot, once its last use has ended; returns at once."""

    @abstractmethod
    def take(self, slot: Slot) -> None:
        """What is computed next needs the slot's expert."""

    @abstractmethod
    def used(self, slot: Slot) -> None:
        """What was issued last was the slot's last use so far."""

    @abstractmethod
    def finish(self) -> None:
        """Return when all that was issued has ended."""

    @abstractmethod
    def to_host(self, x: Tensor) -> Tensor:
        """Activations on the host, there when it returns."""

    @abstractmethod
    def close(self) -> None:
        """Stop what runs beside."""


class CudaNear(Near):
    """A GPU: one compute stream, one copy stream, real copies out of pinned memory."""

    def __init__(self) -> None:
        self.device = torch.device("cuda")
        self.compute = torch.cuda.current_stream()
        self.copies = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._staging: dict[tuple[int, ...], Tensor] = {}

    def slots(self, count: int, elements: int, dtype: torch.dtype) -> list[Slot]:
        """Buffers on the GPU, their events made once."""
        slots = [Slot(torch.empty(elements, dtype=dtype, device=self.device)) for _ in range(count)]
        for slot in slots:
            slot.filled, slot.used = (torch.cuda.Event() for _ in range(2))  # type: ignore[no-untyped-call]
        return slots

    def fetch(self, slot: Slot, source: Tensor) -> None:
        """One cudaMemcpyAsync in the copy stream."""
        with torch.cuda.stream(self.copies):
            if slot.was_used:
                self.copies.wait_event(slot.used)
            slot.flat.copy_(source, non_blocking=True)
            slot.filled.record(self.copies)  # type: ignore[union-attr]
        slot.coming = True

    def take(self, slot: Slot) -> None:
        """The compute stream waits for the copy's event."""
        if slot.coming:
            self.compute.wait_event(slot.filled)  # type: ignore[arg-type]
            slot.coming = False

    def used(self, slot: Slot) -> None:
        """An event in the compute stream."""
        slot.used.record(self.compute)
        slot.was_used = True

    def finish(self) -> None:
        """A device synchronisation."""
        torch.cuda.synchronize()

    def to_host(self, x: Tensor) -> Tensor:
        """Copied into pinned memory, with a synchronisation of the compute stream."""
        room = self._staging.get(tuple(x.shape))
        if room is None:
            room = self._staging[tuple(x.shape)] = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        room.copy_(x, non_blocking=True)
        self.compute.synchronize()
        return room

    def close(self) -> None:
        """Nothing runs beside."""


class PacedNear(Near):
    """A CPU as its own near memory: copies are real and held to a bandwidth, by a thread that mostly sleeps."""

    def __init__(self, bytes_per_s: float) -> None:
        self.device = torch.device("cpu")
        self.bytes_per_s = bytes_per_s
        self._queue: SimpleQueue[tuple[float, Slot, Tensor] | None] = SimpleQueue()
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        self._thread = threading.Thread(target=self._copy, name="copies", daemon=True)
        self._thread.start()

    def slots(self, count: int, elements: int, dtype: torch.dtype) -> list[Slot]:
        """Buffers in this process."""
        slots = [Slot(torch.zeros(elements, dtype=dtype)) for _ in range(count)]
        for slot in slots:
            slot.filled = threading.Event()
        return slots

    def fetch(self, slot: Slot, source: Tensor) -> None:
        """Queue a paced copy. Computing is synchronous here, so the slot's last use has ended."""
        slot.filled.clear()  # type: ignore[union-attr]
        slot.coming = True
        self._queue.put((time.perf_counter(), slot, source))

    def take(self, slot: Slot) -> None:
        """Wait until the copy has ended."""
        if slot.coming:
            slot.filled.wait()
            slot.coming = False

    def used(self, slot: Slot) -> None:
        """Computing has ended when it returns."""
        slot.was_used = True

    def finish(self) -> None:
        """What was computed has ended; copies that nobody waited for may run on."""

    def to_host(self, x: Tensor) -> Tensor:
        """A copy, since the original may change."""
        return x.clone()

    def close(self) -> None:
        """End the copying thread."""
        self._queue.put(None)
        self._thread.join()
        sys.setswitchinterval(self._switch_s)

    def _copy(self) -> None:
        ended = 0.0
        while (item := self._queue.get()) is not None:
            asked, slot, source = item
            begin, step = max(asked, ended), max(1, PIECE_BYTES // source.element_size())
            for lo in range(0, source.numel(), step):
                slot.flat[lo:lo + step].copy_(source[lo:lo + step])
                due = begin + min(lo + step, source.numel()) * source.element_size() / self.bytes_per_s
                if (left := due - time.perf_counter()) > 0:
                    time.sleep(left)
            ended = time.perf_counter()
            slot.filled.set()  # type: ignore[union-attr]


class Worker:
    """A thread of its own that runs jobs one after another: experts on the host CPU."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="experts", daemon=True)
        self._thread.start()

    def start(self, run: Callable[[], Tensor]) -> "Job":
        """Queue what shall run."""
        job = Job(run)
        self._queue.put(job)
        return job

    def close(self) -> None:
        """End the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        with torch.inference_mode():
            while (job := self._queue.get()) is not None:
                job.run_now()


class Job:
    """Something that a worker runs, and its result."""

    def __init__(self, run: Callable[[], Tensor]) -> None:
        self._run = run
        self._done = threading.Event()
        self._result: Tensor | BaseException

    def run_now(self) -> None:
        """Run, and keep the result or the error."""
        try:
            self._result = self._run()
        except BaseException as error:  # noqa: BLE001 (told where the result is asked for)
            self._result = error
        self._done.set()

    def result(self) -> Tensor:
        """Wait for the result."""
        self._done.wait()
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result
