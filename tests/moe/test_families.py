from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moe.checkpoint import Checkpoint
from moe.experts import partial_ffn
from moe.families import FAMILIES
from moe.table import RELATIVE, ROUNDED, markdown, measure


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_family_answers_as_plain_transformers_does(model_type: str, tiny: Callable[[str], Path]) -> None:
    row, shape = measure(model_type, tiny(model_type)), Checkpoint(tiny(model_type)).shape
    assert row.calls == sum(1 if layer < shape.encoder_layers else 5 for layer in shape.moe_layers)
    assert row.whole <= ROUNDED.get(model_type, 0.0)
    assert 0.0 < row.split <= RELATIVE
    assert row.top1_kept
    assert "| ok |" in markdown([row])


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_slices_of_an_expert_add_up_to_it(model_type: str, tiny: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint(tiny(model_type))
    layer = checkpoint.shape.moe_layers[-1]
    tokens = torch.randn(5, checkpoint.shape.d_model, generator=torch.Generator().manual_seed(1))
    whole = partial_ffn(checkpoint.slice(layer, 6), tokens)
    cut = [partial_ffn(checkpoint.slice(layer, 6, lo, hi), tokens) for lo, hi in ((0, 7), (7, 7), (7, 23), (23, 40))]
    torch.testing.assert_close(sum(cut[1:], cut[0]), whole, rtol=1e-5, atol=1e-6)
    assert not cut[1].any()


def test_the_table_names_a_broken_row(tiny: Callable[[str], Path]) -> None:
    row = measure("mixtral", tiny("mixtral"))
    broken = type(row)(row.model_type, row.calls, 1e-9, row.split, row.top1_kept)
    assert not broken.holds
    assert "BROKEN" in markdown([broken])
