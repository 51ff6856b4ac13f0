import hashlib
import multiprocessing
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from emulation.errors import InputError
from emulation.shards import slice_bounds
from moe import determinism
from moe.checkpoint import SINGLE, Checkpoint
from moe.experts import DROPPED, Activation, ExpertSlice, over, partial_ffn, reduce_units, routed, unit_partial

SILU = Activation()


def random_slice(width: int, d: int, *, seed: int = 0) -> ExpertSlice:
    source = torch.Generator().manual_seed(seed)
    gate, up, down = (torch.randn(shape, generator=source) for shape in ((width, d), (width, d), (d, width)))
    return ExpertSlice(0, 0, width, gate, up, down, None, None, None, SILU)


def test_a_gated_expert_by_hand() -> None:
    part = ExpertSlice(
        0, 0, 1, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]), torch.tensor([[2.0], [4.0]]), None, None, None,
        Activation("relu"),
    )  # fmt: skip
    out = partial_ffn(part, torch.tensor([[5.0, 7.0], [-5.0, 7.0]]))
    assert out.tolist() == [[2.0 * 5 * 21, 4.0 * 5 * 21], [0.0, 0.0]]


def test_the_clamped_activation_by_hand() -> None:
    gate, up = torch.tensor([[9.0, -9.0]]), torch.tensor([[-9.0, 1.0]])
    expected = [
        (-7.0 + 1) * 7.0 * torch.sigmoid(torch.tensor(7.0 * 1.702)),
        2 * -9.0 * torch.sigmoid(torch.tensor(-9 * 1.702)),
    ]
    out = Activation("silu", 7.0, 1.702)(gate, up)
    torch.testing.assert_close(out, torch.stack(expected)[None], rtol=1e-6, atol=0)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(InputError, match="unknown hidden_act 'silo'; did you mean 'silu'"):
        Activation.from_config({"hidden_act": "silo"}, clamped=False)


def test_narrow_weights_and_tokens_give_fp32_partials_of_the_widened_ones() -> None:
    part = random_slice(24, 32)
    narrow = ExpertSlice(
        0, 0, 24, part.gate.bfloat16(), part.up.bfloat16(), part.down.bfloat16(), None, None, None, SILU
    )
    wide = ExpertSlice(0, 0, 24, narrow.gate.float(), narrow.up.float(), narrow.down.float(), None, None, None, SILU)
    tokens = torch.randn(3, 32, generator=torch.Generator().manual_seed(3)).bfloat16()
    assert partial_ffn(narrow, tokens).dtype == torch.float32
    assert torch.equal(partial_ffn(narrow, tokens), partial_ffn(wide, tokens.float()))


@pytest.mark.parametrize("width", [22, 32, 37, 768])
def test_a_tokens_bits_do_not_depend_on_its_batch(width: int, pinned: bool) -> None:
    if not pinned:
        pytest.skip("MKL_CBWR=STRICT binds on Intel only")
    part = random_slice(width, 128)
    tokens = torch.randn(19, 128, generator=torch.Generator().manual_seed(5))
    whole = partial_ffn(part, tokens)
    for chosen in ([0], [18], [4, 7, 1], list(range(16))):
        assert torch.equal(partial_ffn(part, tokens[chosen]), whole[chosen])


def test_bits_do_not_depend_on_alignment_or_strides() -> None:
    part = random_slice(37, 128)
    tokens = torch.randn(9, 128, generator=torch.Generator().manual_seed(5))
    expected = partial_ffn(part, tokens)
    for shift in (1, 2, 7):
        moved = [
            torch.empty(t.numel() + 64)[shift : shift + t.numel()].view(t.shape)
            for t in (part.gate, part.up, part.down)
        ]
        for copy, tensor in zip(moved, (part.gate, part.up, part.down), strict=True):
            copy.copy_(tensor)
        assert torch.equal(partial_ffn(ExpertSlice(0, 0, 37, *moved, None, None, None, SILU), tokens), expected)
    wide = torch.empty(128, 100)
    wide[:, 31:68] = part.down
    strided = ExpertSlice(0, 0, 37, part.gate, part.up, wide[:, 31:68], None, None, None, SILU)
    assert torch.equal(partial_ffn(strided, tokens), expected)


def test_experts_are_added_by_ascending_id_and_dropped_slots_are_nobodys(pinned: bool) -> None:
    parts = {expert: random_slice(8, 16, seed=expert) for expert in (2, 5)}
    hidden = torch.randn(3, 16, generator=torch.Generator().manual_seed(9))
    experts = torch.tensor([[5, 2], [DROPPED, 5], [3, -1]])
    weights = torch.tensor([[0.25, 0.75], [9.0, 0.5], [1.0, 1.0]])
    out = unit_partial(parts.get, hidden, experts, weights)
    both = {e: partial_ffn(part, hidden) for e, part in parts.items()}
    # Where a row's bits depend on what is computed beside it (no pinned arithmetic), the sums are near, not equal.
    same = torch.equal if pinned else partial(torch.allclose, rtol=1e-5)
    assert same(out[0], both[2][0] * 0.75 + both[5][0] * 0.25)
    assert same(out[1], both[5][1] * 0.5)
    assert not out[2].any()
    assert routed(experts) == [2, 3, 5]


