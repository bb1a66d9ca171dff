"""The user's folder of kernel images, and which image a name stands for.

PTSWEEP/kernels/RELEASE/ has `vmlinuz` and `config`, PTSWEEP being $XDG_CACHE_HOME/ptsweep or ~/.cache/ptsweep.
"""

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.guest.image import Image, NotAKernelError, read_image
from engine.kernel.host import read_machine
from sweep.common.errors import UserError, one_line
from sweep.common.kernel_releases import begins, release_key

RUNNING = "running"
VMLINUZ, CONFIG = "vmlinuz", "config"
MOST_NAMED = 8
"""How many releases an error message lists."""


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """A kernel as it was asked for. image: None for the running kernel."""

    name: str
    image: Image | None

    @property
    def arch(self) -> str | None:
        return self.image.arch if self.image else None

    @property
    def label(self) -> str:
        if self.image is None:
            return "the running kernel"
        return self.image.release or str(self.image.path)


def cache_folder() -> Path:
    """The folder of what ptsweep keeps for this user between commands. It may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "ptsweep"


def kernels_folder() -> Path:
    return cache_folder() / "kernels"


def cached_kernels() -> list[Image]:
    """The images in the cache, oldest release first. A folder without a readable image is left out."""
    images = []
    for folder in kernels_folder().glob("*"):
        try:
            image = read_image(folder / VMLINUZ)
        except (NotAKernelError, OSError):
            continue
        images.append(Image(image.path, image.machine, folder.name, image.page_bytes, image.options))
    return sorted(images, key=lambda image: release_key(image.release))


def add_kernel(release: str, files: Mapping[str, bytes]) -> Path:
    """Put an image and what is beside it into the cache. Returns the image's path. One of that release is replaced.

    files: contents by name: `vmlinuz`, and where they are known `config` and `modules/NAME.ko`
    """
    folder = kernels_folder() / release
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as new:
        for name, data in files.items():
            (Path(new) / release / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(new) / release / name).write_bytes(data)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(Path(new) / release, folder)  # noqa: PTH104
    return folder / VMLINUZ


def remove_kernels(names: Sequence[str]) -> list[Image]:
    """Delete the images whose release begins with one of the names. Raises UserError, before anything is deleted."""
    cached = cached_kernels()
    chosen = {image.release: image for name in names for image in _of_name(name, cached)}
    for image in chosen.values():
        shutil.rmtree(image.path.parent)
    return list(chosen.values())


def choose_kernels(names: Iterable[str], archs: Collection[str] = ()) -> list[KernelChoice]:
    """The kernels that `names` stand for, in order: `running`, a file, or the beginning of a release in the cache.

    archs: those of the points; a release stands for the newest cached image of each, without archs for one. Raises
    UserError.
    """
    choices: list[KernelChoice] = []
    cached: list[Image] | None = None
    for name in names:
        if name == RUNNING:
            choices.append(KernelChoice(name, None))
        elif "/" in name or Path(name).is_file():
            choices.append(KernelChoice(name, image_of_file(name)))
        else:
            cached = cached_kernels() if cached is None else cached
            matching = _of_name(name, cached)
            newest = {image.arch: image for image in matching}
            wanted = [image for arch, image in newest.items() if not archs or arch in archs]
            if not wanted:
                has, needs = ", ".join(sorted(str(arch) for arch in newest)), ", ".join(sorted(archs))
                raise UserError(f"kernel {one_line(name)}: is there for {has}; the points need {needs}")
            if not archs:  # the arch of this machine if it is among them
                wanted = [
                    max(wanted, key=lambda image: (image.machine == platform.machine(), release_key(image.release)))
                ]
            choices += [KernelChoice(name, image) for image in wanted]
    for choice in choices:
        check_options(choice)
    check_distinct(choices)
    return choices


def image_of_file(name: str) -> Image:
    """The image in a file. Raises UserError."""
    try:
        return read_image(Path(name))
    except NotAKernelError as error:
        raise UserError(f"kernel {one_line(name)}: {error}") from None
    except OSError as error:
        raise UserError(f"kernel {one_line(name)}: cannot read: {error.strerror or error}") from None


def check_options(choice: KernelChoice) -> None:
    """Raise UserError for an image whose configuration lacks what a guest needs."""
    missing = choice.image.missing_options if choice.image else []
    if missing:
        raise UserError(f"kernel {one_line(choice.name)}: was built without {', '.join(missing)}, which a guest needs")


def check_distinct(choices: Sequence[KernelChoice]) -> None:
    """Raise UserError for a kernel that is given twice, and for two of one release and arch.

    A row names its kernel by the release, so theirs could not be told apart.
    """
    seen: dict[tuple[str | None, str], KernelChoice] = {}
    for choice in choices:
        if choice.image is None:
            machine = read_machine()
            key = machine.arch, machine.release
        else:
            key = choice.image.arch, choice.image.release or str(choice.image.path)
        other = seen.setdefault(key, choice)
        if other is choice:
            continue
        if other.image == choice.image:
            raise UserError(f"kernel {choice.label}: is given twice")
        raise UserError(
            f"kernel {one_line(choice.name)}: has the release of {one_line(other.name)}, {key[1]}, by which rows tell "
            "kernels apart; build one with another CONFIG_LOCALVERSION, or launch each and compare the runs"
        )


def _of_name(name: str, cached: Sequence[Image]) -> list[Image]:
    """The cached images of a name, oldest first. Raises UserError if there is none, or for an empty name."""
    if not name:
        raise UserError("kernel '': an empty name; known: running, the beginning of a release, or a file")
    found = [image for image in cached if begins(image.release, name)]
    if found:
        return found
    releases = [image.release for image in cached]
    raise UserError(f"kernel {one_line(name)}: {no_such_release(name, releases, 'in the cache')}")


def no_such_release(name: str, releases: Sequence[str], place: str) -> str:
    """The message for a name that begins no release: the nearest ones, and how to get another."""
    if not releases:
        return f"no kernels {place}; sweep kernel get {one_line(name)}, or give a file"
    return f"no such release {place}; nearest: {', '.join(nearest(name, releases))}; or give a file"


def nearest(name: str, releases: Sequence[str]) -> list[str]:
    """The newest of each series (major.minor) next to `name`, at most MOST_NAMED, oldest first."""
    series: dict[str, str] = {}
    for release in sorted(releases, key=release_key):
        series[".".join(release.split(".")[:2])] = release
    wanted = [int(number) for number in re.findall(r"\d+", name)[:2]] or [0]

    def distance(release: str) -> tuple[int, ...]:
        numbers = [int(number) for number in re.findall(r"\d+", release)[:2]]
        return tuple(abs(a - b) for a, b in zip(wanted, numbers, strict=False))

    return sorted(sorted(series.values(), key=distance)[:MOST_NAMED], key=release_key)
