"""The machine behind the front doors, with filler tokens: who is answered how, and what is counted."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.serve.contract import Ask, AskError, BusyError, End, StoppedError
from cluster.serve.machine import Emulated
from emulation.errors import ConfigError

from .serve_rig import Heard, ask, config, hear, on, served


def test_answers_come_with_the_times_of_the_machine_and_are_counted() -> None:
    async def work(machine: Emulated) -> tuple[list[Heard], Emulated]:
        return await asyncio.gather(*(ask(machine, [1] * (3 + i), 5) for i in range(6))), machine

    heard, machine = served(config(), work)
    for i, one in enumerate(heard):
        times = [token.emulated_ps for token in one.tokens]
        assert one.ids == [0, 1, 2, 3, 4]
        assert [token.index for token in one.tokens] == one.ids
        assert one.text == "the machine that answers here"
        assert times == sorted(set(times))
        assert (one.end.reason, one.end.prompt_tokens, one.end.output_tokens) == ("length", 3 + i, 5)
        assert one.end.arrival_ps <= one.end.scheduled_ps < one.end.first_token_ps == times[0]
        assert one.end.end_ps == times[-1]
    status, told = machine.status(), machine.figures()
    assert (status.running, status.waiting, status.kv_blocks_used) == (0, 0, 0)
    assert (status.prompt_tokens, status.output_tokens) == (33, 30)
    assert status.emulated_ps == max(one.end.end_ps for one in heard)
    assert told["requests"] == {"asked": 6, "refused": 0, "stop": 0, "length": 6, "cancelled": 0}
    assert told["tokens"] == {"prompt": 33, "output": 30, "prefill": 33, "decode": 24}
    ttft, itl = told["ttft"], told["itl"]
    assert isinstance(ttft, dict)
    assert isinstance(itl, dict)
    assert (ttft["count"], sum(ttft["buckets"]), itl["count"]) == (6, 6, 24)
    assert ttft["sum_s"] == pytest.approx(sum(h.end.first_token_ps - h.end.arrival_ps for h in heard) / 1e12)


def test_a_machine_leaves_no_thread_behind_and_whoever_is_left_is_told() -> None:
    async def work() -> None:
        async with on(config()) as machine:
            answer = await machine.submit(Ask((1, 2), 1000))
            async for _ in answer:
                break
        with pytest.raises(StoppedError, match="switched off"):
            await hear(answer)
        with pytest.raises(StoppedError, match="switched off"):
            await machine.submit(Ask((1,), 1))

    asyncio.run(work())
    assert not [thread for thread in threading.enumerate() if thread.name == "emulated machine"]


def test_whoever_leaves_frees_his_memory() -> None:
    async def work(machine: Emulated) -> None:
        answer = await machine.submit(Ask((1,) * 40, 1000))
        seen = 0
        async for _ in answer:
            seen += 1
            if seen == 3:
                break
        answer.cancel()
        answer.cancel()
        heard = await hear(answer)
        assert heard.end.reason == "cancelled"
        assert heard.end.output_tokens >= 3
        assert machine.status().kv_blocks_used == 0
        assert machine.status().running == 0
        assert (await ask(machine, [1], 2)).end.reason == "length"

    served(config(), work)


def test_a_full_queue_turns_the_next_away() -> None:
    async def work(machine: Emulated) -> None:
        answers, refused = [], 0
        for _ in range(40):
            try:
                answers.append(await machine.submit(Ask((1,) * 8, 30)))
            except BusyError:
                refused += 1
        assert refused > 0
        heard = await asyncio.gather(*map(hear, answers))
        assert {one.end.output_tokens for one in heard} == {30}
        assert machine.figures()["requests"] == {"asked": len(answers), "refused": refused, "stop": 0,
                                                 "length": len(answers), "cancelled": 0}

    served(config(serve={"max_waiting": 3}, serving={"max_batch": 2}), work)


def test_a_stop_text_ends_an_answer_before_it_even_across_tokens() -> None:
    async def work(machine: Emulated) -> None:
        one = await ask(machine, [1], 20, stop=("answers he", "weights"))
        assert (one.text, one.end.reason, one.end.output_tokens) == ("the machine that ", "stop", 5)
        other = await ask(machine, [1], 4, stop=("answers he",))
        assert (other.text, other.end.reason) == ("the machine that answers", "length")

    served(config(), work)


@pytest.mark.parametrize(("asked", "sentence"), [
    (Ask((), 1), "prompt is empty"), (Ask((1,), 0), "1 to 1024"), (Ask((1,) * 3000, 1), "at most 2048"),
    (Ask((1,), 1, temperature=float("nan")), "temperature"), (Ask((1,), 1, seed=-1), "seed")])
def test_what_cannot_be_answered_is_one_sentence(asked: Ask, sentence: str) -> None:
    async def work(machine: Emulated) -> None:
        with pytest.raises(AskError, match=sentence):
            await machine.submit(asked)

    served(config(), work)


def test_a_machine_that_fails_tells_everybody_why(tmp_path: Path) -> None:
    (tmp_path / "lazy.py").write_text(
        "import numpy as np\nfrom dataclasses import dataclass\nfrom workloads.batchers.contract import Batch\n"
        "@dataclass(frozen=True)\nclass Batcher:\n    clock = False\n    def batch(self, queues):\n"
        "        return Batch(np.zeros(0, np.int64), np.zeros(0, np.int64))\n")

    async def work(machine: Emulated) -> None:
        with pytest.raises(StoppedError, match="the batcher runs nothing"):
            await ask(machine, [1], 1)
        assert machine.status().state == "failed"
        with pytest.raises(StoppedError, match="has failed: the batcher runs nothing"):
            await machine.submit(Ask((1,), 1))
        await machine.ended()

    served(config(serving={"batcher": f"{tmp_path}/lazy.py"}), work)


def test_what_cannot_start_is_raised() -> None:
    with pytest.raises(ConfigError, match="parks sequences"):
        served(config(serving={"batcher": "token_buffering"}), lambda machine: ask(machine, [1], 1))
    with pytest.raises(ConfigError, match="ray carries no requests"):
        Emulated(config(transport="ray"))


def test_at_the_wall_clock_tokens_come_when_it_is_time() -> None:
    async def work(machine: Emulated) -> None:
        dilation = machine.status().dilation
        assert dilation is not None
        began_s, arrivals = time.perf_counter(), list[float]()
        answer = await machine.submit(Ask((1,) * 8, 6))
        emulated: list[int] = []
        async for item in answer:
            if not hasattr(item, "emulated_ps"):
                arrival_ps = item.arrival_ps
                break
            arrivals.append(time.perf_counter() - began_s)
            emulated.append(item.emulated_ps)
        for real_s, at_ps in zip(arrivals, emulated, strict=True):
            assert real_s >= (at_ps - arrival_ps) / 1e12 * dilation - 1e-3
        late = machine.figures()["late"]
        assert isinstance(late, dict)
        assert late["count"] == 6
        assert machine.status().clock == "wall"

    served(config(clock="wall", wall={"dilation": 500.0}), work)


def test_a_rehearsed_dilation_is_one_that_this_host_can_keep() -> None:
    async def work(machine: Emulated) -> None:
        status = machine.status()
        assert status.dilation is not None
        assert status.dilation > 1
        assert (status.steps, status.emulated_ps) == (0, 0)

    served(config(clock="wall"), work)


def test_what_is_over_is_forgotten() -> None:
    async def work(machine: Emulated) -> None:
        async def some() -> None:
            for _ in range(2):
                await asyncio.gather(*(ask(machine, [1] * 4, 2) for _ in range(16)))

        await some()
        driver = machine._driver
        assert driver is not None
        before = driver.scheduler.engine.next_serial
        await some()
        assert driver.scheduler.engine.next_serial > before
        assert driver.scheduler.engine.next_serial - driver.scheduler.engine.first_serial < 5000
        assert not driver.scheduler.steps
        assert not driver.scheduler.counts.first_uses
        assert len(driver.serving.requests) == 2 * (256 + 16)

    served(config(), work)


def test_a_fault_is_told_to_everybody_and_costs_time() -> None:
    async def work(machine: Emulated) -> None:
        before = await ask(machine, [1] * 8, 8)
        told = await machine.inject({"fault": "straggler", "device": "gpu", "to": "20 %"})
        assert "gpu" in told
        after = await ask(machine, [1] * 8, 8)
        assert after.end.end_ps - after.end.arrival_ps > 2 * (before.end.end_ps - before.end.arrival_ps)
        assert len(machine.status().faults) == 1
        with pytest.raises(AskError, match="ndp7"):
            await machine.inject({"fault": "unit_dies", "device": "ndp7"})
        assert len(machine.status().faults) == 1

    served(config(), work)


async def within_a_step(told: AsyncIterator[object]) -> None:
    """Until the step behind the first token is being played, for half a second: faults wait for its end."""
    await anext(told)
    await asyncio.sleep(0.1)


def test_a_fault_whose_client_has_left_does_not_happen_and_the_machine_goes_on() -> None:
    async def work(machine: Emulated) -> None:
        answer = await machine.submit(Ask((1,) * 8, 4))
        told = answer.__aiter__()
        await within_a_step(told)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(machine.inject({"fault": "straggler", "device": "gpu", "to": "20 %"}), 0.05)
        async for item in told:
            last = item
        assert isinstance(last, End)
        assert last.reason == "length"
        assert machine.status().faults == ()

    served(config(clock="wall", wall={"dilation": 1500.0}), work)


def test_a_machine_that_is_switched_off_tells_whoever_waits_though_a_client_has_left() -> None:
    async def work(machine: Emulated) -> None:
        answer = await machine.submit(Ask((1,) * 8, 4))
        await within_a_step(answer.__aiter__())
        fault = {"fault": "straggler", "device": "gpu", "to": "20 %"}
        left, waits = (asyncio.ensure_future(machine.inject(fault)) for _ in range(2))
        await asyncio.sleep(0.05)
        left.cancel()
        await asyncio.sleep(0)
        await machine.close()
        with pytest.raises(StoppedError, match="switched off"):
            await waits
        await machine.ended()

    served(config(clock="wall", wall={"dilation": 1500.0}), work)
