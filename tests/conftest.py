"""What all tests share: the reference files, where a checkout has them beside it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference measurements and traces; the test is skipped where there is none."""
    folder = Path(os.environ.get("MOELAB_SHARED", ROOT.parent / "shared"))
    if not (folder / "hardware").is_dir():
        pytest.skip("no reference files: set MOELAB_SHARED to the folder that holds hardware/ and traces/")
    return folder
