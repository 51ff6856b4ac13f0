"""The wall clock on Ray: the same result, played by device actors that tell each other what happened."""

import gc
from collections.abc import Iterator

import pytest

import moelab
from cluster import run as running
from cluster.config.reading import load_run
from cluster.config.run import RunConfig

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
              pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


def small(*settings: str) -> RunConfig:
    return load_run("wall_demo", ["workload.output_tokens=3", "wall.dilation=1000", *settings])


@pytest.fixture(autouse=True)
def _handles_are_dropped_within_the_test() -> Iterator[None]:
    yield
    gc.collect()


def test_actors_play_the_same_result_and_tokens_reach_the_driver() -> None:
    heard: list[moelab.Token] = []
    result = moelab.run(small("transport=ray"), on_token=heard.append)
    wall = result.host.wall
    assert wall is not None
    assert result.digest == running.run(small("clock=virtual", "transport=local")).digest
    assert (wall.players, wall.causality_violations, wall.steps) == (5, 0, 3)
    assert wall.hop_s > 0
    assert result.text is not None
    assert [token.token for token in heard] == list(result.text[0].token_ids)
