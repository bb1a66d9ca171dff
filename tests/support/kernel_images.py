"""Files that look like kernel images: headers without a kernel behind them."""

from pathlib import Path

GOOD_CONFIG = "".join(
    f"CONFIG_{name}=y\n"
    for name in (
        *("BINFMT_ELF", "PRINTK", "TTY", "BLK_DEV_INITRD", "PROC_FS", "PROC_PAGE_MONITOR", "ADVISE_SYSCALLS"),
        *("POSIX_TIMERS", "SERIAL_8250_CONSOLE", "SERIAL_AMBA_PL011_CONSOLE", "VIRTIO_CONSOLE", "VIRTIO_PCI"),
    )
)


def write_x86(path: Path, release: str, config: str | None = GOOD_CONFIG) -> Path:
    """A bzImage's header, and its configuration beside it."""
    data = bytearray(0x800)
    data[0x202:0x206], data[0x206:0x208], data[0x236] = b"HdrS", (0x20F).to_bytes(2, "little"), 1
    data[0x20E:0x210] = (0x400).to_bytes(2, "little")
    text = f"{release} (someone@somewhere) #1 SMP\0".encode()
    data[0x600 : 0x600 + len(text)] = text
    return _write(path, bytes(data), config)


def write_arm(path: Path, release: str, page_kib: int, config: str | None = GOOD_CONFIG) -> Path:
    """An arm64 Image's header, and its configuration beside it."""
    data = bytearray(64)
    data[24:32] = ({4: 1, 16: 2, 64: 3}[page_kib] << 1).to_bytes(8, "little")
    data[0x38:0x3C] = b"ARM\x64"
    return _write(path, bytes(data) + f"Linux version {release} (gcc)\0".encode(), config)


def _write(path: Path, data: bytes, config: str | None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if config is not None:
        (path.parent / "config").write_text(config)
    return path
