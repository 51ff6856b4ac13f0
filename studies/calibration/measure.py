"""What is measured of a machine: parts of running engines, queued kernels and copies, in columns for the fits."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emulation.model import Model
from studies.calibration.watch import Samples, watched
from studies.counted import attention_work, expert_work, model_of, router_work
from studies.offload.body import Dense, Maker, Shape, ffn
from studies.offload.measure import Routes
from studies.offload.near import Near
from studies.offload.policies import ENGINES

WARM_STEPS = 4
POLICIES = ("resident", "on_demand", "cpu_static")
QUEUE = 8
"""Kernels or copies that are queued back to back, and divided by."""
ROTATED_BYTES = 1 << 29
"""Copies come in turn from so many bytes: more than a host's caches hold."""


@dataclass
class Column:
    """Measured rows of one family: bytes and flops of each, and its seconds."""

    bytes_: list[float] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, bytes_: float, flops: float, seconds: float | None) -> None:
        """One row, where anything was seen."""
        if seconds is not None and seconds > 0:
            self.bytes_.append(bytes_)
            self.flops.append(flops)
            self.seconds.append(seconds)

    @property
    def median_s(self) -> float:
        """Median over the rows; 0 where there are none."""
        return statistics.median(self.seconds) if self.seconds else 0.0


@dataclass
class Measured:
    """Rows by what was measured, and how many samples stand behind them."""

    columns: dict[str, Column] = field(default_factory=dict)
    overlaps: list[float] = field(default_factory=list)
    samples: int = 0

    @property
    def overlap(self) -> float:
        """How much of the shorter of two works is hidden, one near and one on a worker thread: median over engines."""
        return statistics.median(self.overlaps) if self.overlaps else 1.0

    def column(self, what: str) -> Column:
        """The rows of one thing."""
        return self.columns.setdefault(what, Column())


def element_bytes(dtype: torch.dtype) -> int:
    """Bytes of one element."""
    return torch.empty(0, dtype=dtype).element_size()


PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}
"""How configs name what is computed in."""


def routes(shape: Shape, batch: int, steps: int, seed: int, device: torch.device) -> Routes:
    """Routing at random: what is measured is what operations cost, not how well a cache does."""
    rng = np.random.default_rng([seed, batch])
    order = rng.random((steps * batch, shape.layers, shape.experts)).argsort(axis=-1)
    experts = order[..., :shape.top_k]
    return Routes.of(experts, experts, np.repeat(np.arange(steps), batch), shape.experts, device)


