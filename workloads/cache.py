"""KV memory in blocks: what each request holds of its home's, and the prefixes that several share."""

import numpy as np
from numpy.typing import NDArray

from workloads.requests import Requests

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Cache:
    """Blocks by request and by home.

    A prefix is shared in whole blocks, so `shared` [groups] of a group's; what is left of it each prompt computes.
    The first request of a group on a home computes it; from then on it is there, until no request is left that begins
    with it or, while none that runs does, its room is needed: then the one unused for longest goes first.
    peak, held [homes]: blocks at most, and in the step that was made last.
    """

    def __init__(self, requests: Requests, home: Ints, capacity: Ints, block_tokens: int) -> None:
        self.capacity, self.block_tokens, self._home = capacity, block_tokens, home
        self.blocks = np.zeros(len(requests), np.int64)
        self.attached = np.zeros(len(requests), np.bool_)
        self.private = np.zeros(len(capacity), np.int64)
        self.peak, self.held = np.zeros((2, len(capacity)), np.int64)
        groups = int(requests.prefix.max(initial=-1)) + 1
        length = np.zeros(groups, np.int64)
        alike = requests.prefix >= 0
        length[requests.prefix[alike]] = requests.prefix_tokens[alike]
        self.shared = length // block_tokens
        self.group = np.where(alike, requests.prefix, 0)
        self.shares = alike.copy()
        self.shares[alike] = self.shared[requests.prefix[alike]] > 0
        self.any_shared = bool(self.shares.any())
        shape = (max(groups, 1), len(capacity))
        self.ready = np.zeros(shape, np.bool_)
        self.refs = np.zeros(shape, np.int64)
        self.leaders = np.zeros(shape, np.int64)
        self._left = np.zeros(shape, np.int64)
        np.add.at(self._left, (self.group[self.shares], home[self.shares]), 1)
        self._used_at = np.zeros(shape, np.int64)
        self._now = 0
        self.kept_tokens = 0

    def blocks_of(self, tokens: Ints) -> Ints:
        """Blocks for so many positions."""
        found: Ints = -(-tokens // self.block_tokens)
        return found

    def prefix_blocks(self, number: Ints) -> Ints:
        """Blocks of the prefix that a request begins with, [number]."""
        if not self.any_shared:
            return np.zeros(len(number), np.int64)
        return np.where(self.shares[number], self.shared[self.group[number]], 0)

    def there(self, number: Ints) -> Mask:
        """Whether a request's prefix is in the cache of its home."""
        if not self.any_shared:
            return np.zeros(len(number), np.bool_)
        found: Mask = self.shares[number] & self.ready[self.group[number], self._home[number]]
        return found

    def spared(self, number: Ints) -> Ints:
        """Blocks of its prefix that taking it in costs nothing: another that runs holds them."""
        if not self.any_shared:
            return np.zeros(len(number), np.int64)
        held = self.there(number) & (self.refs[self.group[number], self._home[number]] > 0)
        return np.where(held, self.prefix_blocks(number), 0)

    def eligible(self, waiting: Ints) -> Mask:
        """Who may start: not those whose prefix another computes, or will, since it came first."""
        may = np.ones(len(waiting), np.bool_)
        if self.any_shared:
            late = np.flatnonzero(self.shares[waiting] & ~self.there(waiting))
            key = self.group[waiting[late]] * len(self.capacity) + self._home[waiting[late]]
            first = np.zeros(len(late), np.bool_)
            first[np.unique(key, return_index=True)[1]] = True
            may[late] = first & (self.leaders.ravel()[key] == 0)
        return may

    @property
    def free(self) -> Ints:
        """Free blocks of each home; prefixes that no running request uses count as free."""
        free: Ints = self.capacity - self.private - self._held(self.refs > 0)
        return free

    def _held(self, which: Mask) -> Ints:
        if not self.any_shared:
            return np.zeros(len(self.capacity), np.int64)
        held: Ints = ((which & self.ready) * self.shared[:, None]).sum(axis=0)
        return held

    def start(self, number: Ints) -> Ints:
        """Requests that begin to run; positions that each finds in the cache."""
        if not self.any_shared:
            return np.zeros(len(number), np.int64)
        there = self.there(number)
        self.attached[number] = there
        np.add.at(self.refs, self._places(number[there]), 1)
        leads = self.shares[number] & ~there
        np.add.at(self.leaders, self._places(number[leads]), 1)
        found = np.where(there, self.prefix_blocks(number) * self.block_tokens, 0)
        self.kept_tokens += int(found.sum())
        return found

    def _places(self, number: Ints) -> tuple[Ints, Ints]:
        return self.group[number], self._home[number]

    def grow(self, number: Ints, tokens: Ints) -> None:
        """Give each request the blocks for so many positions in all."""
        now = self.blocks_of(tokens)
        if self.any_shared:
            now -= np.where(self.attached[number], self.prefix_blocks(number), 0)
        more = np.maximum(now - self.blocks[number], 0)
        self.blocks[number] += more
        self.private += np.bincount(self._home[number], more, len(self.capacity)).astype(np.int64)

    def settle(self) -> Mask:
        """Drop unused prefixes where a home holds too much, note the peak; homes that hold too much even so."""
        self._now += 1
        self._used_at[self.refs > 0] = self._now
        for home in np.flatnonzero(self.private + self._held(self.ready) > self.capacity).tolist() \
                if self.any_shared else ():
            idle = np.flatnonzero(self.ready[:, home] & (self.refs[:, home] == 0))
            for group in idle[np.argsort(self._used_at[idle, home], kind="stable")].tolist():
                if (self.private + self._held(self.ready))[home] <= self.capacity[home]:
                    break
                self.ready[group, home] = False
        held = self.private + self._held(self.ready)
        self.peak, self.held = np.maximum(self.peak, held), held
        over: Mask = held > self.capacity
        return over

    def publish(self, number: Ints, cached: Ints) -> None:
        """Prefixes that these requests have computed by now belong to their groups."""
        if not self.any_shared:
            return
        done = self.shares[number] & ~self.attached[number] & (
            cached >= self.prefix_blocks(number) * self.block_tokens)
        number = number[done]
        where = self._places(number)
        self.ready[where], self.attached[number] = True, True
        self.refs[where] += 1
        self.leaders[where] -= 1
        self.blocks[number] -= self.shared[where[0]]
        np.subtract.at(self.private, where[1], self.shared[where[0]])

    def leave(self, number: Ints, *, done: bool) -> None:
        """Requests give up what they hold: at their end, or pre-empted."""
        np.subtract.at(self.private, self._home[number], self.blocks[number])
        self.blocks[number] = 0
        if not self.any_shared:
            return
        attached = number[self.attached[number]]
        np.subtract.at(self.refs, self._places(attached), 1)
        leads = number[self.shares[number] & ~self.attached[number]]
        np.subtract.at(self.leaders, self._places(leads), 1)
        self.attached[number] = False
        if done:
            alike = number[self.shares[number]]
            np.subtract.at(self._left, self._places(alike), 1)
            self.ready &= self._left > 0
