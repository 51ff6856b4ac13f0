"""A scheduler that takes over: what was put into the safe is not done again, and the digest is the same."""

import random
from typing import Any

import pytest

from cluster import execute
from cluster import run as running
from cluster.config.reading import load_run
from cluster.config.run import RunConfig
from cluster.observe.result import Result
from cluster.session import Silent
from cluster.transports.board import Board, News
from cluster.transports.local import LocalTransport
from cluster.transports.ray.hosting import Follower
from cluster.wall.stream import Token
from moe.generate import generate

SMALL = ["workload.output_tokens=4", "workload.requests=4", "workload.batch=1", "transport=local"]


def carried_out(config: RunConfig, kept: dict[str, Any]) -> tuple[dict[str, Result], dict[str, Any]]:
    """A run's results, and what it put into the safe."""
    transport, board = LocalTransport(), Board(kept)
    try:
        results = running.Host(compare=True).run(config, transport, Silent(), None, board)
    finally:
        transport.close()
    return results, board.read().kept


@pytest.mark.slow
def test_batches_and_results_that_are_kept_are_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def counted(*arguments: Any, **more: Any) -> Any:
        asked.append(arguments)
        return generate(*arguments, **more)

    monkeypatch.setattr(execute, "generate", counted)
    config = load_run("demo", [*SMALL, "policy=lru", "against=[tensor_parallel, lru_prefetch]", "forecast=next_gate"])
    whole, kept = carried_out(config, {})
    assert len(asked) == 4
    assert list(kept) == ["lru: batch 0", "lru: batch 1", "lru: batch 2", "lru", "tensor_parallel", "lru_prefetch"]
    for first in range(len(kept) + 1):
        asked.clear()
        again, _ = carried_out(config, dict(list(kept.items())[:first]))
        assert {name: result.digest for name, result in again.items()} == {
            name: result.digest for name, result in whole.items()}
        assert len(asked) == max(0, 4 - first)


def test_nothing_is_told_twice_whichever_scheduler_tells_it() -> None:
    told: list[object] = []

    class Heard:
        def update(self, done: int, total: int, text: str) -> None:
            told.append((done, text))

    follower = Follower(Heard(), told.append)
    token = Token(0, 0, 7, "a", 1e-3, 1.0)
    heard = [(done, "lru") for done in (1, 3, 2, 3, 4)] + [(done, "lfu") for done in (1, 1, 2)]
    for done, policy in heard:
        follower._hear(News((done, 4, f"{policy}: step {done - 1}"), [token] * (done == 4), {f"{policy} {done}": done}))
    assert told == [(1, "lru: step 0"), (3, "lru: step 2"), (4, "lru: step 3"), token, (1, "lfu: step 0"),
                    (2, "lfu: step 1")]
    assert list(follower.kept) == ["lru 1", "lru 3", "lru 2", "lru 4", "lfu 1", "lfu 2"]


def test_what_a_board_is_told_is_read_once() -> None:
    board = Board({"before": 1})
    assert board.get("before") == 1
    board.put("now", random.Random(0))
    assert list(board.read().kept) == ["now"]
    assert board.read() == News(None, [], {})
    assert board.get("now") is None
