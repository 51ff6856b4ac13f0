"""The schema of a precision file: how wide weights and activations are, and what unpacking them costs."""

from collections.abc import Mapping
from fractions import Fraction

from pydantic import Field, model_validator

from cluster.config.hardware import Dtype
from cluster.config.quantities import Count, Strict, refuse

DTYPE_BYTES: Mapping[Dtype, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}


class ExpertWeights(Strict):
    """Bits of one stored expert weight, and of what a group of weights shares (scale and zero point)."""

    bits: Count
    group: int | None = Field(default=None, ge=1)
    scale_bits: Count | None = None

    @model_validator(mode="after")
    def _paired(self) -> "ExpertWeights":
        if (self.group is None) != (self.scale_bits is None):
            raise refuse("group and scale_bits belong together: give both or neither")
        if self.bits.si == 0:
            raise refuse("bits is zero: a weight takes at least a fraction of a bit")
        return self

    @property
    def bytes_each(self) -> Fraction:
        """Bytes of one weight, with its part of the group's scale."""
        shared = self.scale_bits.si / self.group if self.scale_bits and self.group else Fraction(0)
        return (self.bits.si + shared) / 8


class Precision(Strict):
    """expert_weights: routed experts. dense_weights: every other weight. compute: what matrix units multiply in.

    dequant_flops: operations that turning one stored expert weight into one compute weight costs.
    """

    title: str
    expert_weights: ExpertWeights
    dense_weights: Dtype
    activations: Dtype
    kv_cache: Dtype
    compute: Dtype
    dequant_flops: Count | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Precision":
        if self.dequant_flops and self.dequant_flops.si.denominator != 1:
            raise refuse(f"dequant_flops: {self.dequant_flops.value!r} is no whole number")
        return self
