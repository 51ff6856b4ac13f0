from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from emulation.errors import InputError
from moe.checkpoint import Checkpoint
from moe.experts import DROPPED
from moe.generate import DECODE, PREFILL, Sampling, generate
from moe.hook import ExpertHook, LocalExperts
from moe.predictors import next_gate, next_guess, top_k
from moe.record import Recorder, record
from moe.shell import load_shell

PROMPTS = [[3, 4, 5], [7, 8, 9, 10, 11]]


def hooked(folder: Path) -> ExpertHook:
    checkpoint = Checkpoint(folder)
    return ExpertHook(load_shell(checkpoint), LocalExperts(checkpoint))


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_greedy_is_what_transformers_generates(model_type: str, tiny: Callable[[str], Path]) -> None:
    plain = AutoModelForCausalLM.from_pretrained(tiny(model_type), attn_implementation="eager").eval()
    with hooked(tiny(model_type)) as hook:
        together = generate(hook.model, PROMPTS, 6, hook=hook)
    assert together.steps == 6
    for prompt, tokens in zip(PROMPTS, together.tokens, strict=True):
        whole = plain.generate(
            torch.tensor([prompt]), do_sample=False, min_new_tokens=6, max_new_tokens=6, eos_token_id=None
        )
        assert whole[0, len(prompt) :].tolist() == list(tokens)


