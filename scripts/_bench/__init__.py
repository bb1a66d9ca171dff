"""scripts/bench: measures the speed of each part, together with a yardstick in the same run."""

import engine  # noqa: F401  sets NUMBA_CACHE_DIR, so it comes before any import of numba
