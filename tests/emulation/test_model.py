"""Bytes and flops of the parts of a model."""

from fractions import Fraction

from emulation.model import Layer, Model, Work, ceil
from tests.schedulers.rig import model

MOE = Layer(Work(100, 1, 2), 16, 3, router=Work(20, 1, 1), shared=Work(7))
OF = Model("hand-made", (Layer(Work(300), 8, 1, dense=Work(4000)), MOE, MOE), experts=4, top_k=2, d_model=5, d_ff=11,
           matrices=3, weight_bytes=Fraction(17, 32), activation_bytes=Fraction(3, 2), dequant_flops=7,
           head=Work(50_000), embedding_bytes=600_000)


def test_all_but_the_experts_is_the_sum_of_the_parts():
    assert OF.moe_layers == (1, 2)
    assert OF.dense_bytes == 300 + 4000 + 2 * (100 + 20 + 7) + 50_000 + 600_000
    assert OF.kv_bytes_per_token == 8 + 16 + 16


def test_an_expert_and_its_slices_are_rounded_up_once():
    # 3 * 5 * 11 weights of 17/32 byte; a token reads 5 + 5 and writes and reads 11 twice, 3/2 byte each
    assert OF.expert_work(11) == Work(88, 48, 330)
    assert [OF.columns(part, 2) for part in (0, 1)] == [6, 5]
    assert OF.expert_work(6) == Work(48, 33, 180)
    assert model(moe_layers=1, experts=1, top_k=1).expert_work(8) == Work(384, 64, 384)


def test_dequantisation_is_paid_once_a_kernel():
    assert OF.expert_flops(11, 4) == 4 * 330 + 7 * 165


def test_rows_of_activations_are_rounded_up_together():
    assert [OF.token_row_bytes(tokens) for tokens in (0, 1, 2)] == [0, 8, 15]
    assert [ceil(Fraction(n, 4)) for n in (-1, 0, 1, 4, 5)] == [0, 0, 1, 1, 2]


def test_work_is_read_once_and_done_for_each_token():
    assert (Work(100, 10, 3).bytes_for(4), Work(100, 10, 3).flops_for(4)) == (140, 12)
