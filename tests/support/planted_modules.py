"""A folder with Python modules that an attacker left there: each leaves a mark when it is imported."""

from pathlib import Path

NAMES = ("json", "re", "numpy", "numba", "ray", "engine", "sweep", "sitecustomize", "usercustomize")
MARK = "import os\nopen(os.path.join({marks!r}, '{name}'), 'a').close()\n"


class PlantedModules:
    """`folder` holds the modules and a .pth file. It is the current folder of the command under test."""

    def __init__(self, parent: Path) -> None:
        self.folder, self._marks = parent / "planted", parent / "marks"
        self.folder.mkdir()
        self._marks.mkdir()
        for name in NAMES:
            text = MARK.format(marks=str(self._marks), name=name)
            (self.folder / f"{name}.py").write_text(text)
        (self.folder / "planted.pth").write_text(MARK.format(marks=str(self._marks), name="pth").replace("\n", ";"))

    def imported(self) -> list[str]:
        """Names of the modules that any process has imported since the start."""
        return sorted(path.name for path in self._marks.iterdir())
