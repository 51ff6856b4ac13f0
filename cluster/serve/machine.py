"""The emulated machine behind the front doors: one thread takes requests in, makes steps of them and hands tokens out."""

import asyncio
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence

from cluster.config.run import RunConfig
from cluster.resolve import Setup
from cluster.serve.answers import Handed, LiveAnswer, Request, hand_out
from cluster.serve.contract import Ask, AskError, BusyError, End, Status, StoppedError
from cluster.serve.driver import Done, Driver
from cluster.serve.pace import Pace, rehearse
from cluster.serve.setting import context_of, live_setup
from cluster.serve.spelling import Own, Plain, Speech
from cluster.serve.tally import Tally
from cluster.transports.contract import Transport
from emulation.errors import MoelabError
from emulation.view import PREFILL, Step

OFF = "the machine is being switched off"
SLOWEST_JOIN_S, DRAIN_LOOKS_S = 60.0, 0.02


class Emulated:
    """One emulated machine that serves one model. `start` it, and `close` it."""

    def __init__(self, config: RunConfig) -> None:
        self.setup: Setup = live_setup(config)
        limits, serving = config.serve, self.setup.config.workload.serving
        assert serving is not None
        self.model = limits.name or self.setup.model.name
        self.real_tokens = config.workload.work == "execute"
        self.context_tokens = context_of(self.setup) if self.real_tokens else (
            limits.max_prompt_tokens + limits.max_output_tokens)
        self._limits, self._max_open = limits, limits.max_waiting + serving.max_batch
        self._speech: Speech = Plain(self.setup.shape.vocab)
        self._most_positions = 0
        self._pace = Pace(None)
        self._driver: Driver | None = None
        self._transport: Transport | None = None
        self._changed = threading.Condition()
        self._inbox: deque[Request] = deque()
        self._gone: deque[int] = deque()
        self._all: dict[int, Request] = {}
        self._named: dict[int, Request] = {}
        self._tally, self._next, self._unstarted = Tally(), 0, 0
        self._state, self._closing = "starting", False
        self._why = OFF
        self._error: Exception | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._live, name="emulated machine", daemon=True)

    # in the loop of a front door

    async def start(self) -> None:
        """Switch it on; returns when it is ready, and raises what it cannot start for."""
        self._thread.start()
        await asyncio.to_thread(self._ready.wait)
        if self._error is not None:
            await self.close()
            raise self._error

    def encode(self, text: str) -> list[int]:
        return self._speech.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return self._speech.encode_chat(messages)

    async def submit(self, ask: Ask) -> LiveAnswer:
        came_s = time.perf_counter()
        self._check(ask)
        with self._changed:
            if self._state != "ready":
                raise StoppedError(self._why if self._state in ("failed", "stopping") else "the machine is starting")
            if self._unstarted >= self._limits.max_waiting or len(self._all) >= self._max_open:
                self._tally.requests["refused"] += 1
                raise BusyError(f"{self._unstarted} requests wait already, and at most {self._limits.max_waiting} may: "
                                "ask again later")
            answer = LiveAnswer(self._next, asyncio.get_running_loop(), self._leave)
            request = Request(ask, answer, self._speech, came_s)
            self._next += 1
            self._unstarted += 1
            self._tally.requests["asked"] += 1
            self._all[answer.number] = request
            self._inbox.append(request)
            self._changed.notify_all()
        return answer

    def _check(self, ask: Ask) -> None:
        prompt, most, limits = len(ask.prompt), ask.max_tokens, self._limits
        if not prompt:
            raise AskError("the prompt is empty: a model needs at least one token to begin with")
        if prompt > limits.max_prompt_tokens:
            raise AskError(f"the prompt has {prompt} tokens, and at most {limits.max_prompt_tokens} are taken")
        if not 1 <= most <= limits.max_output_tokens:
            raise AskError(f"{most} tokens are asked for: 1 to {limits.max_output_tokens} can be")
        if self.context_tokens is not None and prompt + most > self.context_tokens:
            raise AskError(f"{prompt} tokens in and {most} out are more than the context of {self.model} holds, "
                           f"{self.context_tokens}")
        if self._most_positions and prompt + most - 1 > self._most_positions:
            raise AskError(f"{prompt} tokens in and {most} out are more than the KV cache of the machine holds, "
                           f"{self._most_positions}")
        if not 0 <= ask.temperature < float("inf"):
            raise AskError(f"the temperature is {ask.temperature}: it is a number from 0 on")
        if ask.seed < 0:
            raise AskError(f"the seed is {ask.seed}: it is a whole number from 0 on")
        if self.real_tokens and not all(0 <= token < self.setup.shape.vocab for token in ask.prompt):
            raise AskError(f"the prompt holds a token that {self.model} does not have: it has {self.setup.shape.vocab}")

    def _leave(self, number: int) -> None:
        with self._changed:
            if number in self._all:
                self._gone.append(number)
                self._changed.notify_all()

    def status(self) -> Status:
        with self._changed:
            driver, dilation = self._driver, self._pace.dilation
            serving = None if driver is None else driver.serving
            return Status(
                state=self._state, clock="virtual" if dilation is None else "wall", dilation=dilation,
                emulated_ps=0 if driver is None else driver.now_ps, running=len(self._all) - self._unstarted,
                waiting=self._unstarted, steps=0 if serving is None else serving.steps,
                prompt_tokens=self._tally.tokens["prompt"], output_tokens=self._tally.tokens["output"],
                kv_blocks=0 if serving is None else int(serving.cache.capacity.sum()),
                kv_blocks_used=0 if serving is None else serving.used_blocks)

    def figures(self) -> Mapping[str, object]:
        """What it has counted: requests, tokens, times in seconds, and of the machine what a result tells."""
        status = self.status()
        with self._changed:
            driver, found = self._driver, dict(self._tally.told())
            if driver is not None:
                cache = driver.serving.cache
                found |= driver.meter.told()
                found["preempted"] = driver.serving.preempted
                found["kv"] = {"block_tokens": cache.block_tokens, "capacity_blocks": cache.capacity.tolist(),
                               "used_blocks": cache.private.tolist(), "peak_blocks": cache.peak.tolist()}
            return {**found, "steps": status.steps, "running": status.running, "waiting": status.waiting,
                    "emulated_s": status.emulated_ps / 1e12}

    async def inject(self, fault: Mapping[str, object]) -> str:
        raise AskError("this machine has no faults to inject")

    async def drain(self, limit_s: float) -> bool:
        """Take nobody in any more, and let answers under way end; False if some were left when the time was over."""
        with self._changed:
            if self._state == "ready":
                self._state = "stopping"
        until_s = time.perf_counter() + limit_s
        while self._all and time.perf_counter() < until_s:
            await asyncio.sleep(DRAIN_LOOKS_S)
        return not self._all

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
            self._error = error
            told = str(error) if isinstance(error, MoelabError) else f"{type(error).__name__}, a fault of moelab's"
            with self._changed:
                self._state, self._why = "failed", f"the machine has failed: {told}"
        finally:
            self._end_all()
            self._ready.set()
            if self._transport is not None:
                self._transport.close()

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
            self._driver, self._most_positions = made, made.serving.most_tokens()
            self._pace = Pace(dilation)

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False when it is time to stop."""
        driver = self._driver
        assert driver is not None
        with self._changed:
            while not (self._closing or self._inbox or self._gone or driver.serving.open):
                self._changed.wait()
            return not self._closing

    def _turn(self) -> None:
        """Who has come and gone since the last step, then the next one."""
        driver = self._driver
        assert driver is not None
        with self._changed:
            self._take_in(driver)
            handed = self._let_go(driver)
            found = driver.next()
        hand_out(handed)
        if found is None:
            return
        step, not_before_ps = found
        done = driver.perform(step, not_before_ps)
        with self._changed:
            handed = self._note(driver, step, done)
        self._until(done.times.end_ps)
        hand_out(handed)

    def _take_in(self, driver: Driver) -> None:
        """Requests that came: on the emulated machine, at the instant at which they really did, where it is paced."""
        while self._inbox:
            request = self._inbox.popleft()
            now_ps = driver.now_ps
            if self._pace.dilation is not None:
                came_ps = self._pace.emulated_ps(request.came_s)
                now_ps = min(came_ps, now_ps) if driver.serving.open else max(came_ps, now_ps)
            request.arrival_ps = now_ps
            request.name = driver.add(now_ps, request.ask)
            self._named[request.name] = request
            self._tally.tokens["prompt"] += len(request.ask.prompt)

    def _let_go(self, driver: Driver) -> Handed:
        handed: Handed = []
        while self._gone:
            request = self._all.get(self._gone.popleft())
            if request is not None:
                handed.append((request.answer, self._end(driver, request, request.end("cancelled", driver.now_ps))))
        return handed

    def _end(self, driver: Driver, request: Request, end: End) -> End:
        """A request is over: what it held is free, and it is counted."""
        del self._all[request.number]
        del self._named[request.name]
        driver.drop(request.name)
        tally = self._tally
        tally.requests[end.reason] += 1
        if request.scheduled_ps < 0:
            self._unstarted -= 1
        if end.reason != "cancelled":
            tally.add("end_to_end", end.end_ps - end.arrival_ps)
            if end.output_tokens > 1:
                tally.add("tpot", (end.end_ps - end.first_token_ps) / (end.output_tokens - 1))
        return end

    def _note(self, driver: Driver, step: Step, done: Done) -> Handed:
        """What a step has made, for whom."""
        tally, times = self._tally, done.times
        prefill = int((step.phase == PREFILL).sum())
        tally.tokens["prefill"] += prefill
        tally.tokens["decode"] += len(step) - prefill
        tally.tokens["output"] += len(done.made)
        tally.add("step", times.end_ps - times.begin_ps)
        for name in dict.fromkeys(step.sequence.tolist()):
            request = self._named[name]
            if request.scheduled_ps < 0:
                request.scheduled_ps = times.begin_ps
                self._unstarted -= 1
                tally.add("queueing", times.begin_ps - request.arrival_ps)
        handed: Handed = []
        for name, token in done.made.items():
            request = self._named[name]
            before_ps = request.last_ps
            told, reason = request.take(token, times.end_ps)
            tally.add(*(("ttft", times.end_ps - request.arrival_ps) if told.index == 0 else
                        ("itl", times.end_ps - before_ps)))
            handed.append((request.answer, told))
            if reason is not None:
                handed.append((request.answer, self._end(driver, request, request.end(reason, times.end_ps))))
        return handed

    def _until(self, emulated_ps: int) -> None:
        """Wait until an emulated instant has come for real; note how late it is, if it has long come."""
        if self._pace.dilation is None:
            return
        due_s = self._pace.due_s(emulated_ps)
        with self._changed:
            while not self._closing and (left_s := due_s - time.perf_counter()) > 0:
                self._changed.wait(left_s)
            self._tally.late.add(max(0.0, time.perf_counter() - due_s))

    def _end_all(self) -> None:
        """Nobody is answered any more."""
        with self._changed:
            handed: Handed = [(request.answer, StoppedError(self._why)) for request in self._all.values()]
            self._all.clear()
            self._inbox.clear()
            self._named.clear()
            self._unstarted = 0
        hand_out(handed)
