"""The files of a database's runs: which parts are committed and intact, looked at again when they have changed."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from sweep.common import schema
from sweep.common.errors import UserError
from sweep.storage.parallel import in_parallel
from sweep.storage.storage import Storage
from sweep.store.checked_parts import CheckedFiles
from sweep.store.store import RunInfo

Check = Callable[[CheckedFiles, Collection[str]], bool]


class RunFiles:
    """The checked files of each of `runs`: those whose folders could be listed."""

    def __init__(self, root: Storage, runs: Sequence[RunInfo], problems: list[str], *, is_named: bool) -> None:
        """`problems` gets a line for each run that cannot be listed, which is an error if the user named the runs
        (`is_named`), and later for each damaged part."""

        def files_of(run: RunInfo) -> CheckedFiles | UserError:
            try:
                return CheckedFiles(run.path)
            except UserError as error:
                if is_named:
                    raise
                return error

        self._root, self._problems = root, problems
        found = list(zip(runs, in_parallel(root, files_of, runs), strict=True))
        problems += [str(files) for _, files in found if isinstance(files, UserError)]
        self.runs = [run for run, files in found if isinstance(files, CheckedFiles)]
        self._files = {run.run_id: files for run, files in found if isinstance(files, CheckedFiles)}

    def of(self, run: RunInfo) -> CheckedFiles:
        return self._files[run.run_id]

    def paths(self) -> list[Path]:
        """All intact files that are local."""
        return [path for files in self._files.values() for table in schema.TABLES for path in files.paths(table)]

    def changed(self, tables: Collection[str]) -> bool:
        """Whether there are other parts than before, or parts newly found damaged: then a query is worth repeating."""
        changed = in_parallel(self._root, CheckedFiles.look_again, list(self._files.values()))
        try:
            return any(changed) or self.find_damage(tables, CheckedFiles.check_columns)
        except FileNotFoundError:
            return True

    def find_damage(self, tables: Collection[str], check: Check = CheckedFiles.check) -> bool:
        """Check the files of these tables. Returns whether more parts are damaged; these are left out and reported."""
        files = list(self._files.values())
        damaged_before = [set(of_run.damaged) for of_run in files]
        has_new_damage = any(in_parallel(self._root, lambda of_run: check(of_run, tables), files)) if tables else False
        for of_run, before in zip(files, damaged_before, strict=True):
            for part in [part for part in of_run.damaged if part not in before]:
                problem = f"{of_run.damaged[part]}; the next launch of its grid runs its points again"
                if problem not in self._problems:  # Store.survey has read the points of runs that have not ended
                    self._problems.append(problem)
        return has_new_damage
