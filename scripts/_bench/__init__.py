"""scripts/bench: measures the speed of each part, together with a yardstick in the same run."""

import engine.numeric  # noqa: F401  chooses the folder of compiled code, so before anything imports numba
