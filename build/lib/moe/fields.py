"""Fields of a config.json, each checked when it is read."""

from collections.abc import Mapping
from typing import Any

from emulation.errors import InputError, brief

LARGEST_COUNT = 10**7
"""More than any field of a config.json counts: layers, widths, experts, words."""

# transformers writes some counts under its own name when it saves a config that had another.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_TOP_K = ("num_experts_per_tok", "moe_k")
_ALIASES = {
    **{name: (name, *(other for other in _EXPERTS if other != name)) for name in _EXPERTS},
    **{name: (name, *(other for other in _TOP_K if other != name)) for name in _TOP_K},
}


class Fields:
    """A config.json whose missing and mistyped fields are refused by name."""

    def __init__(self, model: str, config: Mapping[str, Any]) -> None:
        self.model, self.config = model, config

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        value = next((self.config[known] for known in _ALIASES.get(name, (name,)) if known in self.config), None)
        if value is None:
            value = default
        if value is None:
            raise InputError(f"the config.json of {self.model} lacks {name!r}, which its family needs")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_COUNT:
            raise InputError(f"{name!r} in the config.json of {self.model} is {brief(value)}, not a count")
        return value

    def items(self, name: str) -> list[Any]:
        """A list, empty where there is none."""
        value = self.config.get(name)
        if not isinstance(value, list | None):
            raise InputError(f"{name!r} in the config.json of {self.model} is {brief(value)}, not a list")
        return value or []

    def flag(self, name: str, default: bool) -> bool:
        """Whether something is so."""
        value = self.config.get(name)
        return default if value is None else bool(value)
