"""Continuous batching of the real model: what it answers is what it answers alone, whoever stands beside it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROMPTS = ("def read_lines(path):\n    ", "Fellow citizens of the Senate", "Wählen Sie im Menü", "It was a dark night",
           "The theorem follows from", "a", "Das Haus", "import numpy as np\n\n\ndef mean(values):\n    return")
MOST = 16


@pytest.fixture(scope="module")
def alone() -> Iterator[list[list[int]]]:
    """What the model says to each prompt by itself, likeliest tokens, and its hook."""
    from cluster.execute import ends
    from cluster.resolve import EMBEDDED_FOLDER
    from moe.checkpoint import Checkpoint
    from moe.determinism import pin
    from moe.generate import generate
    from moe.hook import ExpertHook, LocalExperts
    from moe.shell import load_shell

    pin()
    checkpoint = Checkpoint(EMBEDDED_FOLDER)
    model = load_shell(checkpoint)
    with ExpertHook(model, LocalExperts(checkpoint)) as hook:
        yield [list(generate(model, [prompt], MOST, hook=hook, eos=ends(model)).tokens[0]) for prompt in tokens()]


def tokens() -> list[list[int]]:
    from transformers import AutoTokenizer

    from cluster.resolve import EMBEDDED_FOLDER

    tokenizer = AutoTokenizer.from_pretrained(str(EMBEDDED_FOLDER), local_files_only=True)
    return [list(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]


@pytest.mark.parametrize(("transport", "serving", "preempts"), [
    ("local", {"token_budget": 12}, False),
    ("local", {"kv": {"block_tokens": 4, "capacity": "120 kB"}}, True),
    ("processes", {}, False)])
def test_eight_requests_that_come_at_different_steps_are_answered_as_each_alone(
        transport: str, serving: dict[str, object], preempts: bool, alone: list[list[int]]) -> None:
    from .serve_rig import Emulated, Heard, ask, config, served

    async def work(machine: Emulated) -> list[Heard]:
        async def later(i: int) -> Heard:
            while machine.status().steps < i:
                await asyncio.sleep(0.001)
            return await ask(machine, PROMPTS[i], MOST)

        heard = await asyncio.gather(*map(later, range(len(PROMPTS))))
        assert bool(machine.figures()["preempted"]) == preempts
        assert machine.status().kv_blocks_used == 0
        return heard

    limits = {"max_prompt_tokens": 20, "max_output_tokens": MOST}
    heard = served(config("execute", transport=transport, serving=serving, serve=limits, workers=1 if
                          transport == "processes" else None), work)
    assert [one.ids for one in heard] == alone
    assert len({one.end.scheduled_ps for one in heard}) > 3


def test_draws_follow_each_requests_own_seed() -> None:
    from .serve_rig import Emulated, ask, config, served

    async def work(machine: Emulated) -> None:
        one = await ask(machine, PROMPTS[3], MOST, temperature=1.0, seed=5)
        both = await asyncio.gather(*(ask(machine, PROMPTS[3], MOST, temperature=1.0, seed=seed) for seed in (4, 5, 6)))
        assert both[1].ids == one.ids
        assert len({tuple(each.ids) for each in both}) == 3
        said = machine.encode_chat([{"role": "user", "content": "hello"}])
        assert said == machine.encode("user: hello\nassistant:")
        decoded = await ask(machine, PROMPTS[2], MOST)
        assert "\ufffd" not in decoded.text

    served(config("execute"), work)


@pytest.mark.parametrize("family", ["gpt_oss", "deepseek_v2", "phimoe"])
def test_chunks_of_any_sequences_give_the_logits_of_whole_ones(family: str, tmp_path: Path) -> None:
    import torch

    from moe.checkpoint import Checkpoint
    from moe.continuous import Continuous, Piece
    from moe.determinism import pin
    from moe.hook import ExpertHook, LocalExperts
    from moe.shell import load_shell
    from moe.tiny import write_tiny

    pin()
    write_tiny(family, tmp_path)
    checkpoint = Checkpoint(tmp_path)
    one, other = [5, 6, 7, 8, 9, 10, 11, 12, 13], [30, 31, 32]
    plain = load_shell(checkpoint)
    with ExpertHook(plain, LocalExperts(checkpoint)), torch.inference_mode():
        whole = [plain(input_ids=torch.tensor([ids])).logits[0, -1].to(torch.float64) for ids in (one, other)]
    model = load_shell(checkpoint)
    passes = Continuous(model)
    with ExpertHook(model, LocalExperts(checkpoint)):
        passes.forward([Piece(7, 0, one[:5])], [])
        passes.forward([Piece(7, 5, one[5:8]), Piece(2, 0, other[:1])], [])
        logits = passes.forward([Piece(2, 1, other[1:]), Piece(7, 8, one[8:])], [2, 1])
    torch.testing.assert_close(logits, torch.stack(whole), rtol=1e-5, atol=1e-5)
    assert passes.sequences == 2
    passes.drop(7)
    assert passes.sequences == 1