def test_units_are_added_in_unit_order() -> None:
    # fp32 has steps of 8 at 1e8: 3 is lost when it comes second and kept when it comes last.
    big, small = torch.full((1, 1), 1e8), torch.full((1, 1), 3.0)
    assert reduce_units([big, small, -big]).item() == 0.0
    assert reduce_units([big, -big, small]).item() == 3.0
    assert big.item() == 1e8


def test_expert_parallel_units_together_serve_every_pair(tiny: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint(tiny("qwen3_moe"))
    source = torch.Generator().manual_seed(2)
    hidden = torch.randn(6, 64, generator=source)
    experts = torch.stack([torch.randperm(8, generator=source)[:3] for _ in range(6)])
    weights = torch.rand(6, 3, generator=source)
    alone = unit_partial(lambda e: checkpoint.slice(1, e), hidden, experts, weights)
    units = [
        unit_partial(lambda e, u=u: checkpoint.slice(1, e) if e % 3 == u else None, hidden, experts, weights)
        for u in range(3)
    ]
    torch.testing.assert_close(reduce_units(units), alone, rtol=1e-5, atol=1e-6)
    by_hand = sum(
        weights[0, slot] * (functional.silu(hidden[0] @ part.gate.T) * (hidden[0] @ part.up.T) @ part.down.T)
        for slot in range(3)
        for part in [checkpoint.slice(1, int(experts[0, slot]))]
    )
    torch.testing.assert_close(alone[0], by_hand, rtol=1e-4, atol=1e-5)


def digest(folder: Path, units: list[int]) -> dict[int, str]:
    """What a device process computes for its units: one digest a unit over all layers and experts."""
    determinism.pin()
    checkpoint = Checkpoint(folder)
    tokens = torch.randn(7, checkpoint.shape.d_model, generator=torch.Generator().manual_seed(4))
    found = {}
    for unit in units:
        lo, hi = slice_bounds(checkpoint.shape.expert_ff, 6)[unit]
        parts = [
            partial_ffn(checkpoint.slice(layer, expert, lo, hi), tokens)
            for layer in checkpoint.shape.moe_layers
            for expert in range(checkpoint.shape.experts)
        ]
        found[unit] = hashlib.sha256(torch.stack(parts).numpy().tobytes()).hexdigest()
    return found


def test_any_process_and_any_share_of_units_gives_the_same_bits(tmp_path: Path) -> None:
    from moe.tiny import write_tiny  # here: the child processes import this file, and need no transformers

    folder = write_tiny("gpt_oss", tmp_path, dtype=torch.bfloat16)
    here = digest(folder, list(range(6)))
    assert len(set(here.values())) == 6
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        there: dict[int, str] = {}
        for part in pool.starmap(digest, [(folder, [5, 0, 3]), (folder, [1]), (folder, [2, 4])]):
            there |= part
    assert there == here


def test_bits_do_not_depend_on_where_the_header_puts_the_weights(tmp_path: Path) -> None:
    from moe.tiny import write_tiny

    folder = write_tiny("olmoe", tmp_path)
    before = digest(folder, [0, 3])
    for file in folder.glob("*.safetensors"):
        raw = file.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        file.write_bytes(struct.pack("<Q", length + 8) + raw[8 : 8 + length] + b" " * 8 + raw[8 + length :])
    assert digest(folder, [0, 3]) == before
    assert not (folder / SINGLE).exists()


def test_a_process_that_multiplied_before_is_refused_on_intel(pinned: bool) -> None:
    if not pinned:
        pytest.skip("MKL_CBWR=STRICT binds on Intel only")
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(1, initializer=_unpin) as pool,
        pytest.raises(Exception, match="multiplied before"),
    ):
        pool.apply(_multiply_then_pin)


def _unpin() -> None:
    import os

    for name in determinism.ENVIRONMENT:
        os.environ.pop(name, None)


def _multiply_then_pin() -> None:
    left, right = torch.randn(64, 64), torch.randn(64, 64)
    (left @ right).sum()
    determinism.pin()


def test_gate_and_up_of_one_file_are_one_view_and_one_product(tiny: Callable[[str], Path], pinned: bool) -> None:
    checkpoint = Checkpoint(tiny("qwen3_moe"))
    ff = checkpoint.shape.expert_ff
    for lo, hi in ((0, ff), (0, ff // 2), (ff // 2, ff)):
        part = checkpoint.slice(checkpoint.shape.moe_layers[0], 1, lo, hi)
        narrow = [matrix.bfloat16() for matrix in (part.gate, part.up, part.down)]
        assert over(part.gate.float(), part.up.float()) is None
        assert over(narrow[0], narrow[1]) is None  # of two files
        lying = torch.stack(narrow[:2])
        both = over(lying[0], lying[1])
        assert both is not None
        assert torch.equal(both, lying)
        apart = ExpertSlice(1, lo, hi, *narrow, None, None, None, part.activation)
        tokens = torch.randn(5, checkpoint.shape.d_model, generator=torch.Generator().manual_seed(4))
        one, two = partial_ffn(replace(apart, both=both), tokens), partial_ffn(apart, tokens)
        assert torch.equal(one, two) if pinned else torch.allclose(one, two, rtol=1e-5, atol=1e-6)
