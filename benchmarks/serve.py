"""A served machine: many streams at once in bounded memory, tokens a second, and what it costs over the bare model."""

import asyncio
import itertools
import resource
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import figure

STREAMS, PROMPT, BATCHES = 64, 32, 3
SETTINGS = ["clock=virtual", "transport=local", "workload.serving.token_budget=4096"]
"""A budget that takes all prompts at once, as the bare model does."""


def report(requests: int, filler: int, output: int) -> dict[str, Any]:
    """All figures: memory and speed of filler and of real serving, and the bare model at the same batch."""
    from cluster.config.reading import load_run

    found = {name: asyncio.run(_served(load_run(run, SETTINGS), count, output))
             for name, run, count in (("filler", "serve_qwen3", filler), ("real", "serve_embedded", requests))}
    bare_step_s, bare_cpu_s = _bare(output)
    return {"streams": STREAMS, "prompt_tokens": PROMPT, "output_tokens": output, **found, "bare_step_s": bare_step_s,
            "bare_cpu_s_per_token": bare_cpu_s, "over_bare": found["real"]["cpu_s_per_token"] / bare_cpu_s}


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The report as lines of the table."""
    lines = []
    for name, what in (("filler", "qwen3-30b-a3b, filler"), ("real", "embedded model")):
        case = f"{what}, {found['streams']} streams, {found[name]['requests']} requests"
        lines += [figure("serve", case, key, found[name][key]) for key in (
            "tokens_per_s", "step_s", "cpu_s_per_token", "before_mib", "after_mib")]
    bare = f"embedded model, batch {found['streams']}"
    return [*lines, *(figure("serve", bare, key, found[key]) for key in ("bare_step_s", "bare_cpu_s_per_token")),
            figure("serve", bare, "over_bare", found["over_bare"], note="CPU time of a token, served over bare")]


async def _served(config: Any, requests: int, output: int) -> dict[str, Any]:
    """STREAMS at once until so many requests are answered."""
    from cluster.serve.contract import Ask, Token
    from cluster.serve.machine import Emulated

    machine = Emulated(config)
    await machine.start()
    left = tokens = 0
    gaps_s: list[float] = []

    async def stream() -> None:
        nonlocal left, tokens
        while left > 0:
            left -= 1
            answer = await machine.submit(Ask((7,) * PROMPT, output, ignore_eos=True))
            last_s = None
            async for item in answer:
                if isinstance(item, Token):
                    tokens += 1
                    now_s = time.perf_counter()
                    if last_s is not None and len(gaps_s) < 100_000:
                        gaps_s.append(now_s - last_s)
                    last_s = now_s

    left = min(STREAMS, requests)
    await asyncio.gather(*(stream() for _ in range(STREAMS)))  # everything is loaded and compiled
    before_mib, left, tokens = _rss_mib(), requests, 0
    gaps_s.clear()
    began_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(stream() for _ in range(STREAMS)))
    spent_s, after_mib = time.perf_counter() - began_s, _rss_mib()
    cpu_s = time.process_time() - cpu_s
    await machine.close()
    return {"cpu_s_per_token": cpu_s / tokens, "requests": requests, "seconds": spent_s,
            "tokens_per_s": tokens / spent_s, "step_s": statistics.median(gaps_s),
            "before_mib": before_mib, "after_mib": after_mib}


def _bare(output: int) -> tuple[float, float]:
    """Seconds of a decode step of the bare model, batched by itself (median), and CPU seconds of a token."""
    from cluster.resolve import EMBEDDED_FOLDER
    from moe.checkpoint import Checkpoint
    from moe.determinism import pin
    from moe.generate import generate
    from moe.hook import ExpertHook, LocalExperts
    from moe.shell import load_shell

    pin()
    checkpoint = Checkpoint(EMBEDDED_FOLDER)
    model, at_s = load_shell(checkpoint), list[float]()
    with ExpertHook(model, LocalExperts(checkpoint)) as hook:
        generate(model, [[7] * PROMPT] * STREAMS, output, hook=hook)
        cpu_s = time.process_time()
        for _ in range(BATCHES):
            generate(model, [[7] * PROMPT] * STREAMS, output, hook=hook, on_step=lambda *_: at_s.append(
                time.perf_counter()))
    cpu_s = time.process_time() - cpu_s
    gaps = [later - sooner for step, (sooner, later) in enumerate(itertools.pairwise(at_s))
            if step % output not in (0, output - 1)]
    return statistics.median(gaps), cpu_s / (BATCHES * STREAMS * output)


def _rss_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() >> 20
