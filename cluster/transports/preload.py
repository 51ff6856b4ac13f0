"""What the fork server of worker processes imports once, so that each worker starts in milliseconds.

The arithmetic is pinned before torch is imported: MKL reads its mode at the first product.
"""

import os

from moe.determinism import ENVIRONMENT

os.environ.update(ENVIRONMENT)

import torch  # noqa: F401

import actors.device  # noqa: F401
import moe.checkpoint  # noqa: F401
