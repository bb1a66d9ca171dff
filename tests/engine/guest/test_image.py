"""What kernel images tell about themselves, and files that are none."""

import gzip
from pathlib import Path

import pytest

from engine.guest.image import NotAKernelError, read_image
from tests.support.kernel_images import GOOD_CONFIG, write_arm, write_x86


def test_x86_image(tmp_path: Path) -> None:
    """A bzImage tells its release, and its configuration is found beside it."""
    image = read_image(write_x86(tmp_path / "bzImage", "6.12.3-mine"))
    assert (image.machine, image.release, image.arch) == ("x86_64", "6.12.3-mine", "x86-64")
    assert image.missing_options == []


@pytest.mark.parametrize(("page_kib", "arch"), [(4, "arm64-4k"), (16, "arm64-16k"), (64, "arm64-64k")])
def test_arm_image(tmp_path: Path, page_kib: int, arch: str) -> None:
    """An Image tells its page size and its release, compressed by gzip or not."""
    path = write_arm(tmp_path / "Image", "7.3.0", page_kib)
    path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
    for file in (path, path.with_suffix(".gz")):
        assert (read_image(file).arch, read_image(file).release) == (arch, "7.3.0")


def test_options_of_a_build_tree(tmp_path: Path) -> None:
    """The configuration of an image in a build tree is the tree's .config, whose missing options are named."""
    path = write_x86(tmp_path / "arch/x86/boot/bzImage", "6.12.0", config=None)
    (tmp_path / ".config").write_text(GOOD_CONFIG.replace("CONFIG_PROC_FS=y", "# CONFIG_PROC_FS is not set"))
    assert read_image(path).missing_options == ["CONFIG_PROC_FS"]


def test_modules_make_up_for_options(tmp_path: Path) -> None:
    """Drivers that are modules are enough if they are kept beside the image, in the order in which they load."""
    config = GOOD_CONFIG.replace("VIRTIO_CONSOLE=y", "VIRTIO_CONSOLE=m").replace("VIRTIO_PCI=y", "VIRTIO_PCI=m")
    path = write_arm(tmp_path / "vmlinuz", "6.1.0", 4, config)
    assert read_image(path).missing_options == ["CONFIG_VIRTIO_CONSOLE", "CONFIG_VIRTIO_PCI"]
    (tmp_path / "modules").mkdir()
    for name in ("virtio_console", "virtio_pci", "virtio"):
        (tmp_path / "modules" / f"{name}.ko").write_bytes(b"module")
    assert read_image(path).missing_options == []
    assert [file.stem for file in read_image(path).modules] == ["virtio", "virtio_pci", "virtio_console"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no kernel image"),
        (b"#!/bin/sh\n", "no kernel image"),
        (b"\x7fELF" + bytes(2000), "is an ELF file"),
        (b"MZ\0\0zimg" + bytes(2000), "compressed for EFI"),
        (b"\x1f\x8bgarbage", "cannot be decompressed"),
        (bytes(0x202) + b"HdrS" + bytes(2000), "32-bit"),
        (bytes(0x38) + b"ARM\x64" + bytes(100), "page size"),
    ],
)
def test_no_kernel(tmp_path: Path, data: bytes, why: str) -> None:
    """A file that is no kernel image is refused with the reason."""
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(NotAKernelError, match=why):
        read_image(tmp_path / "file")


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    """The header says how long an x86-64 image is."""
    path = write_x86(tmp_path / "bzImage", "6.12.3")
    data = bytearray(path.read_bytes())
    data[0x1F1], data[0x1F4:0x1F8] = 2, (100).to_bytes(4, "little")
    path.write_bytes(data)
    assert len(data) < 3 * 512 + 1600
    with pytest.raises(NotAKernelError, match=r"is cut short: 2,048 of 3,136 bytes"):
        read_image(path)
    path.write_bytes(data + bytes(1088))
    assert read_image(path).release == "6.12.3"
