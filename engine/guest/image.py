"""What a kernel image says about itself: architecture, release, page size, and which needed options it lacks."""

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from engine.kernel.host import ARCH_OF
from engine.model.arch import KIB

X86, ARM = "x86_64", "aarch64"
MACHINES = (X86, ARM)
"""Machines, as uname -m, whose kernels can be booted."""

_NEEDED = (
    "BINFMT_ELF",
    "PRINTK",
    "TTY",
    "BLK_DEV_INITRD",
    "PROC_FS",
    "PROC_PAGE_MONITOR",
    "ADVISE_SYSCALLS",
    "POSIX_TIMERS",
)
"""Options of every kernel that the agent needs."""
_CONSOLES = {X86: ("SERIAL_8250_CONSOLE",), ARM: ("SERIAL_AMBA_PL011_CONSOLE", "VIRTIO_CONSOLE", "VIRTIO_PCI")}
"""Options of the console, and on arm64 of the channel to the agent. x86-64 has a second serial port to fall back on."""
MODULES = ("virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_console")
"""The modules of the channel to the agent, in the order in which they are loaded, for kernels without it built in."""
_BOOT_PARAMS_MAGIC, _ARM_MAGIC, _ZBOOT_MAGIC = b"HdrS", b"ARM\x64", b"zimg"
_ARM_PAGE_BYTES = {1: 4 * KIB, 2: 16 * KIB, 3: 64 * KIB}
_BANNER = re.compile(rb"Linux version ([0-9][^\s\x00]{1,64}) ")
_MOST_BYTES = 1 << 30


class NotAKernelError(Exception):
    """The file is no kernel image that can be booted. The message says why, without the file's name."""


@dataclass(frozen=True, slots=True)
class Image:
    """A kernel image. machine: as uname -m; release: as uname -r, "" if the image does not tell; page_bytes: of a page.

    options: the kernel's configuration, values by name without CONFIG_; None if it is not known
    """

    path: Path
    machine: str
    release: str
    page_bytes: int
    options: dict[str, str] | None

    @property
    def arch(self) -> str | None:
        """Scenario.arch of this kernel."""
        return ARCH_OF.get((self.machine, self.page_bytes))

    @property
    def modules(self) -> list[Path]:
        """The files of MODULES that are kept beside the image, in `modules`."""
        files = (self.path.parent / "modules" / f"{name}.ko" for name in MODULES)
        return [file for file in files if file.exists()]

    @property
    def missing_options(self) -> list[str]:
        """Options that a guest needs and this configuration lacks; empty if the configuration is not known."""
        brought = {file.stem.upper() for file in self.modules}
        return [
            f"CONFIG_{name}"
            for name in self.needed_options
            if self.options and self.options.get(name) != "y" and name not in brought
        ]

    @property
    def needed_options(self) -> tuple[str, ...]:
        return _NEEDED + _CONSOLES[self.machine]


def read_image(path: Path) -> Image:
    """Read the header of a kernel image, and the configuration beside it. Raises NotAKernelError, OSError."""
    if path.stat().st_size > _MOST_BYTES:
        raise NotAKernelError("is larger than 1 GiB")
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":  # arm64's Image.gz
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise NotAKernelError(f"cannot be decompressed: {error}") from error
    if data[0x202:0x206] == _BOOT_PARAMS_MAGIC:
        return _x86_image(path, data)
    if data[0x38:0x3C] == _ARM_MAGIC:
        return _arm_image(path, data)
    if data[4:8] == _ZBOOT_MAGIC:
        raise NotAKernelError(
            "is compressed for EFI (zboot), which QEMU before 8.0 cannot boot; give arch/*/boot/Image"
        )
    if data[:4] == b"\x7fELF":
        raise NotAKernelError("is an ELF file; give arch/x86/boot/bzImage or arch/arm64/boot/Image in place of vmlinux")
    raise NotAKernelError("is no kernel image; known: bzImage of x86-64, Image of arm64")


def _x86_image(path: Path, data: bytes) -> Image:
    """Documentation/arch/x86/boot.rst: kernel_version, less 0x200, at 0x20e; xloadflags at 0x236, bit 0: 64 bits.

    setup_sects at 0x1f1, sectors of 512 bytes after the first, 4 if it is 0; syssize at 0x1f4, in units of 16 bytes
    """
    if int.from_bytes(data[0x206:0x208], "little") < 0x20C or not data[0x236] & 1:
        raise NotAKernelError("is a 32-bit x86 kernel; x86-64 is needed")
    setup_bytes, kernel_bytes = 512 * ((data[0x1F1] or 4) + 1), 16 * int.from_bytes(data[0x1F4:0x1F8], "little")
    if kernel_bytes and len(data) < setup_bytes + kernel_bytes:
        raise NotAKernelError(f"is cut short: {len(data):,} of {setup_bytes + kernel_bytes:,} bytes")
    at = int.from_bytes(data[0x20E:0x210], "little") + 0x200
    text = data[at : at + 128].split(b"\0")[0].decode(errors="replace")
    release = text.split()[0] if text.split() else ""
    return Image(path, X86, release, 4 * KIB, read_options(path, release))


def _arm_image(path: Path, data: bytes) -> Image:
    """Documentation/arch/arm64/booting.rst: flags at 24, bits 1 and 2 are the page size."""
    banner = _BANNER.search(data)
    release = banner[1].decode(errors="replace") if banner else ""
    options = read_options(path, release)
    page = _ARM_PAGE_BYTES.get(int.from_bytes(data[24:32], "little") >> 1 & 3)
    if page is None:
        raise NotAKernelError("does not tell its page size: older than Linux 4.6")
    return Image(path, ARM, release, page, options)


def read_options(path: Path, release: str) -> dict[str, str] | None:
    """The configuration of a kernel: `config` or `config-RELEASE` beside its image, or its build tree's .config."""
    path = path.resolve()
    places = [path.parent / "config", path.parent / f"config-{release}"]
    if path.parent.match("arch/*/boot"):
        places.append(path.parents[3] / ".config")
    for place in places:
        try:
            text = place.read_text(errors="replace")
        except OSError:
            continue
        lines = (
            line.removeprefix("CONFIG_").partition("=") for line in text.splitlines() if line.startswith("CONFIG_")
        )
        return {name: value for name, _, value in lines}
    return None
