"""Element counts of a model, read from its Hugging Face config.json; no torch, and no bytes: they are precision's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulation.errors import InputError, unknown
from emulation.reading import read_json
from moe.families import Family, family
from moe.fields import Fields
from moe.stacks import STACKED, stacked

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "model"
GATED_MATRICES = 3
LARGEST_BYTES = 4 << 20


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): what is cached is one latent vector a token."""

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True)
class ModelShape:
    """The shape of one model; every count is of elements. `layers` counts decoder layers, MTP heads left out; of a
    model with an encoder all layers, of which the first `encoder_layers` are that. relative_bias: tables of relative
    positions."""

    model: str
    model_type: str
    layers: int
    moe_layers: tuple[int, ...]
    d_model: int
    expert_ff: int
    dense_ff: int
    experts: int
    top_k: int
    shared_experts: int
    shared_ff: int
    heads: int
    kv_heads: int
    head_dim: int
    mla: Mla | None
    vocab: int
    tied_embeddings: bool
    windows: tuple[int | None, ...]
    gated: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: int = 0
    sinks: bool = False
    norm_bias: bool = False
    router_bias: int = 0
    shared_gate: bool = False
    expert_bias: bool = False
    head_bias: bool = False
    encoder_layers: int = 0
    relative_bias: int = 0

    @property
    def matrices(self) -> int:
        """Matrices of d_model x f in one expert: three with a gate, two without."""
        return GATED_MATRICES if self.gated else 2

    @property
    def expert_params(self) -> int:
        """Elements of one routed expert."""
        bias = (self.matrices - 1) * self.expert_ff + self.d_model if self.expert_bias else 0
        return self.matrices * self.d_model * self.expert_ff + bias

    @property
    def shared_params(self) -> int:
        """Elements of all shared experts of one MoE layer (`shared_ff` is the width of each), with their gate."""
        gate = self.d_model if self.shared_gate else 0
        return self.matrices * self.d_model * self.shared_experts * self.shared_ff + gate

    @property
    def router_params(self) -> int:
        """Elements of one router."""
        return self.experts * self.d_model + self.router_bias

    @property
    def embedding_params(self) -> int:
        """Elements of the token embedding."""
        return self.vocab * self.d_model

    @property
    def head_params(self) -> int:
        """Elements of the output head that are not the embedding's."""
        return (0 if self.tied_embeddings else self.vocab * self.d_model) + (self.vocab if self.head_bias else 0)

    @property
    def norm_params(self) -> int:
        """Elements of one layer norm over the hidden state."""
        return (2 if self.norm_bias else 1) * self.d_model

    def is_moe(self, layer: int) -> bool:
        """Whether this layer routes."""
        return layer in self.moe_layers

    def attention_params(self, layer: int) -> int:
        """Elements of one layer's attention: projections, biases, head norms and sinks (its layer norms apart)."""
        self._layer(layer)
        d, heads = self.d_model, self.heads
        if self.mla is not None:
            m = self.mla
            q_width = heads * (m.qk_nope_head_dim + m.qk_rope_head_dim)
            rank = m.q_lora_rank
            query = d * q_width if rank is None else d * rank + rank + rank * q_width + self.qkv_bias * rank
            latent = m.kv_lora_rank + m.qk_rope_head_dim
            down = d * latent + m.kv_lora_rank + self.qkv_bias * latent
            up = m.kv_lora_rank * heads * (m.qk_nope_head_dim + m.v_head_dim)
            return query + down + up + heads * m.v_head_dim * d + self.output_bias * d
        q_width, kv_width = heads * self.head_dim, self.kv_heads * self.head_dim
        weights = d * (q_width + 2 * kv_width) + q_width * d
        biases = self.qkv_bias * (q_width + 2 * kv_width) + self.output_bias * d
        return weights + biases + self.qk_norm + self.sinks * heads

    def dense_params(self, layer: int) -> int:
        """Elements of a dense layer's FFN; zero in a MoE layer."""
        self._layer(layer)
        bias = self.dense_ff + self.d_model if self.expert_bias else 0
        return 0 if self.is_moe(layer) else self.matrices * self.d_model * self.dense_ff + bias

    def cross_params(self, layer: int) -> int:
        """Elements of a decoder layer's attention to the encoder's output (its layer norm apart); zero without one."""
        return self.attention_params(layer) if self.encoder_layers and layer >= self.encoder_layers else 0

    def layer_params(self, layer: int) -> int:
        """Elements of one decoder layer with all its experts."""
        routed = self.router_params + self.experts * self.expert_params + self.shared_params
        ffn = routed if self.is_moe(layer) else self.dense_params(layer)
        cross = self.cross_params(layer)
        return self.attention_params(layer) + cross + ffn + (3 if cross else 2) * self.norm_params

    def total_params(self) -> int:
        """Elements of the whole model."""
        body = sum(self.layer_params(layer) for layer in range(self.layers))
        norms = (2 if self.encoder_layers else 1) * self.norm_params
        return body + self.embedding_params + self.head_params + norms + self.relative_bias

    def active_params(self) -> int:
        """Elements that one token meets: the total less the experts it is not routed to."""
        return self.total_params() - len(self.moe_layers) * (self.experts - self.top_k) * self.expert_params

    def kv_elements(self, layer: int) -> int:
        """Elements cached for one token in one layer: keys and values, or the latent and rotary part of MLA."""
        self._layer(layer)
        if self.mla is not None:
            return self.mla.kv_lora_rank + self.mla.qk_rope_head_dim
        return 2 * self.kv_heads * self.head_dim

    def _layer(self, layer: int) -> None:
        if not 0 <= layer < self.layers:
            raise InputError(f"{self.model} has layers 0 to {self.layers - 1}, not {layer}")


