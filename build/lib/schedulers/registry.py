"""Finds a policy by name, by `module:Class` or by the path of a file, and gives it its parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schedulers._load import Registry
from schedulers.contract import Policy

POLICIES = Registry("policy", "schedulers", Path(__file__).parent, "Policy", ("start", "plan"), ("exact",),
                    ("contract", "registry"))


def policy_names() -> tuple[str, ...]:
    """Names of the policies that come with moelab."""
    return POLICIES.names()


def load_policy(name: str, parameters: Mapping[str, object]) -> Policy:
    """A policy by its name, as `module:Class`, or from a file whose class `Policy` it is, with its parameters set."""
    made: Policy = POLICIES.load(name, parameters)
    return made


def policy_class(name: str) -> type[Any]:
    """The class that a name stands for; refuses what is no policy."""
    return POLICIES.find(name)
