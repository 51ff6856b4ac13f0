"""`execute` beside plain transformers on the embedded model, in one process, on the same prompts.

    moelab bench execute

Plain `generate` (fp32, one thread, transformers' own attention and experts) and `execute` on the `local` transport
take turns. On the other transports `execute` stands beside the floor of its calls (the messages of the same answer,
sent to workers that compute nothing and reply with as many bytes) and beside `local` plus that floor: what the model,
its experts and the timing take anyway, and what carrying messages cannot cost less than.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from actors.messages import Reply, Work
from benchmarks.floors import Floor, floor
from benchmarks.harness import Spread, figure, host

TRANSPORTS = ("local", "processes", "ray")
BATCHES = (1, 8)
TARGET = 0.67


class Tap:
    """A transport that keeps what it carried."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.name = inner, inner.name
        self.kept: list[dict[int, Work]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def exchange(self, work: Mapping[int, Work]) -> dict[int, Reply]:
        self.kept.append(dict(work))
        replies: dict[int, Reply] = self.inner.exchange(work)
        return replies


class Rig:
    """One transport, with the demo's machine and policy behind it; answers batch after batch."""

    def __init__(self, model: Any, transport: Any) -> None:
        from cluster.config.reading import load_run
        from cluster.execute import Executor
        from cluster.one_run import OneRun
        from cluster.resolve import resolve
        from cluster.session import Silent, device_specs
        from cluster.wall.stream import Spelling

        setup = resolve(load_run("demo", ["transport=local", "against=[]", "workload.temperature=0"]))
        one = OneRun(setup, setup.policies[0], transport, Silent())
        one.begin_live()
        specs = device_specs(one.scheduler.ledger, str(setup.checkpoint))
        transport.open(specs)
        transport.wait()
        one.session.transport = transport
        self.devices = len(specs)
        self._executor = Executor(one.session, model, "none", Spelling(str))  # nobody listens

    def answer(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        """So many tokens for each prompt."""
        return self._executor.answer(prompts, [tokens] * len(prompts))


class Plain:
    """The checkpoint as transformers runs it by itself."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)

    def answer(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        """So many tokens for each prompt, the likeliest ones."""
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        out = self._model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens,
                                   do_sample=False, pad_token_id=0)
        made: list[list[int]] = out[:, width:].tolist()
        return made


def taken(answer: Callable[[], object]) -> float:
    """Seconds of one answer."""
    began = time.perf_counter()
    answer()
    return time.perf_counter() - began


@contextmanager
def opened(name: str) -> Iterator[Any]:
    """A transport, ready to open devices; Ray's with its own private cluster."""
    with ExitStack() as stack:
        transport: Any
        if name == "ray":
            from cluster.transports.ray.cluster import cluster
            from cluster.transports.ray.transport import RayTransport

            stack.enter_context(cluster())
            transport = RayTransport()
        elif name == "processes":
            from cluster.transports.processes import ProcessTransport

            transport = ProcessTransport()
        else:
            from cluster.transports.local import LocalTransport

            transport = LocalTransport()
        stack.callback(transport.close)
        yield transport


def bench_execute(repeats: int = 5, tokens: int = 64, transports: Sequence[str] = TRANSPORTS,
                  batches: Sequence[int] = BATCHES) -> dict[str, Any]:
    """Tokens a second of plain transformers and of each transport, by batch, each transport beside plain in turn."""
    from moe.determinism import pin

    pinned = pin()
    from transformers import AutoTokenizer

    from cluster.config.reading import load_run
    from cluster.resolve import EMBEDDED_FOLDER
    from moe.checkpoint import Checkpoint
    from moe.shell import load_shell

    folder = str(EMBEDDED_FOLDER)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = load_run("demo", []).workload.texts
    plain, shell = Plain(folder), load_shell(Checkpoint(folder))
    told = []
    for name in transports:
        with opened(name) as transport, opened("local") as here:
            tap = Tap(transport)
            rig, local = Rig(shell, tap), None if name == "local" else Rig(shell, here)
            for batch in batches:
                prompts = [tokenizer(texts[i % len(texts)])["input_ids"] for i in range(batch)]
                bare = None if name == "local" else floor(name, rig.devices)
                told.append({"transport": name, "batch": batch,
                             **compare(plain, rig, tap, bare, local, prompts, tokens, repeats)})
    return {"bench": "execute", "host": host(), "tokens": tokens, "pinned": pinned, "target_ratio": TARGET,
            "cases": told}


def compare(plain: Plain, rig: Rig, tap: Tap, bare: Floor | None, local: Rig | None, prompts: Sequence[Sequence[int]],
            tokens: int, repeats: int) -> dict[str, Any]:
    """Plain, `execute` and, where messages are carried, the floor of its calls and `local`, in turn, after one round
    that warms them."""
    seconds: dict[str, list[float]] = {"plain": [], "execute": [], "floor": [], "local": []}
    equal = False
    with ExitStack() as stack:
        if bare is not None:
            stack.enter_context(bare)
        for turn in range(repeats + 1):
            tap.kept.clear()
            alike: list[list[list[int]]] = []
            plain_s = taken(lambda: alike.append(plain.answer(prompts, tokens)))  # noqa: B023 (called at once)
            mine_s = taken(lambda: alike.append(rig.answer(prompts, tokens)))  # noqa: B023
            floor_s = 0.0 if bare is None else bare.seconds(tap.kept)
            local_s = 0.0 if local is None else taken(lambda: local.answer(prompts, tokens))
            equal = alike[0] == alike[1]
            if turn:
                for name, value in (("plain", plain_s), ("execute", mine_s), ("floor", floor_s),
                                    ("local", local_s)):
                    seconds[name].append(value)
    count = len(prompts) * tokens
    row: dict[str, Any] = {"tokens_equal": equal}
    for name in ("plain", "execute"):
        row[f"{name}_tokens_per_s"] = Spread.of(count / s for s in seconds[name]).json()
    row["ratio_to_plain"] = Spread.of(p / e for p, e in zip(seconds["plain"], seconds["execute"], strict=True)).json()
    if bare is not None:
        row["floor_s"] = Spread.of(seconds["floor"]).json()
        row["execute_s"] = Spread.of(seconds["execute"]).json()
        row["local_s"] = Spread.of(seconds["local"]).json()
        row["times_floor"] = Spread.of(e / f for e, f in zip(seconds["execute"], seconds["floor"], strict=True)).json()
        row["times_local_and_floor"] = Spread.of(e / (here + f) for e, here, f in zip(
            seconds["execute"], seconds["local"], seconds["floor"], strict=True)).json()
    return row


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report as lines of the table."""
    lines = []
    for case in report["cases"]:
        for name in ("plain_tokens_per_s", "execute_tokens_per_s", "ratio_to_plain", "times_floor",
                     "times_local_and_floor"):
            if name in case:
                note = f"target {TARGET}" if name == "ratio_to_plain" and case["transport"] == "local" else ""
                lines.append(figure("execute", f"{case['transport']}, batch {case['batch']}", name,
                                    Spread(**case[name]), note=note))
    return lines
