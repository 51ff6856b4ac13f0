"""Tokens of the real model: continuous batching, with every expert computed by the devices of the emulated machine."""

from collections.abc import Mapping

import numpy as np

from cluster.experts import ExpertWork
from cluster.resolve import Setup
from cluster.serve.contract import Ask
from cluster.serve.driver import Driver
from cluster.session import device_specs
from cluster.transports.contract import Transport
from emulation.view import Step
from moe.checkpoint import Checkpoint
from moe.continuous import Continuous, Piece
from moe.determinism import pin
from moe.generate import Sampling, choose
from moe.shell import load_shell


class Real:
    """Where a driver's tokens come from: passes of a checkpoint's model, hooked to the driver."""

    def __init__(self, setup: Setup) -> None:
        assert setup.checkpoint is not None
        pin()
        self._model = load_shell(Checkpoint(setup.checkpoint))
        self._passes = Continuous(self._model)
        self._known: dict[int, list[int]] = {}
        self._choice: dict[int, tuple[Sampling, np.random.Generator] | None] = {}
        self._work: ExpertWork | None = None

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer."""
        named = self._model.config.eos_token_id
        return [] if named is None else [named] if isinstance(named, int) else list(named)

    def drive(self, driver: Driver, transport: Transport) -> None:
        """Make this driver's tokens from now on; its devices start anew."""
        setup = driver.setup
        if self._work is not None:
            self._work.hook.detach()
        for number in list(self._known):
            self.drop(number)
        transport.open(device_specs(driver.scheduler.ledger, str(setup.checkpoint)))
        transport.wait()
        driver.transport, driver.tokens = transport, self
        self._work = ExpertWork(driver, self._model, setup.config.forecast.name)
        self._work.hook.attach()

    def begin(self, number: int, ask: Ask) -> None:
        self._known[number] = list(ask.prompt)
        chosen = Sampling(ask.seed, ask.temperature) if ask.temperature else None
        self._choice[number] = None if chosen is None else (chosen, chosen.stream(0))

    def prepare(self, step: Step) -> None:
        """Nothing: the model routes as it goes."""

    def make(self, step: Step) -> Mapping[int, int]:
        assert self._work is not None
        bounds = np.flatnonzero(np.r_[True, step.sequence[1:] != step.sequence[:-1], True])
        pieces = []
        for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            number, first = int(step.sequence[begin]), int(step.position[begin])
            pieces.append(Piece(number, first, self._known[number][first:first + end - begin]))
        self._work.step = step
        wanted = np.flatnonzero(step.ends)
        logits = self._passes.forward(pieces, wanted.tolist()).numpy()
        self._work.step, self._work.layers = None, []
        made: dict[int, int] = {}
        for number, row in zip(step.sequence[wanted].tolist(), logits, strict=True):
            made[number] = choose(row, *(self._choice[number] or (None, None)))
            self._known[number].append(made[number])
        return made

    def drop(self, number: int) -> None:
        self._known.pop(number, None)
        self._choice.pop(number, None)
        self._passes.drop(number)
