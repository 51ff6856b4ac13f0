"""A checkpoint in the hub's layout, mapped: reads one slice of one expert without touching the rest."""

from pathlib import Path
from typing import Any

import torch

from emulation.errors import InputError
from emulation.reading import read_json
from moe.experts import Activation, ExpertSlice, over
from moe.families import Family, family
from moe.mapped import MappedFile
from moe.shapes import ModelShape, from_config, read_config

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


class Checkpoint:
    """Config and mapped tensors of one model folder; every process that opens it shares the same pages.

    Slices are views made on demand: nothing is copied, so any number of units in any number of
    processes holds the file once. (Measured: tests/moe/test_memory.py.)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.suffix in PICKLES:
            raise InputError(f"{self.folder} is a pickle, which can run code when read: convert it to safetensors")
        if not self.folder.is_dir():
            raise InputError(f"there is no checkpoint folder at {self.folder}")
        self.config: dict[str, Any] = read_config(self.folder)
        self.shape: ModelShape = from_config(self.config, self.folder.resolve().name)
        self.family: Family = family(self.shape.model_type)
        self.activation = Activation.from_config(self.config, clamped=self.family.clamped, key=self.family.activation)
        self._files: dict[str, MappedFile] = {}
        self._home = self._read_index()

    def names(self) -> tuple[str, ...]:
        """All tensors, by checkpoint key."""
        return tuple(self._home)

    def is_expert(self, name: str) -> bool:
        """Whether this key belongs to routed experts."""
        return name in self._expert_names

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as a read-only view of its file."""
        if name not in self._home:
            hint = ""
            if any(other.startswith((f"{name}_", f"{name}.")) for other in self._home):
                hint = ", only a quantised form of it, which has to be converted to bf16 first"
            raise InputError(f"checkpoint {self.folder} has no tensor {name!r}{hint}")
        return self._file(self._home[name]).tensor(name)

    def slice(self, layer: int, expert: int, lo: int = 0, hi: int | None = None) -> ExpertSlice:
        """Columns [lo, hi) of the intermediate dimension of one expert, as views; the whole expert by default.

        The slice that starts at 0 carries the output bias, so that the sum over slices has it once.
        """
        shape, keys = self.shape, self.family.keys
        hi = shape.expert_ff if hi is None else hi
        if layer not in shape.moe_layers:
            raise InputError(f"layer {layer} of {shape.model} has no experts (MoE layers: {list(shape.moe_layers)})")
        if not 0 <= expert < shape.experts:
            raise InputError(f"{shape.model} has experts 0 to {shape.experts - 1}, not {expert}")
        if not 0 <= lo <= hi <= shape.expert_ff:
            raise InputError(f"columns [{lo}, {hi}) do not lie in the {shape.expert_ff} of an expert of {shape.model}")
        d, f, count = shape.d_model, shape.expert_ff, shape.experts

        def get(pattern: str, *dims: int) -> torch.Tensor:
            return self._checked(self._key(pattern, layer, expert), dims)

        if keys.layout == "separate":
            gate, up, down = get(keys.gate, f, d)[lo:hi], get(keys.up, f, d)[lo:hi], get(keys.down, d, f)[:, lo:hi]
            return self._unbiased(expert, lo, hi, gate, up, down)
        if keys.layout == "plain":
            inner = None if keys.gate_up_bias is None else get(keys.gate_up_bias, f)[lo:hi]
            outer = get(keys.down_bias, d) if keys.down_bias is not None and lo == 0 else None
            up, down = get(keys.up, f, d)[lo:hi], get(keys.down, d, f)[:, lo:hi]
            return ExpertSlice(expert, lo, hi, up, None, down, inner, None, outer, self.activation)
        if keys.layout == "fused":
            both = get(keys.gate, count, 2 * f, d)[expert]
            down = get(keys.down, count, d, f)[expert][:, lo:hi]
            return self._unbiased(expert, lo, hi, both[lo:hi], both[f + lo : f + hi], down)
        both = get(keys.gate, count, d, 2 * f)[expert].T
        down = get(keys.down, count, f, d)[expert].T[:, lo:hi]
        gate_bias = up_bias = down_bias = None
        if keys.gate_up_bias is not None and keys.down_bias is not None:
            bias = get(keys.gate_up_bias, count, 2 * f)[expert]
            gate_bias, up_bias = bias[2 * lo : 2 * hi : 2], bias[2 * lo + 1 : 2 * hi : 2]
            down_bias = get(keys.down_bias, count, d)[expert] if lo == 0 else None
        return ExpertSlice(
            expert,
            lo,
            hi,
            both[2 * lo : 2 * hi : 2],
            both[2 * lo + 1 : 2 * hi : 2],
            down,
            gate_bias,
            up_bias,
            down_bias,
            self.activation,
        )

    def _unbiased(
        self, expert: int, lo: int, hi: int, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor
    ) -> ExpertSlice:
        both = over(gate, up) if self.activation.limit is None else None
        return ExpertSlice(expert, lo, hi, gate, up, down, None, None, None, self.activation, both)

    def _key(self, pattern: str, layer: int, expert: int) -> str:
        """The checkpoint key of an expert's tensor; layers of a decoder behind an encoder are counted in it."""
        first = 0 if layer < self.shape.encoder_layers else self.shape.encoder_layers
        stack, ff = ("encoder", 1) if layer < self.shape.encoder_layers else ("decoder", 2)
        return pattern.format(layer=layer - first, expert=expert, stack=stack, ff=ff)

    def _checked(self, name: str, dims: tuple[int, ...]) -> torch.Tensor:
        tensor = self.tensor(name)
        if tuple(tensor.shape) != dims:
            raise InputError(
                f"tensor {name!r} of {self.folder} has shape {list(tensor.shape)} where config.json says {list(dims)}"
            )
        return tensor

    def _read_index(self) -> dict[str, str]:
        """Key -> file name, from the index or the single file; the expert keys are noted on the way."""
        index = self.folder / INDEX
        if index.is_file():
            data = read_json(index, "index")
            home = data.get("weight_map") if isinstance(data, dict) else None
            if not isinstance(home, dict) or not all(isinstance(file, str) for file in home.values()):
                raise InputError(f"{index} is no safetensors index: it has no 'weight_map' of tensors to files")
        elif (self.folder / SINGLE).is_file():
            home = dict.fromkeys(self._file(SINGLE).entries, SINGLE)
        else:
            pickles = sorted(file.name for file in self.folder.iterdir() if file.suffix in PICKLES)
            if pickles:
                raise InputError(
                    f"checkpoint {self.folder} holds only pickles ({pickles[0]}), which can run code when read: "
                    "convert it to safetensors"
                )
            raise InputError(f"checkpoint {self.folder} has neither {SINGLE} nor {INDEX}")
        self._expert_names = self._routed(home)
        return home

    def _routed(self, home: dict[str, str]) -> frozenset[str]:
        keys, shape = self.family.keys, self.shape
        patterns = (keys.gate, keys.up, keys.down, keys.gate_up_bias, keys.down_bias)
        return frozenset(
            name
            for pattern in patterns
            if pattern is not None
            for layer in shape.moe_layers
            for expert in range(shape.experts)
            if (name := self._key(pattern, layer, expert)) in home
        )

    def _file(self, name: str) -> MappedFile:
        if name not in self._files:
            path = self.folder / name
            if Path(name).name != name or name in {".", ".."} or "\0" in name:
                raise InputError(f"the index of {self.folder} names {name!r}, which lies outside the folder")
            if path.suffix in PICKLES:
                raise InputError(f"{path} is a pickle, which can run code when read: convert it to safetensors")
            # The hub's cache links each file of a snapshot to ../../blobs: links may lead there and nowhere else.
            home, real = self.folder.resolve(), path.resolve()
            if real.parent not in (home, home.parent.parent / "blobs"):
                raise InputError(f"{path} is a link to {real}, which lies outside the checkpoint folder")
            self._files[name] = MappedFile(path)
        return self._files[name]