def test_steps_name_the_tokens_that_are_routed(tiny: Callable[[str], Path]) -> None:
    steps: list[tuple[int, int, list[tuple[int, int]]]] = []
    routed: list[int] = []
    with hooked(tiny("mixtral")) as hook:
        inner = hook.runner

        def counting(layer: int, hidden: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            routed.append(len(hidden))
            return inner(layer, hidden, experts, weights)

        hook.runner = counting
        answer = generate(
            hook.model, PROMPTS, [3, 1], hook=hook, on_step=lambda step, phase, rows: steps.append((step, phase, rows))
        )
        assert hook.mask is None
    prompt_rows = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    assert steps == [(0, PREFILL, prompt_rows), (1, DECODE, [(0, 3)]), (2, DECODE, [(0, 4)])]
    assert [len(tokens) for tokens in answer.tokens] == [3, 1]
    assert routed == [8] * 3 + [1] * 6


def test_a_sequence_ends_at_its_end_token(tiny: Callable[[str], Path]) -> None:
    with hooked(tiny("mixtral")) as hook:
        free = generate(hook.model, PROMPTS, 6, hook=hook).tokens
        end = free[0][2]
        assert end not in free[0][:2]
        ended = generate(hook.model, PROMPTS, 6, hook=hook, eos=[end]).tokens
    assert ended[0] == free[0][:3]


def test_sampling_repeats_by_seed_and_does_not_depend_on_the_batch(tiny: Callable[[str], Path]) -> None:
    with hooked(tiny("olmoe")) as hook:
        draws = [generate(hook.model, PROMPTS, 8, hook=hook, sampling=Sampling(seed)).tokens for seed in (1, 1, 2)]
        alone = generate(hook.model, PROMPTS[:1], 8, hook=hook, sampling=Sampling(1)).tokens
        twice = generate(hook.model, PROMPTS[:1] * 2, 8, hook=hook, sampling=Sampling(1)).tokens
        cold = generate(hook.model, PROMPTS, 4, hook=hook, sampling=Sampling(1, temperature=1e-4)).tokens
        greedy = generate(hook.model, PROMPTS, 4, hook=hook).tokens
    assert draws[0] == draws[1] != draws[2]
    assert draws[0][0] != draws[0][1]
    assert alone[0] == draws[0][0]
    assert twice[0] == alone[0] != twice[1]
    assert cold == greedy


@pytest.mark.parametrize(("prompts", "limits"), [([], 3), ([[1], []], 3), ([[1]], 0), ([[1], [2]], [3])])
def test_empty_requests_are_refused(prompts: list[list[int]], limits: int | list[int]) -> None:
    with pytest.raises(InputError):
        generate(torch.nn.Identity(), prompts, limits)


def test_a_hook_that_is_not_attached_is_refused(tiny: Callable[[str], Path]) -> None:
    plain = AutoModelForCausalLM.from_pretrained(tiny("mixtral")).eval()
    with pytest.raises(InputError, match="no expert layer of mixtral went through the hook"):
        generate(plain, PROMPTS, 1, hook=ExpertHook(plain, LocalExperts(Checkpoint(tiny("mixtral")))))
    with ExpertHook(plain, LocalExperts(Checkpoint(tiny("mixtral")))) as hook:
        generate(plain, PROMPTS, 1, hook=hook)
    with pytest.raises(InputError, match="no expert layer of mixtral went through the hook"):
        generate(plain, PROMPTS, 1, hook=hook)


@pytest.mark.parametrize("model_type", ["mixtral", "deepseek_v3", "minimax_m2", "phimoe", "gpt_oss", "ernie4_5_moe"])
def test_a_trace_is_what_the_routers_decided(model_type: str, tiny: Callable[[str], Path]) -> None:
    with hooked(tiny(model_type)) as hook:
        decided: dict[int, list[torch.Tensor]] = {layer: [] for layer in hook.layers}
        inputs: dict[int, list[torch.Tensor]] = {layer: [] for layer in hook.layers}
        shape = Checkpoint(tiny(model_type)).shape
        inner = hook.runner

        def watching(layer: int, hidden: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            decided[layer].append(experts)
            inputs[layer].append(hidden)
            return inner(layer, hidden, experts, weights)

        hook.runner = watching
        answer, trace = record(hook, PROMPTS, 4, model="tiny", num_experts=shape.experts)
        assert hook.runner is watching
        assert generate(hook.model, PROMPTS, 4, hook=hook).tokens == answer.tokens
        tokens, layers = 8 + 2 * 3, len(shape.moe_layers)
        second = hook.layers[1]
        correction = (hook.blocks[second].e_score_correction_bias,) if model_type == "minimax_m2" else ()
        shown = torch.cat(inputs[hook.layers[0]])[:tokens]
        with torch.no_grad():
            picked = hook.routers[second](shown, *correction)[2]
    arrays = trace.arrays()
    assert (
        arrays["experts"].shape == arrays["weights"].shape == arrays["forecast"].shape == (tokens, layers, shape.top_k)
    )
    assert [arrays[name].dtype for name in ("experts", "forecast", "weights")] == [np.uint16, np.uint16, np.float32]
    assert arrays["layer_ids"].tolist() == list(shape.moe_layers)
    assert (trace.num_experts, trace.model) == (shape.experts, "tiny")
    assert trace.step.tolist() == [0] * 8 + [1, 1, 2, 2, 3, 3]
    assert trace.phase.tolist() == [0] * 8 + [1] * 6
    assert trace.sequence.tolist() == [0] * 3 + [1] * 5 + [0, 1] * 3
    assert trace.position.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 3, 5, 4, 6, 5, 7]
    for at, layer in enumerate(hook.layers):
        expected = torch.cat(decided[layer])[:tokens].numpy()
        assert (trace.experts[:, at].astype(np.int64) == expected).all()
    assert (trace.forecast[:, 0] == DROPPED).all()
    assert (np.sort(trace.forecast[:, 1].astype(np.int64)) == np.sort(picked.numpy())).all()


def test_the_next_gate_guesses_better_than_chance_and_not_perfectly(tiny: Callable[[str], Path]) -> None:
    with hooked(tiny("mixtral")) as hook:
        _, trace = record(hook, PROMPTS, 8, model="tiny", num_experts=8)
        assert next_gate(hook, hook.layers[-1], torch.zeros(1, 64)) is None
        with pytest.raises(InputError, match="saw 0 tokens"):
            Recorder(hook, hook.runner).trace("tiny", 8)
    hits = (trace.forecast[:, 1:, :, None] == trace.experts[:, 1:, None, :]).any(-1).mean()
    assert 3 / 8 < hits < 1.0


@pytest.mark.parametrize("model_type", ["mixtral", "olmoe", "deepseek_v3"])
def test_a_guess_carries_the_gates_weights_and_where_it_picks_by_logits_all_probabilities(
        tiny: Callable[[str], Path], model_type: str) -> None:
    with hooked(tiny(model_type)) as hook:
        hidden = torch.randn(5, hook.model.config.hidden_size, generator=torch.Generator().manual_seed(1))
        guess = next_guess(hook, hook.layers[0], hidden)
        assert guess is not None
        router, block = hook.routers[hook.layers[1]], hook.blocks[hook.layers[1]]
        bias = getattr(block, "e_score_correction_bias", None)
        with torch.no_grad():
            _, weights, picks = router(hidden, bias) if isinstance(bias, torch.Tensor) else router(hidden)
    assert (guess.experts.sort(-1).values == picks.sort(-1).values).all()
    assert torch.allclose(guess.weights.double().sort(-1).values, weights.double().sort(-1).values, atol=1e-6)
    if model_type == "deepseek_v3":
        assert guess.probabilities is None
    else:
        assert guess.probabilities is not None
        assert torch.allclose(guess.probabilities.sum(-1), torch.ones(5).double())
        assert (guess.probabilities.argmax(-1) == guess.experts[:, 0]).all()


def test_ties_go_to_the_lower_id() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert top_k(scores, 3).tolist() == [[1, 3, 2], [0, 1, 2]]
    assert top_k(torch.zeros(1, 300), 4).tolist() == [[0, 1, 2, 3]]
