"""What the fork server of worker processes imports once, so that each worker starts in milliseconds.

The arithmetic is pinned before torch is imported: MKL reads its mode at the first product. Without torch devices only
note what they hold.
"""

import os

from moe.determinism import ENVIRONMENT

os.environ.update(ENVIRONMENT)

import actors.device  # noqa: F401
from emulation.extras import installed

if installed("torch"):
    import moe.checkpoint  # noqa: F401
