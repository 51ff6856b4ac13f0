"""Encoder-decoder models in `execute`: the logits of plain transformers, their own capacity and drops included."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from cluster.config.reading import load_run
from cluster.main import enter
from cluster.one_run import OneRun
from cluster.resolve import EMBEDDED_FOLDER, Setup, resolve
from cluster.session import Silent
from cluster.transports.local import LocalTransport
from emulation.errors import ConfigError
from emulation.trace import NO_EXPERT
from moe.checkpoint import Checkpoint
from moe.determinism import is_pinned, pin
from moe.handed import nllb_routing, repaired, switch_routing
from moe.hook import ExpertHook, LocalExperts
from moe.predictors import next_guess
from moe.shell import load_shell
from moe.translate import translate
from studies.price import Heard, price

TEXTS = ["It was a dark night, and the captain went below", "Wählen Sie im Menü", "a"]
FAMILIES = ("switch_transformers", "nllb-moe")
TOKENS = 5


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny checkpoint with the embedded model's tokenizer."""

    @cache
    def made(model_type: str) -> Path:
        from moe.tiny import write_tiny

        pin()
        out = write_tiny(model_type, tmp_path_factory.mktemp("tiny") / "tiny", vocab_size=4096)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EMBEDDED_FOLDER / name, out / name)
        return out

    return made


def setup_of(folder: Path, place: Path, policy: object = "expert_parallel", **more: Any) -> Setup:
    work = {"work": "execute", "texts": TEXTS, "batch": 3, "output_tokens": TOKENS, **more.pop("workload", {})}
    data = {"machine": "edge-gpu-ndp", "model": {"checkpoint": str(folder)}, "policy": policy, "engine": "spec",
            "workload": work, **more}
    (place / "mine.yaml").write_text(yaml.safe_dump(data))
    return resolve(load_run(place / "mine.yaml"))


def executed(setup: Setup) -> tuple[OneRun, Any, Heard]:
    heard = Heard()
    run = OneRun(setup, setup.policies[0], LocalTransport(), Silent(), on_logits=heard)
    return run, run.execute(), heard


def plain(folder: Path) -> Any:
    return AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)


def prompts(folder: Path) -> list[list[int]]:
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    return [tokenizer(text)["input_ids"] for text in TEXTS]


def largest(batch: int, policy: str, model_type: str) -> float:
    """The largest difference of logits, of the largest logit: 0 with whole experts, but for what rounds otherwise."""
    if policy == "tensor_parallel":
        return 1e-5
    if model_type == "nllb-moe":
        return 1e-6  # its outputs are scaled twice
    return 0.0 if batch == 1 or is_pinned() else 1e-6  # padding is not sent, and other rows may round otherwise


@pytest.mark.parametrize(("policy", "batch"), [
    ({"name": "expert_parallel"}, 1), ({"name": "expert_parallel"}, 3),
    ({"name": "lru_prefetch", "parameters": {"slots": 3}}, 1), ({"name": "tensor_parallel"}, 3)])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_logits_are_those_of_plain_transformers(model_type: str, policy: dict[str, Any], batch: int,
                                                folder: Callable[[str], Path], tmp_path: Path) -> None:
    run, result, heard = executed(setup_of(folder(model_type), tmp_path, policy, forecast="next_gate",
                                           workload={"batch": batch}))
    want, model, asked = Heard(), plain(folder(model_type)), prompts(folder(model_type))
    answers: list[tuple[int, ...]] = []
    with repaired(model):
        for at in range(0, len(asked), batch):
            def note(sequence: int, logits: Any, first: int = at) -> None:
                want(first + sequence, logits)

            answers += translate(model, asked[at:at + batch], TOKENS, eos=[2], on_logits=note).tokens
    assert [row.token_ids for row in result.text] == answers
    off = float(np.abs(heard.all() - want.all()).max() / np.abs(want.all()).max())
    assert off <= largest(batch, policy["name"], model_type)
    assert result.exact
    steps, record = run.session.record.steps, run.session.record.routed
    assert sum(step.encoder for step in steps) == -(-len(asked) // batch)
    passed, apart = record[0].experts[:, :2], record[0].experts[:, 2:]
    assert (apart == NO_EXPERT).all()  # the decoder's layers, which the encoder's step does not pass
    assert (passed == NO_EXPERT).any()  # capacity
    assert (passed != NO_EXPERT).any()


def test_switch_answers_as_transformers_own_generate(folder: Callable[[str], Path], tmp_path: Path) -> None:
    at = folder("switch_transformers")
    _, result, _ = executed(setup_of(at, tmp_path))
    asked = prompts(at)
    width = max(map(len, asked))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in asked])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in asked])
    made = plain(at).generate(input_ids=ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False)[:, 1:]
    for row, want in zip(result.text, made.tolist(), strict=True):
        assert list(row.token_ids) == want[:len(row.token_ids)]
    assert len({row.token_ids for row in result.text}) > 1


