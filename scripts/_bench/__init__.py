"""scripts/bench: how fast everything is, each figure beside its own yardstick in the same run."""

import engine  # noqa: F401  chooses the compiler's cache, so before anything imports numba
