"""A policy that does anything the contract allows, drawn from a seed: to look for a run faster than its bound."""

import numpy as np

from emulation.ledger import Start
from emulation.machine import Machine
from emulation.ops import DEMAND, PREFETCH
from emulation.plan import ALL_PARTS, EXCHANGES, Plan, Served
from emulation.view import Setting, View


def able(machine: Machine) -> list[int]:
    return [d for d, device in enumerate(machine.devices) if device.computes and "expert" in device.kernels]


class Wild:
    """Cuts, placements, token splits, loads, prefetches, evictions and exchanges at random.

    `lossy`: also drops pairs, and runs forecast experts a layer early. `lazy`: how rarely it moves or cuts anything.
    """

    def __init__(self, seed: int, *, lossy: bool = False, lazy: float = 0.5) -> None:
        self._seed, self.exact, self._lazy = seed, not lossy, lazy

    def start(self, setting: Setting) -> tuple[Start, int]:
        rng = np.random.default_rng(self._seed)
        machine, model = setting.machine, setting.model
        parts = int(rng.integers(1, 4)) if rng.random() > self._lazy else 1
        shape = (len(model.moe_layers), model.experts)
        rest = rng.choice(np.array(machine.stores), (*shape, parts))
        if rng.random() < self._lazy:
            rest = np.repeat(rest[:, :, :1], parts, axis=2)
        size = sum(model.expert_work(model.columns(p, parts)).weight_bytes for p in range(parts))
        copies = {}
        for device in able(machine):
            mask = rng.random(shape) < rng.random() + self._lazy / 2
            mask &= ~(rest == device).any(axis=2)
            free = int(setting.budget_bytes[device]) - (rest == device).sum() * (size // parts + 1)
            mask.ravel()[np.flatnonzero(mask)[max(0, int(free // size)):]] = False
            if mask.any():
                copies[device] = mask
        return Start(rest, copies), 0

    def plan(self, view: View, state: int) -> tuple[Plan, int]:
        rng = np.random.default_rng([self._seed, state])
        plan = Plan(view.layer, EXCHANGES[rng.integers(3)])
        pairs, parts, devices = view.routing.pairs, view.ledger.start.parts, able(view.setting.machine)
        done = np.zeros(len(pairs.token), np.bool_)
        if not self.exact:
            done = self._serve(view, plan, rng)
        free = {d: view.ledger.free_bytes(d) for d in devices}
        ready: set[tuple[int, int, int]] = set()
        size = view.ledger.part_bytes
        for expert in rng.permutation(view.routing.active).tolist():
            tokens = pairs.token[(pairs.expert == expert) & ~done]
            if not len(tokens):
                continue
            split = parts > 1 and rng.random() > self._lazy
            for part in range(parts) if split else (ALL_PARTS,):
                groups = [tokens]
                if len(tokens) > 1 and rng.random() > self._lazy:
                    cut = int(rng.integers(1, len(tokens)))
                    groups = [tokens[:cut], tokens[cut:]]
                for some in groups:
                    wanted = range(parts) if part == ALL_PARTS else (part,)
                    held = [d for d in devices if all(view.ledger.has(d, view.moe, expert, p) or (d, expert, p) in ready
                                                      for p in wanted)]
                    fits = [d for d in devices if d not in held and (view.setting.machine.routes.keys() >= {
                            (int(view.ledger.start.rest[view.moe, expert, p]), d) for p in wanted})
                            and free[d] >= size.sum()]
                    stays = held and (rng.random() < self._lazy or not fits)
                    device = int(rng.choice(held if stays else fits or held or devices))
                    for p in wanted:
                        if not view.ledger.has(device, view.moe, expert, p) and (device, expert, p) not in ready:
                            plan.load(expert, to=device, part=p, priority=DEMAND)
                            ready.add((device, expert, p))
                            free[device] -= int(size[p])
                    plan.run(expert, on=device, part=part, tokens=some)
        self._ahead(view, plan, rng, free)
        return plan, state + 1

    def _ahead(self, view: View, plan: Plan, rng: np.random.Generator, free: dict[int, int]) -> None:
        """Prefetch the next layer's, run some of it early, and evict some of this layer's."""
        if view.next_layer is None:
            return
        for expert in range(view.setting.model.experts):
            for device in free:
                held = bool(view.held_next(device)[expert])
                away = all(not view.ledger.has(device, view.moe + 1, expert, p) for p in range(view.ledger.start.parts))
                reach = all((int(s), device) in view.setting.machine.routes
                            for s in view.ledger.start.rest[view.moe + 1, expert])
                if away and reach and free[device] >= view.ledger.part_bytes.sum() and rng.random() < 0.2:
                    plan.load(expert, to=device, layer=view.next_layer, priority=PREFETCH)
                    free[device] -= int(view.ledger.part_bytes.sum())
                elif held and not self.exact and view.forecast is not None and rng.random() < 0.5:
                    of = view.forecast.pairs
                    tokens = of.token[of.expert == expert]
                    if len(tokens):
                        plan.run(expert, on=device, layer=view.next_layer, tokens=tokens)
                        break

    def _serve(self, view: View, plan: Plan, rng: np.random.Generator) -> np.ndarray:
        """Drop some pairs, take early results where there are any; which pairs need no run now."""
        pairs, early = view.routing.pairs, view.early
        fed = {(t, e): layer for t, e, layer in zip(*(c.tolist() for c in early), strict=True)}
        layer = np.array([fed.get((t, e), view.layer) for t, e in zip(pairs.token.tolist(), pairs.expert.tolist(),
                                                                     strict=True)], np.int64)
        drop = (rng.random(len(pairs.token)) < 0.2) & (layer == view.layer)
        kept = ~drop
        plan.served = Served(pairs.token[kept], pairs.expert[kept], pairs.weight[kept], layer[kept], pairs.expert[kept])
        done: np.ndarray = drop | (layer != view.layer)
        return done