def _moe_layers(fields: Fields, layers: int) -> tuple[int, ...]:
    config = fields.config
    if config.get("mlp_layer_types") is not None:
        return tuple(i for i, kind in enumerate(fields.items("mlp_layer_types")[:layers]) if kind == "sparse")
    freq = config.get("moe_layer_freq")
    if isinstance(freq, list):
        return tuple(i for i, routed in enumerate(freq[:layers]) if routed)
    step = fields.count("decoder_sparse_step", 1)
    first = max(fields.count("first_k_dense_replace", 0), fields.count("moe_layer_start_index", 0))
    last = layers - 1 if config.get("moe_layer_end_index") in (None, -1) else fields.count("moe_layer_end_index")
    every, interval = fields.count("moe_layer_freq", 1), fields.count("moe_layer_interval", 1)
    if not (step and every and interval):
        raise InputError(f"the MoE layer step of {fields.model} is 0: at least 1 is needed")
    dense = fields.items("mlp_only_layers")
    return tuple(
        i
        for i in range(first, min(last, layers - 1) + 1)
        if i not in dense and (i + 1) % step == 0 and i % every == 0 and (i + 1) % interval == 0
    )


def _windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    config = fields.config
    window = config.get("sliding_window") if fields.flag("use_sliding_window", True) else None
    kinds = fields.items("layer_types") or ["sliding_attention"] * layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds[:layers])


def _qk_norm(row: Family, fields: Fields, q_width: int, kv_width: int, head_dim: int) -> int:
    if row.qk_norm == "full":
        return q_width + kv_width
    headwise = row.qk_norm == "head" or (row.qk_norm == "optional" and fields.flag("use_qk_norm", False))
    return 2 * head_dim if headwise else 0


def from_config(config: Mapping[str, Any], model: str = "the model") -> ModelShape:
    """The shape that a parsed config.json describes; an architecture moelab does not know is refused."""
    if "model_type" not in config:
        raise InputError(f"the config.json of {model} lacks 'model_type', so its architecture is not known")
    fields = Fields(model, config)
    if config["model_type"] in STACKED:
        return ModelShape(**stacked(fields, config["model_type"]))
    row = family(str(config["model_type"]))
    layers, d_model = fields.count("num_hidden_layers"), fields.count("hidden_size")
    heads, expert_ff = fields.count("num_attention_heads"), fields.count(row.expert_ff)
    kv_heads = fields.count("num_key_value_heads", heads)
    head_dim = fields.count("head_dim", d_model // max(heads, 1))
    mla = None
    if row.mla:
        rank = config.get("q_lora_rank")
        parts = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        mla = Mla(None if rank is None else fields.count("q_lora_rank"), *(fields.count(name) for name in parts))
    moe_layers = _moe_layers(fields, layers)
    experts, top_k = fields.count(row.experts), fields.count(row.top_k)
    if not moe_layers or not 1 <= top_k <= experts:
        raise InputError(f"{model} routes to {top_k} of {experts} experts in {len(moe_layers)} layers: it is not a MoE")
    shared_ff = expert_ff
    if row.shared_ff is not None:
        shared_ff = fields.count(row.shared_ff)
    shared = fields.count(row.shared_count, 0) if row.shared_count else int(row.shared_ff is not None)
    bias = row.attention_bias != "none" and fields.flag(row.bias_field, row.bias_default)
    return ModelShape(
        model=model,
        model_type=row.model_type,
        layers=layers,
        moe_layers=moe_layers,
        d_model=d_model,
        expert_ff=expert_ff,
        dense_ff=fields.count("intermediate_size"),
        experts=experts,
        top_k=top_k,
        shared_experts=shared,
        shared_ff=shared_ff if shared else 0,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mla=mla,
        vocab=fields.count("vocab_size"),
        tied_embeddings=fields.flag("tie_word_embeddings", row.tied_default),
        windows=_windows(fields, layers),
        qkv_bias=bias,
        output_bias=bias and row.attention_bias == "qkvo",
        qk_norm=_qk_norm(row, fields, heads * head_dim, kv_heads * head_dim, head_dim),
        sinks=row.sinks,
        norm_bias=row.norm_bias,
        router_bias=experts if row.router_bias else 0,
        shared_gate=row.shared_ff is not None,
        expert_bias=row.keys.down_bias is not None,
        head_bias=row.head_bias_field is not None and fields.flag(row.head_bias_field, False),
    )


def read_config(path: Path) -> dict[str, Any]:
    """The parsed config.json at this path or in this folder."""
    file = path / "config.json" if path.is_dir() else path
    if not file.exists():
        raise InputError(f"there is no model config at {file}: a Hugging Face config.json is needed")
    config = read_json(file, "model config", LARGEST_BYTES)
    if not isinstance(config, dict):
        raise InputError(f"{file} holds a {type(config).__name__}, not the object a config.json is")
    return config


def names() -> tuple[str, ...]:
    """The models whose config.json ships with moelab."""
    return tuple(sorted(file.stem for file in CONFIGS.glob("*.json")))


def load_shape(model: str | Path) -> ModelShape:
    """The shape of a shipped model by name, or of any config.json (or folder that holds one) by path."""
    if isinstance(model, str) and model in names():
        return from_config(read_config(CONFIGS / f"{model}.json"), model)
    path = Path(model)
    if not path.exists() and isinstance(model, str) and "/" not in model and not model.endswith(".json"):
        raise InputError(unknown("model", model, names()) + "; any other is named by the path of its config.json")
    stem = path.resolve().name if path.is_dir() else (path.parent if path.stem == "config" else path).resolve().stem
    return from_config(read_config(path), stem)
