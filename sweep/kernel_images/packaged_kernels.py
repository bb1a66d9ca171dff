"""Downloads the distribution's packaged kernels with apt, into the user's cache.

apt runs with its own sources, state and cache below that folder: it checks the archive's signatures, installs nothing
and touches nothing of the system. Only the kernel image and its configuration are taken out of a package.
"""

import lzma
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.guest.image import MODULES
from sweep.common.errors import UserError, one_line
from sweep.common.kernel_releases import begins, release_key
from sweep.kernel_images import kernel_cache
from sweep.kernel_images.kernel_cache import no_such_release

PROGRAMS = ("apt-get", "apt-cache", "dpkg-deb")
KEYRINGS = Path("/usr/share/keyrings")
_IMAGE = re.compile(
    r"linux-(?P<kind>image|binary)-(?P<release>(?P<version>[0-9][^-]*(?:-[0-9]+)?)(?P<flavour>-[a-z].*))"
)
_FILE = re.compile(
    r"\./(?:boot/(?P<boot>vmlinuz|config)-.*|(?:usr/)?lib/modules/[^/]+/"
    rf"(?:(?P<built>vmlinuz|config)|kernel/.*/(?P<module>{'|'.join(MODULES)})\.ko(?P<xz>\.xz)?))"
)
VIRTIO_BUILT_IN = b"CONFIG_VIRTIO_CONSOLE=y"
APT_S = 300.0


@dataclass(frozen=True, slots=True)
class Distribution:
    """Where a distribution keeps its kernels.

    archives: URL by Debian's name of the architecture; suites: with {codename} for that of the machine;
    flavours: endings of releases by Scenario.arch, the smallest package first
    """

    keyring: str
    archives: dict[str, str]
    suites: tuple[str, ...]
    components: str
    flavours: dict[str, tuple[str, ...]]


DEBIAN_ARCH = {"x86-64": "amd64", "arm64-4k": "arm64", "arm64-16k": "arm64", "arm64-64k": "arm64"}
DISTRIBUTIONS = {
    "debian": Distribution(
        "debian-archive-keyring.gpg",
        dict.fromkeys(("amd64", "arm64"), "http://deb.debian.org/debian"),
        ("bookworm", "bookworm-backports", "trixie", "trixie-backports"),
        "main",
        {"x86-64": ("-cloud-amd64", "-amd64"), "arm64-4k": ("-cloud-arm64", "-arm64"), "arm64-16k": ("-arm64-16k",)},
    ),
    "ubuntu": Distribution(
        "ubuntu-archive-keyring.gpg",
        {"amd64": "http://archive.ubuntu.com/ubuntu", "arm64": "http://ports.ubuntu.com/ubuntu-ports"},
        ("{codename}", "{codename}-updates"),
        "main universe",
        {"x86-64": ("-generic",), "arm64-4k": ("-generic",), "arm64-64k": ("-generic-64k",)},
    ),
}


def read_distribution(os_release: Path = Path("/etc/os-release")) -> tuple[Distribution, str]:
    """The distribution of this machine, and its codename. Raises UserError where kernels cannot be downloaded."""
    advice = "give --kernel a file in place of a release"
    try:
        text = os_release.read_text()
    except OSError:
        text = ""
    facts = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))
    names = [facts.get("ID", ""), *facts.get("ID_LIKE", "").split()]
    name = next(
        (name for name in names if name in DISTRIBUTIONS and (KEYRINGS / DISTRIBUTIONS[name].keyring).exists()), None
    )
    if name is None or not all(map(shutil.which, PROGRAMS)):
        this = facts.get("PRETTY_NAME") or platform.system()
        raise UserError(f"kernel get: downloads the packages of Debian and Ubuntu with apt; this is {this}: {advice}")
    return DISTRIBUTIONS[name], facts.get("UBUNTU_CODENAME" if name == "ubuntu" else "VERSION_CODENAME", "")


@dataclass(frozen=True, slots=True)
class _Package:
    """A package with a kernel image: linux-image- or linux-binary-, then version and flavour, which are the release."""

    name: str
    version: str
    flavour: str