def test_times_are_those_of_an_encoder_and_of_steps_of_the_decoder(folder: Callable[[str], Path],
                                                                   tmp_path: Path) -> None:
    _, result, _ = executed(setup_of(folder("switch_transformers"), tmp_path))
    assert result.phases["prefill"].steps == 1
    assert 0 < result.phases["prefill"].time_ps < result.makespan_ps
    assert result.emitted_tokens == sum(len(row.token_ids) for row in result.text)
    other = executed(setup_of(folder("switch_transformers"), tmp_path, engine="compiled"))[1]
    assert other.digest == result.digest


def test_a_price_is_measured_of_these_models_too(folder: Callable[[str], Path], tmp_path: Path) -> None:
    forced = {"forced": True, "texts": [TEXTS[0]], "prompt_tokens": 5, "output_tokens": 4}
    row, = price(setup_of(folder("switch_transformers"), tmp_path, workload=forced).config, ["own"], workers=1)
    assert (row.kl, row.largest_logit_difference, row.tokens) == (0.0, 0.0, 4)


def test_a_trace_of_them_is_refused(folder: Callable[[str], Path], tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    setup_of(folder("switch_transformers"), tmp_path)
    asked = ["trace", "record", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "x.npz")]
    assert enter(asked) == ConfigError.exit_code
    assert "has an encoder" in capsys.readouterr().err


# Their routers


def test_plain_nllb_of_the_installed_version_visits_two_experts_whatever_it_routes(
        folder: Callable[[str], Path]) -> None:
    model, ids = plain(folder("nllb-moe")), torch.arange(3, 15)[None]
    start = torch.zeros((1, 1), dtype=torch.long)

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=ids, decoder_input_ids=start).logits

    broken = logits()
    with repaired(model):
        right = logits()
    for name, tensor in model.named_parameters():
        if any(f"experts.expert_{number}." in name for number in range(2, 8)):
            tensor.data.zero_()
    assert torch.equal(logits(), broken), "transformers was mended: drop moe.handed.repaired"
    with repaired(model):
        assert not torch.equal(logits(), right)
    assert not torch.equal(right, broken)


def test_a_hand_made_routing_is_read_as_the_router_means_it() -> None:
    experts, weights = switch_routing(torch.tensor([[[0, 0, 1]], [[0, 0, 0]]]), torch.tensor([[0.9], [0.8]]))
    assert experts.tolist() == [[2], [-1]]
    assert torch.equal(weights, torch.tensor([[0.9], [0.8]]))
    chances = torch.tensor([[0.25, 0.0, 0.75], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    experts, weights = nllb_routing(torch.empty(0), chances)
    assert experts.tolist() == [[2, 0], [1, -1], [-1, -1]]
    assert weights.tolist() == [[0.75, 0.25], [0.5, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_forecast_ends_with_its_stack(model_type: str, folder: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint(folder(model_type))
    hook = ExpertHook(load_shell(checkpoint), LocalExperts(checkpoint))
    assert hook.layers == checkpoint.shape.moe_layers == (1, 3, 5, 7)
    hidden = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    assert [next_guess(hook, layer, hidden) is None for layer in hook.layers] == [False, True, False, True]
    guess = next_guess(hook, 1, hidden)
    assert guess is not None
    assert guess.experts.shape == (4, checkpoint.shape.top_k)


def test_a_hook_is_put_in_once_and_taken_out_again(folder: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint(folder("switch_transformers"))
    shell = load_shell(checkpoint)
    experts = shell.encoder.block[1].layer[1].mlp.experts
    with ExpertHook(shell, LocalExperts(checkpoint)) as hook, pytest.raises(Exception, match="hooked already"):
        ExpertHook(shell, hook.runner).attach()
    assert shell.encoder.block[1].layer[1].mlp.experts is experts
