"""What a model costs: bytes and flops of its parts at a precision. cluster/ builds it from a shape."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from emulation.shards import slice_bounds


@dataclass(frozen=True)
class Work:
    """Bytes to read once, bytes and flops for each token."""

    weight_bytes: int = 0
    token_bytes: int = 0
    token_flops: int = 0

    def bytes_for(self, tokens: int) -> int:
        return self.weight_bytes + tokens * self.token_bytes

    def flops_for(self, tokens: int) -> int:
        return tokens * self.token_flops


NOTHING = Work()


@dataclass(frozen=True)
class Layer:
    """The parts of one layer outside its routed experts. `router` is NOTHING in a dense layer.

    attention: projections. kv_bytes: of one position; read once for each sequence that attends to it.
    context_flops: for each token and each position it attends to. dense: the FFN of a dense layer. shared: shared
    experts, which every token visits. cross: projections of the attention to the encoder's output (arXiv 1706.03762),
    source: what makes keys and values of it, once for each of its tokens; source_bytes: of those of one position.
    """

    attention: Work
    kv_bytes: int
    context_flops: int
    router: Work = NOTHING
    dense: Work = NOTHING
    shared: Work = NOTHING
    cross: Work = NOTHING
    source: Work = NOTHING
    source_bytes: int = 0

    @property
    def is_moe(self) -> bool:
        return self.router != NOTHING


@dataclass(frozen=True)
class Model:
    """A model at a precision. An expert has `matrices` matrices of d_model x d_ff (three where gated).

    weight_bytes: bytes of one expert weight (a fraction where groups share a scale). dequant_flops: flops that
    turning one stored weight into one compute weight costs, once a kernel. activation_bytes: of one activation.
    encoder_layers: the first so many layers are an encoder, which a sequence passes once; the others are the decoder.
    """

    name: str
    layers: tuple[Layer, ...]
    experts: int
    top_k: int
    d_model: int
    d_ff: int
    matrices: int
    weight_bytes: Fraction
    activation_bytes: Fraction
    dequant_flops: int = 0
    head: Work = NOTHING
    embedding_bytes: int = 0
    encoder_layers: int = 0

    def stack(self, encoder: bool) -> range:
        """Numbers of the layers that a step of the encoder passes, or of the decoder: all where there is none."""
        return range(self.encoder_layers) if encoder else range(self.encoder_layers, len(self.layers))

    @property
    def is_one_stack(self) -> bool:
        """Whether every step passes all layers, and experts among them."""
        return bool(self.moe_layers) and not self.encoder_layers

    def moe_stack(self, encoder: bool) -> range:
        """The same of its MoE layers, counted among MoE layers."""
        first = sum(layer.is_moe for layer in self.layers[:self.encoder_layers])
        return range(first) if encoder else range(first, len(self.moe_layers))

    @cached_property
    def moe_layers(self) -> tuple[int, ...]:
        """Numbers of the layers that have routed experts."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.is_moe)

    @property
    def dense_bytes(self) -> int:
        """Bytes of all weights outside routed experts."""
        parts = (w.weight_bytes for la in self.layers for w in (la.attention, la.router, la.dense, la.shared, la.cross,
                                                                la.source))
        return sum(parts) + self.head.weight_bytes + self.embedding_bytes

    @property
    def kv_bytes_per_token(self) -> int:
        """Of one position of the decoder; an encoder keeps none."""
        return sum(layer.kv_bytes for layer in self.layers[self.encoder_layers:])

    @property
    def source_bytes_per_token(self) -> int:
        """Of the keys and values that the decoder keeps of one position of the encoder's output."""
        return sum(layer.source_bytes for layer in self.layers)

    def columns(self, part: int, parts: int) -> int:
        """How many of an expert's d_ff columns a part holds."""
        lo, hi = slice_bounds(self.d_ff, parts)[part]
        return hi - lo

    def expert_work(self, columns: int) -> Work:
        """One expert, or a slice of it with that many of its d_ff columns."""
        weights = self.matrices * self.d_model * columns
        return Work(ceil(weights * self.weight_bytes),
                    ceil((2 * self.d_model + (self.matrices - 1) * columns) * self.activation_bytes),
                    2 * weights)

    @property
    def expert_bytes(self) -> int:
        """Weights of one whole expert."""
        return self.expert_work(self.d_ff).weight_bytes

    def expert_flops(self, columns: int, tokens: int) -> int:
        """Flops of a slice over some tokens, dequantisation included."""
        weights = self.matrices * self.d_model * columns
        return tokens * 2 * weights + self.dequant_flops * weights

    def token_row_bytes(self, tokens: int) -> int:
        """Bytes of that many activation rows."""
        return ceil(tokens * self.d_model * self.activation_bytes)


def ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)
