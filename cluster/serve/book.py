"""Requests under way, and what is counted of them."""

from dataclasses import dataclass

from cluster.config.serve import Serve
from cluster.serve.answers import Handed, Request
from cluster.serve.contract import Ask, AskError, End
from cluster.serve.driver import Done, Driver
from cluster.serve.tally import Tally
from emulation.view import PREFILL, Step

LARGEST_SEED = 1 << 63


@dataclass
class Bounds:
    """What one request may ask. vocabulary: tokens that the model has (None: any may come). positions: that one request
    can have in a KV cache."""

    model: str
    limits: Serve
    context_tokens: int | None
    vocabulary: int | None
    positions: int | None = None

    def check(self, ask: Ask) -> None:
        """Refuse, in one sentence, what cannot be served."""
        prompt, most, limits = len(ask.prompt), ask.max_tokens, self.limits
        if not prompt:
            raise AskError("the prompt is empty: a model needs at least one token to begin with")
        if prompt > limits.max_prompt_tokens:
            raise AskError(f"the prompt has {prompt} tokens, and at most {limits.max_prompt_tokens} are taken")
        if not 1 <= most <= limits.max_output_tokens:
            raise AskError(f"{most} tokens are asked for: 1 to {limits.max_output_tokens} can be")
        if self.context_tokens is not None and prompt + most > self.context_tokens:
            raise AskError(f"{prompt} tokens in and {most} out are more than the context of {self.model} holds, "
                           f"{self.context_tokens}")
        if self.positions is not None and prompt + most - 1 > self.positions:
            raise AskError(f"{prompt} tokens in and {most} out are more than a KV cache of the machine holds, "
                           f"{self.positions}")
        if not 0 <= ask.temperature < float("inf"):
            raise AskError(f"the temperature is {ask.temperature}: it is a number from 0 on")
        if not 0 <= ask.seed < LARGEST_SEED:
            raise AskError(f"the seed is {ask.seed}: it is a whole number from 0 on, below 2^63")
        if self.vocabulary is not None and not all(0 <= token < self.vocabulary for token in ask.prompt):
            raise AskError(f"the prompt holds a token that {self.model} does not have: its tokens are 0 to "
                           f"{self.vocabulary - 1}")


class Book:
    """open: requests by the numbers of their answers. named: those that were taken up, by name. unstarted: how many
    wait for their first step."""

    def __init__(self) -> None:
        self.open: dict[int, Request] = {}
        self.named: dict[int, Request] = {}
        self.unstarted = 0
        self.tally = Tally()

    def ask(self, request: Request) -> None:
        """A request has been handed in."""
        self.unstarted += 1
        self.tally.requests["asked"] += 1
        self.open[request.number] = request

    def take_in(self, driver: Driver, request: Request, now_ps: int) -> None:
        """It has come to the machine."""
        request.arrival_ps = now_ps
        request.name = driver.add(now_ps, request.ask)
        self.named[request.name] = request
        self.tally.tokens["prompt"] += len(request.ask.prompt)

    def end(self, driver: Driver, request: Request, end: End) -> End:
        """A request is over: what it held is free, and it is counted."""
        del self.open[request.number]
        del self.named[request.name]
        driver.drop(request.name)
        tally = self.tally
        tally.requests[end.reason] += 1
        if request.scheduled_ps < 0:
            self.unstarted -= 1
        if end.reason != "cancelled":
            tally.add("end_to_end", end.end_ps - end.arrival_ps)
            if end.output_tokens > 1:
                tally.add("tpot", (end.end_ps - end.first_token_ps) / (end.output_tokens - 1))
        return end

    def note(self, driver: Driver, step: Step, done: Done) -> Handed:
        """What a step has made, for whom."""
        tally, times = self.tally, done.times
        prefill = int((step.phase == PREFILL).sum())
        tally.tokens["prefill"] += prefill
        tally.tokens["decode"] += len(step) - prefill
        tally.tokens["output"] += len(done.made)
        tally.add("step", times.end_ps - times.begin_ps)
        for name in dict.fromkeys(step.sequence.tolist()):
            request = self.named[name]
            if request.scheduled_ps < 0:
                request.scheduled_ps = times.begin_ps
                self.unstarted -= 1
                tally.add("queueing", times.begin_ps - request.arrival_ps)
        handed: Handed = []
        for name, token in done.made.items():
            request = self.named[name]
            before_ps = request.last_ps
            told, reason = request.take(token, times.end_ps)
            tally.add(*(("ttft", times.end_ps - request.arrival_ps) if told.index == 0 else
                        ("itl", times.end_ps - before_ps)))
            handed.append((request.answer, told))
            if reason is not None:
                handed.append((request.answer, self.end(driver, request, request.end(reason, times.end_ps))))
        return handed

    def clear(self) -> None:
        """Nobody is answered any more."""
        self.open.clear()
        self.named.clear()
        self.unstarted = 0