class Archive:
    """The packaged kernels of one architecture, read by an apt of our own. Raises UserError where apt fails."""

    def __init__(self, arch: str) -> None:
        """arch: as Scenario.arch"""
        distribution, codename = read_distribution()
        if arch not in distribution.flavours:
            known = ", ".join(distribution.flavours)
            raise UserError(f"kernel get: no packaged kernel for {arch}; known: {known}; or give --kernel a file")
        self._flavours = distribution.flavours[arch]
        name = DEBIAN_ARCH[arch]
        self._folder = kernel_cache.cache_folder() / "apt" / name
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        keyring, url = KEYRINGS / distribution.keyring, distribution.archives[name]
        suites = [suite.format(codename=codename) for suite in distribution.suites]
        lines = (f"deb [signed-by={keyring} arch={name}] {url} {suite} {distribution.components}\n" for suite in suites)
        (self._folder / "sources.list").write_text("".join(lines))
        self._options = _apt_options(self._folder, name)
        self._packages: dict[str, _Package] = {}

    def update(self) -> None:
        """Download the archive's lists, and find the kernels in them."""
        _run(["apt-get", *self._options, "-qq", "update"])
        for name in _run(["apt-cache", *self._options, "pkgnames", "linux-"]).decode().split():
            match = _IMAGE.fullmatch(name)
            if match is None or match["flavour"] not in self._flavours:
                continue
            # Where the image is in linux-binary-*, linux-image-* of that release is empty.
            if match["kind"] == "binary" or match["release"] not in self._packages:
                self._packages[match["release"]] = _Package(name, match["version"], match["flavour"])

    @property
    def releases(self) -> list[str]:
        """The releases that can be downloaded, oldest first."""
        return sorted(self._packages, key=release_key)

    def newest(self, name: str) -> str:
        """The newest release that `name` begins; of several flavours the smallest. Raises UserError."""
        found = [release for release in self.releases if begins(release, name)]
        if not found:
            raise UserError(f"kernel get {one_line(name)}: {no_such_release(name, self.releases, 'in the archive')}")

        def key(release: str) -> tuple[list[tuple[int, str]], int]:
            package = self._packages[release]
            return release_key(package.version), -self._flavours.index(package.flavour)

        return max(found, key=key)

    def download(self, release: str) -> Path:
        """Put the kernel of a release into the user's cache and return the image's path."""
        with tempfile.TemporaryDirectory(prefix="get-", dir=self._folder) as folder:
            _run(["apt-get", *self._options, "-qq", "download", self._packages[release].name], Path(folder))
            package = next(Path(folder).glob("*.deb"))
            files = _read_files(package)
        if kernel_cache.VMLINUZ not in files:
            raise UserError(f"kernel get {release}: package {self._packages[release].name} holds no kernel")
        return kernel_cache.add_kernel(release, files)


def get_kernels(names: Sequence[str], arch: str, say: Callable[[str], None]) -> list[Path]:
    """Download the newest release of each name that is not in the cache yet. Returns the images' paths."""
    archive = Archive(arch)
    archive.update()
    releases = [archive.newest(name) for name in names]
    paths = []
    for release in dict.fromkeys(releases):
        path = kernel_cache.kernels_folder() / release / kernel_cache.VMLINUZ
        if path.exists():
            say(f"{release}: is there")
        else:
            path = archive.download(release)
            say(f"{release}: {path.stat().st_size / 2**20:.0f} MiB")
        paths.append(path)
    return paths


def _apt_options(folder: Path, arch: str) -> list[str]:
    settings = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Log": folder / "cache",
        "APT::Architecture": arch,
        "APT::Architectures": arch,
        "APT::Sandbox::User": "",  # nobody else may write into the user's cache
        "Acquire::Languages": "none",
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def _run(command: list[str], folder: Path | None = None) -> bytes:
    """The output of a command. Raises UserError with its last line of errors."""
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=APT_S).stdout
    except subprocess.TimeoutExpired:
        raise UserError(f"kernel get: {command[0]} did not end in {APT_S:g} s") from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.decode(errors="replace").splitlines() if line.startswith("E:")]
        why = one_line(lines[0].removeprefix("E:").strip() if lines else f"ended with {error.returncode}", 200)
        raise UserError(f"kernel get: {command[0]}: {why}") from None


def _read_files(package: Path) -> dict[str, bytes]:
    """`vmlinuz`, `config`, and the modules that a guest needs as `modules/NAME.ko`, from a Debian package."""
    found: dict[str, bytes] = {}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                match = _FILE.fullmatch(member.name)
                if match and member.isfile() and (file := archive.extractfile(member)):
                    name, data = match["boot"] or match["module"] or match["built"], file.read()
                    found[f"modules/{name}.ko" if name in MODULES else name] = (
                        lzma.decompress(data) if match["xz"] else data
                    )
                if VIRTIO_BUILT_IN in found.get(kernel_cache.CONFIG, b"") and kernel_cache.VMLINUZ in found:
                    process.kill()
                    break
    return found
