"""The emulated machine behind the front doors: one thread takes requests in, makes steps of them, hands tokens out."""

import asyncio
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Literal

from cluster.config.run import RunConfig
from cluster.identity import versions
from cluster.resolve import Setup
from cluster.serve.answers import Handed, LiveAnswer, Request, hand_out
from cluster.serve.book import Book, Bounds
from cluster.serve.contract import Ask, AskError, BusyError, Identity, Status, StoppedError
from cluster.serve.driver import Driver
from cluster.serve.pace import Pace, rehearse
from cluster.serve.setting import context_of, live_setup
from cluster.serve.spelling import Own, Plain, Speech
from cluster.transports.contract import Transport
from emulation.errors import MoelabError

State = Literal["starting", "ready", "stopping", "failed"]
OFF = "the machine is being switched off"
SLOWEST_JOIN_S, LOOKS_S, MOST_FAULTS = 60.0, 0.05, 64


class Emulated:
    """One emulated machine that serves one model. `start` it, and `close` it."""

    def __init__(self, config: RunConfig) -> None:
        self.setup: Setup = live_setup(config)
        limits, serving = config.serve, self.setup.config.workload.serving
        assert serving is not None
        self.model = limits.name or self.setup.model.name
        self.identity = Identity(config.name, self.setup.policies[0].name, self.setup.machine.name, config.precision,
                                 config.transport, versions()["moelab"])
        self.real_tokens = config.workload.work == "execute"
        self.context_tokens = context_of(self.setup) if self.real_tokens else (
            limits.max_prompt_tokens + limits.max_output_tokens)
        self._bounds = Bounds(self.model, limits, self.context_tokens,
                              self.setup.shape.vocab if self.real_tokens else None)
        self._limits, self._max_open = limits, limits.max_waiting + serving.max_batch
        self._speech: Speech = Plain(self.setup.shape.vocab)
        self._pace = Pace(None)
        self._driver: Driver | None = None
        self._transport: Transport | None = None
        self._changed = threading.Condition()
        self._inbox: deque[Request] = deque()
        self._gone: deque[int] = deque()
        self._book, self._next = Book(), 0
        self._state: State = "starting"
        self._closing = False
        self._why = OFF
        self._faults: deque[tuple[Mapping[str, object], Future[str]]] = deque()
        self.error: Exception | None = None
        self._ready, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._live, name="emulated machine", daemon=True)

    # in the loop of a front door

    async def start(self) -> None:
        """Switch it on; returns when it is ready, and raises what it cannot start for."""
        self._thread.start()
        await asyncio.to_thread(self._ready.wait)
        if self.error is not None:
            await self.close()
            raise self.error

    def encode(self, text: str) -> list[int]:
        return self._speech.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return self._speech.encode_chat(messages)

    async def submit(self, ask: Ask) -> LiveAnswer:
        came_s = time.perf_counter()
        self._bounds.check(ask)
        with self._changed:
            if self._state != "ready":
                raise StoppedError(self._why if self._state in ("failed", "stopping") else "the machine is starting")
            if self._book.unstarted >= self._limits.max_waiting or len(self._book.open) >= self._max_open:
                self._book.tally.requests["refused"] += 1
                raise BusyError(f"{self._book.unstarted} requests wait already, and at most {self._limits.max_waiting} "
                                "may: ask again later")
            answer = LiveAnswer(self._next, asyncio.get_running_loop(), self._leave)
            request = Request(ask, answer, self._speech, came_s)
            self._next += 1
            self._book.ask(request)
            self._inbox.append(request)
            self._changed.notify_all()
        return answer

    def _leave(self, number: int) -> None:
        with self._changed:
            if number in self._book.open:
                self._gone.append(number)
                self._changed.notify_all()

    def status(self) -> Status:
        with self._changed:
            driver, dilation = self._driver, self._pace.dilation
            serving = None if driver is None else driver.serving
            return Status(
                state=self._state, clock="virtual" if dilation is None else "wall", dilation=dilation,
                emulated_ps=0 if driver is None else driver.now_ps, running=len(self._book.open) - self._book.unstarted,
                waiting=self._book.unstarted, steps=0 if serving is None else serving.steps,
                prompt_tokens=self._book.tally.tokens["prompt"], output_tokens=self._book.tally.tokens["output"],
                kv_blocks=0 if serving is None else int(serving.cache.capacity.sum()),
                kv_blocks_used=0 if serving is None else serving.used_blocks,
                faults=() if driver is None else driver.faults)

    def figures(self) -> Mapping[str, object]:
        """What it has counted: requests, tokens, times in seconds, and of the machine what a result tells."""
        status = self.status()
        with self._changed:
            driver, found = self._driver, dict(self._book.tally.told())
            if driver is not None:
                cache = driver.serving.cache
                found |= driver.meter.told()
                found["preempted"] = driver.serving.preempted
                found["kv"] = {"block_tokens": cache.block_tokens, "capacity_blocks": cache.capacity.tolist(),
                               "used_blocks": cache.private.tolist(), "peak_blocks": cache.peak.tolist()}
                found |= driver.experts()
            return {**found, "steps": status.steps, "running": status.running, "waiting": status.waiting,
                    "emulated_s": status.emulated_ps / 1e12}

    async def inject(self, fault: Mapping[str, object]) -> str:
        told: Future[str] = Future()
        with self._changed:
            if self._state != "ready":
                raise StoppedError(self._why)
            if len(self._faults) >= MOST_FAULTS:
                raise BusyError(f"{MOST_FAULTS} faults wait for the next step already")
            self._faults.append((fault, told))
            self._changed.notify_all()
        return await asyncio.wrap_future(told)

    async def drain(self, limit_s: float) -> bool:
        """Take nobody in any more, and let answers under way end; False if some were left when the time was over."""
        with self._changed:
            if self._state == "ready":
                self._state = "stopping"
        until_s = time.perf_counter() + limit_s
        while self._book.open and time.perf_counter() < until_s:
            await asyncio.sleep(LOOKS_S)
        return not self._book.open

    async def ended(self) -> None:
        """Returns when it has failed, or is switched off."""
        while not self._over.is_set():
            await asyncio.sleep(LOOKS_S)

    def told(self) -> str:
        """In words for who starts it: which clock, and what times mean."""
        text = "tokens of the real model" if self.real_tokens else "filler tokens, since the model has no weights"
        if self._pace.dilation is None:
            return f"{text}; clock: virtual, so times that clients measure mean nothing and emulated ones are told"
        return (f"{text}; clock: wall, {self._pace.dilation:g} real seconds for an emulated one, so clients measure "
                "the machine's time times that")

    async def close(self) -> None:
        with self._changed:
            self._closing = True
            if self._state != "failed":
                self._state = "stopping"
            self._changed.notify_all()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, SLOWEST_JOIN_S)

    # on the machine's own thread

    def _live(self) -> None:
        try:
            self._switch_on()
            with self._changed:
                if not self._closing:
                    self._state = "ready"
            self._ready.set()
            while self._wait_for_work():
                self._turn()
        except Exception as error:  # noqa: BLE001 (every open request is told, and so is the status)
            if not isinstance(error, MoelabError):
                traceback.print_exc()
            self.error = error
            told = str(error) if isinstance(error, MoelabError) else f"{type(error).__name__}, a fault of moelab's"
            with self._changed:
                self._state, self._why = "failed", f"the machine has failed: {told}"
        finally:
            self._end_all()
            if self._transport is not None:
                self._transport.close()
            self._ready.set()
            self._over.set()

    def _switch_on(self) -> None:
        config, limits = self.setup.config, self._limits
        real = None
        if self.real_tokens:
            from cluster.run import transport_of
            from cluster.serve.real import Real

            assert self.setup.checkpoint is not None
            real, self._transport = Real(self.setup), transport_of(config)
            self._speech = Own(self.setup.checkpoint, real.ends)

        def driver() -> Driver:
            made = Driver(self.setup, self._max_open)
            if real is not None:
                assert self._transport is not None
                real.drive(made, self._transport)
            return made

        dilation: float | None = None
        if config.clock == "wall":
            asked = config.wall.dilation
            dilation = float(asked) if asked != "auto" else rehearse(driver(), limits.max_prompt_tokens,
                                                                      limits.max_output_tokens)
        made = driver()
        with self._changed:
            self._driver, self._bounds.positions = made, made.serving.most_tokens()
            self._pace = Pace(dilation)

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False when it is time to stop."""
        driver = self._driver
        assert driver is not None
        with self._changed:
            while not (self._closing or self._inbox or self._gone or self._faults or driver.serving.open):
                self._changed.wait()
            return not self._closing

    def _turn(self) -> None:
        """Who has come and gone since the last step, then the next one."""
        driver = self._driver
        assert driver is not None
        with self._changed:
            self._let_happen(driver)
            self._take_in(driver)
            handed = self._let_go(driver)
            found = driver.next()
        hand_out(handed)
        if found is None:
            return
        step, not_before_ps = found
        done = driver.perform(step, not_before_ps)
        with self._changed:
            handed = self._book.note(driver, step, done)
        self._until(done.times.end_ps)
        hand_out(handed)

    def _take_in(self, driver: Driver) -> None:
        """Requests that came: on the emulated machine, at the instant at which they really did, where it is paced."""
        idle = not driver.serving.open
        while self._inbox:
            request = self._inbox.popleft()
            now_ps = driver.now_ps
            if self._pace.dilation is not None:
                came_ps = self._pace.emulated_ps(request.came_s)
                now_ps = max(came_ps, now_ps) if idle else min(came_ps, now_ps)
            self._book.take_in(driver, request, now_ps)

    def _let_happen(self, driver: Driver) -> None:
        """Faults that were asked for, and whose clients have not left meanwhile."""
        while self._faults:
            fault, told = self._faults.popleft()
            if not told.set_running_or_notify_cancel():
                continue
            try:
                told.set_result(driver.inject(fault))
            except MoelabError as error:
                told.set_exception(AskError(str(error)))

    def _let_go(self, driver: Driver) -> Handed:
        handed: Handed = []
        while self._gone:
            request = self._book.open.get(self._gone.popleft())
            if request is not None:
                handed.append((request.answer, self._book.end(driver, request, request.end("cancelled",
                                                                                               driver.now_ps))))
        return handed

    def _until(self, emulated_ps: int) -> None:
        """Wait until an emulated instant has come for real; note how late it is, if it has long come."""
        if self._pace.dilation is None:
            return
        due_s = self._pace.due_s(emulated_ps)
        with self._changed:
            while not self._closing and (left_s := due_s - time.perf_counter()) > 0:
                self._changed.wait(left_s)
            self._book.tally.late.add(max(0.0, time.perf_counter() - due_s))

    def _end_all(self) -> None:
        """Nobody is answered any more."""
        with self._changed:
            handed: Handed = [(request.answer, StoppedError(self._why)) for request in self._book.open.values()]
            self._book.clear()
            for _, told in self._faults:
                if told.set_running_or_notify_cancel():
                    told.set_exception(StoppedError(self._why))
            self._faults.clear()
            self._inbox.clear()
        hand_out(handed)