def engines(into: Measured, shape: Shape, near: Near, make: Maker, far: list[list[Tensor]], batch: int, steps: int,
            dtype: torch.dtype, seed: int) -> None:
    """Engines of three policies, their parts timed; rows by family go into the columns."""
    routed = routes(shape, batch, steps + WARM_STEPS, seed, near.device)
    model, each = model_of(shape, PRECISIONS[dtype]), element_bytes(dtype)
    of = {policy: Samples() for policy in POLICIES}
    for policy, samples in of.items():
        slots = {"resident": shape.experts, "on_demand": 2, "cpu_static": shape.experts // 2}[policy]
        engine = watched(ENGINES[policy])(shape, near, make, far, batch, slots, routed.popular)
        engine.watch(samples)  # type: ignore[attr-defined]
        try:
            with torch.inference_mode():
                for number, (chosen, guess) in enumerate(zip(routed.steps, routed.guesses, strict=True)):
                    if number == WARM_STEPS:
                        samples.forget()
                    engine.step(chosen, guess)
        finally:
            engine.worker.close()
        into.samples += sum(map(len, samples.by.values()))
        _rows(into, policy, samples, shape, model, batch, each)
    asked = of["on_demand"]
    for what in asked.by:
        behind, alone, fetch = asked.median(what), of["resident"].median(what), asked.median("fetch")
        if what.startswith("near") and behind is not None and alone is not None and fetch is not None:
            into.column("copy in engine").add(shape.expert_elements * each, 0, fetch + behind - alone)
    hidden = overlap(of, shape.layers)
    if hidden is not None:
        into.overlaps.append(hidden)


def _rows(into: Measured, policy: str, samples: Samples, shape: Shape, model: Model, batch: int, each: int) -> None:
    rows = 2.0 * batch * shape.d_model * each
    if policy == "resident":
        into.column("attention").add(*attention_work(model, batch, shape.context), samples.median("attention"))
        into.column("router").add(*router_work(model, batch), samples.median("route"))
        into.column("norm").add(rows, 0, samples.median("normed"))
        into.column("between").add(rows, 0, samples.median("between"))
    if policy == "on_demand":
        into.column("fetch").add(shape.expert_elements * each, 0, samples.median("fetch"))
    if policy == "cpu_static":
        into.column("far start").add(rows / 2, 0, samples.median("far start"))
    for what in samples.by:
        head, _, tokens = what.rpartition(" ")
        if head == "far" and policy == "cpu_static" and tokens.isdigit():
            into.column("far").add(*expert_work(model, int(tokens)), samples.median(what))
        if head in ("near whole", "near gathered") and policy == "resident":
            into.column(head).add(*expert_work(model, int(tokens)), samples.median(what))


def fetches(into: Measured, near: Near, sizes: Sequence[int], dtype: torch.dtype, repeats: int) -> None:
    """Copies into a GPU's memory, queued back to back, as an engine that loads does, out of more than caches hold."""
    each = element_bytes(dtype)
    for bytes_ in sizes:
        elements = bytes_ // each
        sources = [torch.zeros(elements, dtype=dtype, pin_memory=True)
                   for _ in range(max(2, min(QUEUE * 8, ROTATED_BYTES // bytes_)))]
        slots = near.slots(QUEUE, elements, dtype)
        queued = []
        for number in range(max(3, repeats // QUEUE)):
            begin = time.perf_counter()
            for i, slot in enumerate(slots):
                near.fetch(slot, sources[(number * QUEUE + i) % len(sources)])
            for slot in slots:
                near.take(slot)
            near.finish()
            queued.append((time.perf_counter() - begin) / QUEUE)
        into.column("copy queued").add(bytes_, 0, statistics.median(queued))
        into.samples += len(queued)


def overlap(of: Mapping[str, Samples], layers: int) -> float | None:
    """How much of the shorter of two works was hidden in an engine whose far experts run on a worker thread.

    1: near and far side by side, as if each were alone. 0: one after the other, as where both need the interpreter's
    lock all the time. The near work is what it takes where nothing runs beside it, the far work what it took.
    """
    alone, static = of["resident"].by, of["cpu_static"].by
    steps = len(static["step"])
    dense = layers * sum(statistics.median(alone[what]) for what in ("attention", "route", "normed", "between"))
    near = sum(statistics.median(alone[what]) * len(seen) for what, seen in static.items()
               if what.startswith("near") and alone.get(what)) / steps
    far = sum(sum(seen) for what, seen in static.items() if what.startswith("far")) / steps
    far += sum(static["to_host"]) / steps
    shorter = min(near, far)
    return (dense + near + far - statistics.median(static["step"])) / shorter if shorter > 0 else None


def queued_s(run: Callable[[], object]) -> float:
    """GPU seconds of what `run` issues, QUEUE times back to back: the GPU waits until all of it is issued."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda._sleep(4_000_000)  # type: ignore[no-untyped-call]  # about 2 ms
    begin.record()
    for _ in range(QUEUE):
        run()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / QUEUE


def _next_expert(turns: Iterator[Tensor], shape: Shape, x: Tensor) -> None:
    ffn(next(turns), shape, x)


def kernels(into: Measured, shapes: Sequence[Shape], tokens: Sequence[int], make: Maker, dtype: torch.dtype,
            repeats: int) -> None:
    """GPU time of experts, issue hidden: queued behind a wait on the GPU, weights rotated beyond its caches."""
    each = element_bytes(dtype)
    for shape in shapes:
        model = model_of(shape, PRECISIONS[dtype])
        count = max(2, min(64, int(3e8 / (shape.expert_elements * each)) + 1))
        turns = cycle([make("expert", (shape.expert_elements,)) for _ in range(count)])
        for n in tokens:
            x, seen = make("x", (n, shape.d_model)), []
            for number in range(repeats + 1):
                took = queued_s(partial(_next_expert, turns, shape, x))
                if number:
                    seen.append(took)
            into.column("gpu expert").add(*expert_work(model, n), statistics.median(seen))
            into.samples += len(seen)


def small(into: Measured, shape: Shape, make: Maker, batch: int, repeats: int) -> None:
    """GPU time of what surrounds an expert, issue hidden; what an add and a synchronisation cost the host."""
    x = make("x", (batch, shape.d_model))
    model, each = model_of(shape, PRECISIONS[x.dtype]), x.element_size()
    dense, ids = Dense(shape, 0, batch, make, x.device), torch.arange(batch // 2, device=x.device)
    out, few = torch.zeros_like(x), torch.zeros(batch, dtype=torch.int64, device=x.device)
    rows = 2.0 * batch * shape.d_model * each
    runs: dict[str, tuple[float, Callable[[], object]]] = {
        "gpu gather": (rows, lambda: x.index_select(0, ids)),
        "gpu scatter": (rows, lambda: out.index_add_(0, ids, x[:batch // 2])),
        "gpu norm": (rows, lambda: dense.normed(x)), "gpu add": (rows, lambda: out.add_(x)),
        "gpu router": (rows, lambda: torch.topk(F.linear(x, dense.router).softmax(-1), shape.top_k)),
        "gpu attention": (attention_work(model, batch, shape.context)[0], lambda: dense.attention(x))}
    with torch.inference_mode():
        for what, (bytes_, run) in runs.items():
            seen = [queued_s(run) for _ in range(repeats + 1)][1:]
            into.column(what).add(bytes_, 0, statistics.median(seen))
        for what, call in (("sync", few.cpu), ("issue of an add", partial(out.add_, x))):
            took = []
            for _ in range(repeats * 10):
                begin_s = time.perf_counter()
                call()
                took.append(time.perf_counter() - begin_s)
                torch.cuda.synchronize()
            into.column(what).add(0, 0, statistics.median(took))
            into.samples += len(took)
