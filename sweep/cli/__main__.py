"""`python -m sweep.cli`: the command, where the `sweep` script is not on PATH."""

import sys

from sweep.cli.main import main

sys.exit(main())
