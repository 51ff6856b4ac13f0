from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from emulation.errors import InputError
from moe.checkpoint import Checkpoint
from moe.hook import ExpertHook, LocalExperts
from moe.shell import load_shell
from moe.tiny import write_tiny

IDS = torch.arange(3, 27).reshape(2, 12)


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits


def nothing(_layer: int, hidden: torch.Tensor, _experts: torch.Tensor, _weights: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(hidden)


def plain(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager", dtype=torch.float32
    ).eval()


def test_the_runner_is_on_the_path_of_the_answer(tiny: Callable[[str], Path]) -> None:
    model = plain(tiny("mixtral"))
    before = logits(model)
    with ExpertHook(model, nothing) as hook:
        assert (logits(model) - before).abs().max() > 0.1
    assert hook.calls == 3
    assert torch.equal(logits(model), before)


def test_models_that_share_a_config_do_not_disturb_each_other(tiny: Callable[[str], Path]) -> None:
    folder = tiny("qwen3_moe")
    checkpoint = Checkpoint(folder)
    config = plain(folder).config
    first, second, third = (
        AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval() for _ in range(3)
    )
    alone = [logits(model) for model in (first, second, third)]
    with ExpertHook(first, nothing) as zeros, ExpertHook(second, LocalExperts(checkpoint)) as real:
        answers = [logits(model) for model in (first, second, third)]
        again = logits(first)
    assert (zeros.calls, real.calls) == (6, 3)
    assert torch.equal(again, answers[0])
    assert not torch.equal(answers[0], alone[0])
    assert not torch.equal(answers[1], alone[1])
    assert torch.equal(answers[2], alone[2])
    for model, answer in zip((first, second), alone[:2], strict=True):
        assert torch.equal(logits(model), answer)


def test_a_shell_holds_no_routed_experts(tiny: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint(tiny("deepseek_v3"))
    model = load_shell(checkpoint)
    absent = {name for name, tensor in model.named_parameters() if tensor.is_meta}
    assert absent == {f"model.layers.{i}.mlp.experts.{kind}" for i in (1, 2) for kind in ("gate_up_proj", "down_proj")}
    held = sum(tensor.numel() for tensor in model.parameters() if not tensor.is_meta)
    shape = checkpoint.shape
    assert held == shape.total_params() - len(shape.moe_layers) * shape.experts * shape.expert_params


def test_a_shell_of_a_bf16_checkpoint_answers_as_the_widened_model(tmp_path: Path) -> None:
    folder = write_tiny("olmoe", tmp_path, dtype=torch.bfloat16)
    checkpoint = Checkpoint(folder)
    shell = load_shell(checkpoint)
    with ExpertHook(shell, LocalExperts(checkpoint)):
        assert torch.equal(logits(shell), logits(plain(folder)))


def test_a_bf16_shell_runs_and_stays_close(tmp_path: Path) -> None:
    folder = write_tiny("granitemoe", tmp_path, dtype=torch.bfloat16)
    checkpoint = Checkpoint(folder)
    shell = load_shell(checkpoint, torch.bfloat16)
    with ExpertHook(shell, LocalExperts(checkpoint)):
        got = logits(shell)
    assert got.dtype == torch.bfloat16
    # Rounding may turn a close routing decision, so that single tokens differ: the mean shows a wrong expert at once.
    assert (got.float() - logits(plain(folder))).abs().mean() < 0.02


def test_tied_embeddings_are_tied_in_the_shell(tmp_path: Path) -> None:
    folder = write_tiny("mixtral", tmp_path)
    model = plain(folder)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder / "tied")
    checkpoint = Checkpoint(folder / "tied")
    assert "lm_head.weight" not in checkpoint.names()
    shell = load_shell(checkpoint)
    with ExpertHook(shell, LocalExperts(checkpoint)):
        assert torch.equal(logits(shell), logits(plain(folder / "tied")))


def test_a_checkpoint_without_a_router_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_tiny("mixtral", tmp_path)
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        save_file({name: tensor for name, tensor in tensors.items() if "1.block_sparse_moe.gate" not in name}, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("layers.1.block_sparse_moe.gate.", "layers.1.block_sparse_moe.gone."))
    with pytest.raises(InputError, match=r"has no tensor for 'model\.layers\.1\.mlp\.gate\.weight'"):
        load_shell(Checkpoint(folder))


def test_a_run_without_a_call_is_refused(tiny: Callable[[str], Path]) -> None:
    hook = ExpertHook(plain(tiny("mixtral")), nothing)
    logits(hook.model)
    with pytest.raises(InputError, match="no expert layer of mixtral went through the hook"):
        hook.check()


def test_a_model_can_be_hooked_once(tiny: Callable[[str], Path]) -> None:
    model = plain(tiny("mixtral"))
    with ExpertHook(model, nothing), pytest.raises(InputError, match="hooked already"):
        ExpertHook(model, nothing).attach()


@pytest.mark.parametrize("model_type", ["llama", "jetmoe"])
def test_a_model_outside_the_interface_is_refused(model_type: str) -> None:
    small = {"num_hidden_layers": 1, "hidden_size": 32, "vocab_size": 8, "intermediate_size": 32}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **small))
    with pytest.raises(InputError, match=f"model family '{model_type}'"):
        ExpertHook(model, nothing)


def test_masked_tokens_are_not_routed_and_come_out_as_zeros(tiny: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint(tiny("mixtral"))
    seen: list[int] = []
    local = LocalExperts(checkpoint)

    def counting(layer: int, hidden: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        seen.append(len(hidden))
        return local(layer, hidden, experts, weights)

    hook = ExpertHook(load_shell(checkpoint), counting)
    hidden = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    experts, weights = torch.tensor([[0, 1, 2]] * 5), torch.rand(5, 3)
    hook.mask = torch.tensor([False, True, True, False, True])
    out = hook.run(0, hidden, experts, weights)
    assert seen == [3]
    assert not out[[0, 3]].any()
    assert torch.equal(out[[1, 2, 4]], local(0, hidden[[1, 2, 4]], experts[:3], weights[[1, 2, 4]]))
    hook.mask = torch.zeros(5, dtype=torch.bool)
    assert not hook.run(0, hidden, experts, weights).any()
    assert seen == [3]
    hook.mask = torch.ones(4, dtype=torch.bool)
    with pytest.raises(InputError, match="names 4 tokens and layer 0 got 5"):
        hook.run(0, hidden, experts, weights)
