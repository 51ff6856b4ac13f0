"""The policies of the engine, written for torch: six ways to run one layer's experts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from studies.offload.engine import Chosen, Engine, Layer
from studies.offload.near import Job, Slot


class Resident(Engine):
    """All experts near."""

    def experts(self, number: int, layer: Layer, chosen: Chosen, ahead: Chosen | None, x: Tensor,
                out: Tensor) -> Tensor:
        """Each where it is."""
        self.counts.hits += len(chosen.tokens)
        for expert in chosen.tokens:
            self.compute(layer.place[expert], expert, chosen, x, out)
        return out


class OnDemand(Engine):
    """Each routed expert is copied, in routing order, into the next of the staging slots, and computed."""

    staged = True
    copies = 0

    def experts(self, number: int, layer: Layer, chosen: Chosen, ahead: Chosen | None, x: Tensor,
                out: Tensor) -> Tensor:
        """Slot: number of copies so far, modulo the slots."""
        self.counts.misses += len(chosen.tokens)
        for expert in chosen.tokens:
            slot = self.staging[self.copies % len(self.staging)]
            self.copies += 1
            self.fetch(slot, layer, expert)
            self.compute(slot, expert, chosen, x, out)
        return out


class Lru(Engine):
    """A cache a layer: hits first, then each miss over the least recently used expert."""

    def experts(self, number: int, layer: Layer, chosen: Chosen, ahead: Chosen | None, x: Tensor,
                out: Tensor) -> Tensor:
        """Hits are touched and computed first, in routing order; then each miss in turn."""
        hits = [e for e in chosen.tokens if e in layer.place]
        misses = [e for e in chosen.tokens if e not in layer.place]
        self.counts.hits += len(hits)
        self.counts.misses += len(misses)
        for expert in hits:
            layer.place[expert] = layer.place.pop(expert)
            self.compute(layer.place[expert], expert, chosen, x, out)
        for expert in misses:
            self.compute(self.replace(layer, expert), expert, chosen, x, out)
        return out

    def replace(self, layer: Layer, expert: int, spare: Sequence[int] = ()) -> Slot:
        """Copy an expert over the least recently used one, of those not to spare if there are any."""
        victim = next((e for e in layer.place if e not in spare), next(iter(layer.place)))
        slot = layer.place.pop(victim)
        self.fetch(slot, layer, expert)
        layer.place[expert] = slot
        return slot


class LruPrefetch(Lru):
    """The same; then the next layer's forecast experts that are absent are copied, at most half the slots."""

    def experts(self, number: int, layer: Layer, chosen: Chosen, ahead: Chosen | None, x: Tensor,
                out: Tensor) -> Tensor:
        """As lru, then the copies for the next layer."""
        out = super().experts(number, layer, chosen, ahead, x, out)
        if ahead is not None:
            following = self.layers[number + 1]
            absent = [e for e in ahead.tokens if e not in following.place]
            for expert in absent[:len(following.slots) // 2]:
                self.replace(following, expert, spare=list(ahead.tokens))
        return out


class CpuStatic(Engine):
    """The most frequent experts are fixed near; the others run on the worker thread."""

    def experts(self, number: int, layer: Layer, chosen: Chosen, ahead: Chosen | None, x: Tensor,
                out: Tensor) -> Tensor:
        """The far ones as one job, meanwhile the near ones, then the job's sum."""
        far = self.split(layer, chosen)
        job = self.job(layer, far, chosen, self.hosted(x)) if far else None
        self.near_ones(layer, chosen, x, out)
        return self.gather(job, out)

    def split(self, layer: Layer, chosen: Chosen) -> list[int]:
        """The routed experts that are not near; hits and misses are counted."""
        far = [e for e in chosen.tokens if e not in layer.place]
        self.counts.hits += len(chosen.tokens) - len(far)
        self.counts.misses += len(far)
        return far

    def near_ones(self, layer: Layer, chosen: Chosen, x: Tensor, out: Tensor) -> None:
        """The routed experts that are near."""
        for expert in chosen.tokens:
            if expert in layer.place:
                self.compute(layer.place[expert], expert, chosen, x, out)

    def gather(self, job: Job | None, out: Tensor) -> Tensor:
        """Add what the worker thread summed."""
        return out if job is None else out.add_(job.result().to(self.near.device, non_blocking=True))


class CpuPrecalc(CpuStatic):
    """Far experts start one layer early, on this layer's input, where the forecast names them.

    That job's result is final: a routed far expert that was not forecast is replaced by the layer's most frequent near
    one.
    """

    def experts(self, number: int, layer: Layer, chosen: Chosen, ahead: Chosen | None, x: Tensor,
                out: Tensor) -> Tensor:
        """The next layer's guess starts before this layer's near experts are issued."""
        job, guessed = self.early, self.guessed
        far = self.split(layer, chosen)
        if job is not None:
            chosen = self.substituted(layer, chosen, [e for e in far if e not in guessed])
        elif far:
            job = self.job(layer, far, chosen, self.hosted(x))
        self.forget()
        if ahead is not None:
            following = self.layers[number + 1]
            if early := [e for e in ahead.tokens if e not in following.place]:
                self.early, self.guessed = self.job(following, early, ahead, self.hosted(x)), frozenset(early)
        self.near_ones(layer, chosen, x, out)
        return self.gather(job, out)

    def substituted(self, layer: Layer, chosen: Chosen, missing: list[int]) -> Chosen:
        """The routing with the missing experts' tokens given to the most frequent near one."""
        if not missing:
            return chosen
        self.counts.substituted += len(missing)
        first = next(reversed(layer.place))
        givers = ([first] if first in chosen.tokens else []) + missing
        tokens = {**chosen.tokens, first: torch.cat([chosen.tokens[e] for e in givers])}
        near = {**chosen.near, first: torch.cat([chosen.near[e] for e in givers])}
        whole = chosen.whole - {first} if self.batch > 1 else frozenset(tokens)
        return Chosen(tokens, near, whole)


ENGINES: dict[str, type[Engine]] = {
    "resident": Resident, "on_demand": OnDemand, "lru": Lru, "lru_prefetch": LruPrefetch, "cpu_static": CpuStatic,
    "cpu_precalc": CpuPrecalc}
