"""Machines that answer, small enough for tests: the embedded model's shape or the model itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from cluster.config.load import validate
from cluster.config.run import RunConfig
from cluster.serve.contract import Answer, Ask, End, Token
from cluster.serve.machine import Emulated

T = TypeVar("T")
LIMIT_S = 120.0


def config(work: str = "synthetic", **more: Any) -> RunConfig:
    """A run to be served: the embedded model's shape with filler tokens, or its weights (work: execute)."""
    serving = {"max_batch": 16, "token_budget": 64, **more.pop("serving", {})}
    generator = {"generator": {"name": "zipf", "skew": 0.6}} if work == "synthetic" else {}
    return validate(RunConfig, {
        "machine": {"name": "edge-gpu-ndp", "options": {"units": 2}}, "model": "embedded", "policy": "expert_parallel",
        "workload": {"work": work, **generator, "serving": serving}, "seed": 3, **more}, "test")


class Heard(NamedTuple):
    """An answer to its end."""

    tokens: list[Token]
    end: End

    @property
    def ids(self) -> list[int]:
        return [token.token for token in self.tokens]

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


async def hear(answer: Answer) -> Heard:
    """Listen to an answer."""
    tokens: list[Token] = []
    async for item in answer:
        if isinstance(item, End):
            return Heard(tokens, item)
        tokens.append(item)
    raise AssertionError("the answer had no end")


async def ask(machine: Emulated, prompt: str | list[int], most: int, **more: Any) -> Heard:
    """Ask, and listen."""
    tokens = machine.encode(prompt) if isinstance(prompt, str) else prompt
    return await hear(await machine.submit(Ask(tuple(tokens), most, **more)))


@asynccontextmanager
async def on(run: RunConfig) -> AsyncIterator[Emulated]:
    """A machine that is switched on."""
    machine = Emulated(run)
    await machine.start()
    try:
        yield machine
    finally:
        await machine.close()


def served(run: RunConfig, work: Callable[[Emulated], Awaitable[T]]) -> T:
    """What work does with a machine, from switching on to switching off."""
    async def all_of_it() -> T:
        async with on(run) as machine:
            return await asyncio.wait_for(work(machine), LIMIT_S)
    return asyncio.run(all_of_it())
