"""Expert math on slices: what one unit computes for its tokens, in fp32 and in a fixed order.

One product per (unit, expert, token set), gate and up on the slice's rows, down on its columns. Weights stored
narrower are widened at use, which is exact, and never kept. Partial sums are fp32 and are added over experts by
ascending id, then over units in unit order, never in order of arrival. Under moe.determinism.pin() a token's bits
do not depend on which tokens or slices are computed beside it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from emulation.errors import InputError, brief, unknown

LARGEST_NUMBER = 1e6
DROPPED = 65535  # in a recorded routing: this slot was not served

_FUNCTIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda gate: functional.gelu(gate, approximate="tanh"),
    "relu": functional.relu,
}


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST_NUMBER:
        raise InputError(f"{key!r} in the config.json is {brief(value)}, not a number")
    return float(value)


@dataclass(frozen=True)
class Activation:
    """act(gate) * up; or with a limit gpt_oss's (up + 1) * gate * sigmoid(alpha * gate) on clamped operands."""

    name: str = "silu"
    limit: float | None = None
    alpha: float = 1.702

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, clamped: bool, key: str = "hidden_act") -> "Activation":
        """The activation that a config.json names; 7.0 and 1.702 are gpt_oss's own defaults."""
        name = str(config.get(key, "silu" if key == "hidden_act" else "relu"))
        if name not in _FUNCTIONS:
            raise InputError(unknown(key, name, _FUNCTIONS))
        if not clamped:
            return cls(name)
        return cls(name, _number(config, "swiglu_limit", 7.0), _number(config, "swiglu_alpha", 1.702))

    def __call__(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Of gate and up [n, w].

        torch computes the last elements of a contiguous run (numel modulo the vector width) with another exp than
        the rest, so layout shows in the bits. Gate and up lie as in transformers: a run is one token's row, whatever
        the number of tokens; only the clamped form has runs over all tokens, ragged where w is no multiple of 32.
        """
        if self.limit is None:
            return self.of_product(torch.cat((gate, up), dim=-1))
        gate, up = torch.stack((gate, up), dim=-1).unbind(-1)
        gate = gate.clamp(min=None, max=self.limit)
        up = up.clamp(min=-self.limit, max=self.limit)
        return (up + 1) * (gate * torch.sigmoid(gate * self.alpha))

    def plain(self, inner: torch.Tensor) -> torch.Tensor:
        """Of one matrix's product [n, w], where there is no gate."""
        return _FUNCTIONS[self.name](inner)

    def of_product(self, product: torch.Tensor) -> torch.Tensor:
        """Of gate and up side by side [n, 2w], as one product gives them; for the form without a limit."""
        gate, up = product.chunk(2, dim=-1)
        return _FUNCTIONS[self.name](gate) * up


@dataclass(frozen=True)
class ExpertSlice:
    """Columns [lo, hi) of one expert: gate and up [w, d], down [d, w], in the checkpoint's dtype and strides.

    up: None where there is no gate: the activation is then of `gate` alone, which is the only matrix before `down`.
    both: gate and up as one view [2, w, d], where they lie in one file and are widened at use (see `over`).
    """

    expert: int
    lo: int
    hi: int
    gate: torch.Tensor
    up: torch.Tensor | None
    down: torch.Tensor
    gate_bias: torch.Tensor | None
    up_bias: torch.Tensor | None
    down_bias: torch.Tensor | None
    activation: Activation
    both: torch.Tensor | None = None


def over(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor | None:
    """Gate over up as one view [2, w, d], or None where widening would not copy or they lie in two files.

    One product instead of two: a column of a product does not depend on those beside it (moe.determinism).
    """
    step = up.storage_offset() - gate.storage_offset()
    together = gate.untyped_storage().data_ptr() == up.untyped_storage().data_ptr() and gate.stride() == up.stride()
    if gate.dtype == torch.float32 or not together or step <= 0:
        return None
    return gate.as_strided((2, *gate.shape), (step, *gate.stride()))


SliceOf = Callable[[int], ExpertSlice | None]


def partial_ffn(part: ExpertSlice, x: torch.Tensor) -> torch.Tensor:
    """This slice's share of the expert's output for tokens x [n, d], fp32 [n, d]; the shares of all slices add up."""
    x = x.to(torch.float32).contiguous()
    if part.both is not None:
        both = part.both.to(torch.float32, memory_format=torch.contiguous_format)
        return part.activation.of_product(x @ both.view(-1, x.shape[1]).T) @ part.down.to(torch.float32).T
    if part.up is None:
        inner = part.activation.plain(_linear(x, part.gate, part.gate_bias))
        return _linear(inner, part.down, part.down_bias)
    gate = _plus(x @ part.gate.to(torch.float32).T, part.gate_bias)
    up = _plus(x @ part.up.to(torch.float32).T, part.up_bias)
    return _plus(part.activation(gate, up) @ part.down.to(torch.float32).T, part.down_bias)


def unit_partial(slice_of: SliceOf, hidden: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """One unit's weighted sum over the experts it holds, fp32 [T, d], by ascending expert id.

    hidden [T, d], experts and weights [T, k]; `slice_of` gives the unit's slice of an expert, or None if the unit
    has no part in it. A slot whose id is no expert's (DROPPED, negative) is nobody's.
    """
    out = torch.zeros(hidden.shape, dtype=torch.float32)
    hidden, weights = hidden.to(torch.float32), weights.to(torch.float32)
    for expert in routed(experts):
        part = slice_of(expert)
        if part is None:
            continue
        # Slots first, then tokens, as transformers lists them: the rows of the product stand in the same order.
        slots, tokens = torch.where((experts == expert).T)
        share = partial_ffn(part, hidden[tokens]) * weights[tokens, slots, None]
        out.index_add_(0, tokens, share)
    return out


def reduce_units(partials: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of units' partials [T, d], added in the order given: unit order, whoever answered first."""
    total: torch.Tensor | None = None
    for partial in partials:
        total = partial.clone() if total is None else total.add_(partial)
    if total is None:
        raise ValueError("a reduction needs at least one unit's partial")
    return total


def routed(experts: torch.Tensor) -> Sequence[int]:
    """The expert ids that occur, ascending; dropped slots left out."""
    return [expert for expert in torch.unique(experts).tolist() if 0 <= expert < DROPPED]


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The product as nn.Linear makes it, bias included: an addition behind it may round otherwise."""
    return functional.linear(x, weight.to(torch.float32), None if bias is None else bias.to(torch.float32))


def _plus(product: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return product if bias is None else product + bias.to(torch.float32)
