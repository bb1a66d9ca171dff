"""Types of what `import sweep` offers. In a stub, as an import in __init__.py would be one of every module's."""

from sweep.api.evaluate import evaluate as evaluate
from sweep.api.picture import Picture as Picture
from sweep.api.rows import Rows as Rows
from sweep.api.run import Run as Run
from sweep.api.run import launch as launch
from sweep.api.run import runs as runs
from sweep.common.errors import UserError as UserError

__all__: list[str]
__version__: str
