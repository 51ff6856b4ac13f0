"""Tiny checkpoints of every family, made once a session, and the arithmetic that real runs have."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moe import determinism

# Before any test of this process multiplies: MKL reads its mode at its first product.
os.environ.update(determinism.ENVIRONMENT)


@pytest.fixture(autouse=True, scope="session")
def pinned() -> bool:
    from transformers.utils import logging

    logging.disable_progress_bar()
    return determinism.pin()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of one family's tiny checkpoint."""
    from moe.tiny import write_tiny

    made: dict[str, Path] = {}

    def folder(model_type: str) -> Path:
        if model_type not in made:
            made[model_type] = write_tiny(model_type, tmp_path_factory.mktemp(model_type))
        return made[model_type]

    return folder
