"""The file of a fitted generator: JSON, with the statistics that it was fitted to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulation.errors import InputError, brief
from emulation.reading import read_json
from workloads.routing.chances import ONE
from workloads.routing.kinds import LONGEST_MEMORY, Fitted, FittedLayer

FITTED_VERSION = 1
LARGEST_BYTES = 64 << 20
MOST = 65535


def fitted_text(of: Fitted, told: Mapping[str, Any]) -> str:
    """A fitted generator as text, with what is told of it: where it is from, and its statistics."""
    layers = [{"repeat": layer.repeat, "pair": layer.pair, "ranks": list(layer.ranks)} for layer in of.layers]
    head = json.dumps({"fitted_version": FITTED_VERSION, **told, "experts": of.experts, "share": of.share,
                       "by_phase": of.by_phase}, indent=1)
    rows = ",\n".join("  " + json.dumps(layer) for layer in layers)
    return f'{head[:-2]},\n "layers": [\n{rows}\n ]\n}}\n'


def read_fitted(path: Path) -> Fitted:
    """A fitted generator from its file, checked."""
    if not path.exists():
        raise InputError(f"there is no fitted generator {path}; `moelab trace fit` writes one")
    data = read_json(path, "fitted generator", LARGEST_BYTES)
    if not isinstance(data, dict) or data.get("fitted_version") != FITTED_VERSION:
        given = data.get("fitted_version") if isinstance(data, dict) else None
        raise InputError(f"{path} has fitted_version {brief(given)}; this moelab reads {FITTED_VERSION}")
    layers = data.get("layers")
    if not isinstance(layers, list) or not 1 <= len(layers) <= MOST:
        raise InputError(f"{path}: layers is no list of at least one layer")
    fitted = tuple(_layer(f"{path}: layer {i}", layer) for i, layer in enumerate(layers))
    if not isinstance(data.get("by_phase"), bool):
        raise InputError(f"{path}: by_phase is {brief(data.get('by_phase'))}; it must be true or false")
    if type(data.get("experts")) is not int or not 1 <= data["experts"] <= len(fitted[0].ranks):
        raise InputError(f"{path}: experts is {brief(data.get('experts'))}; it must be a whole number from 1 to "
                         f"{len(fitted[0].ranks)}")
    return Fitted(by_phase=data["by_phase"], experts=data["experts"], share=_number(path, data, "share", 0, 1),
                  layers=fitted)


def _layer(where: str, data: object) -> FittedLayer:
    if not isinstance(data, dict):
        raise InputError(f"{where} is no mapping of ranks, repeat and pair")
    ranks = data.get("ranks")
    if not isinstance(ranks, list) or not 1 <= len(ranks) <= MOST or any(
            type(chance) is not int or chance < 0 for chance in ranks) or sum(ranks) != ONE:
        raise InputError(f"{where}: ranks is no list of whole chances that add to {ONE}")
    return FittedLayer(ranks=tuple(ranks), repeat=_number(where, data, "repeat", 0, LONGEST_MEMORY),
                       pair=_number(where, data, "pair", 0, 1))


def _number(where: object, data: Mapping[str, Any], name: str, least: float, most: float) -> float:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InputError(f"{where}: {name} is {brief(value)}; it must be a number from {least} to {most}")
    return float(value)
