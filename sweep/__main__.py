"""`python -m sweep`: the command line, for when the script `sweep` is not on PATH."""

import sys

from sweep.cli.main import main

sys.exit(main())
