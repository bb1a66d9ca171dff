"""The QEMU command of a guest: which program, machine, CPU and devices."""

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.guest.image import ARM, X86
from engine.model.arch import MIB

KVM, TCG = "kvm", "tcg"
GUEST_BYTES = 2048 * MIB
"""Memory of a guest. The host gives it page by page, as the guest touches it."""
KERNEL_OPTIONS = (
    *("panic=-1", "oops=panic", "loglevel=5", "rdinit=/init", "mitigations=off", "nokaslr", "audit=0"),
    "no_timer_check",
)
"""A panic ends QEMU at once (-no-reboot). Mitigations cost emulated time, and change no count. On a busy machine an
emulated timer looks broken to a kernel that checks it."""


@dataclass(frozen=True, slots=True)
class Platform:
    """How kernels of a machine boot. cpu: by accelerator; console: as the kernel calls the serial port;

    has_second_port: whether there is another serial port
    """

    program: str
    package: str
    machine: str
    cpu: dict[str, str]
    console: str
    has_second_port: bool


PLATFORMS = {
    X86: Platform(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "q35",
        {TCG: "max,la57=off", KVM: "host"},  # four levels of page tables, as most machines have
        "ttyS0",
        True,
    ),
    ARM: Platform(
        "qemu-system-aarch64",
        "qemu-system-arm",
        "virt",
        {TCG: "max,pauth-impdef=on", KVM: "host"},
        "ttyAMA0",
        False,
    ),
}


def find_qemu(machine: str) -> str | None:
    """The path of QEMU for a machine, None if it is not installed."""
    return shutil.which(PLATFORMS[machine].program)


def missing_qemu(machine: str) -> str:
    """One line that says what to install."""
    return f"no {PLATFORMS[machine].program}; apt install {PLATFORMS[machine].package}"


def has_kvm(machine: str) -> bool:
    """Whether KVM is there for that machine. Guests may die in it all the same."""
    return platform.machine() == machine and os.access("/dev/kvm", os.R_OK | os.W_OK)


def qemu_command(
    program: str, machine: str, accel: str, kernel: Path, initramfs: str, virtio_fd: int, serial_fd: int
) -> Sequence[str]:
    """The command that boots a guest, with its console on stdout.

    virtio_fd, serial_fd: connected sockets for the virtio port, and for the second serial port if there is one
    """
    p = PLATFORMS[machine]
    second = ("-chardev", f"socket,id=second,fd={serial_fd}", "-serial", "chardev:second") if p.has_second_port else ()
    return [
        *(program, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"),
        *("-machine", f"{p.machine},accel={accel}", "-cpu", p.cpu[accel], "-smp", "1", "-m", f"{GUEST_BYTES // MIB}M"),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console", *second),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=virtio,fd={virtio_fd}"),
        *("-device", "virtserialport,chardev=virtio"),
        *("-kernel", str(kernel), "-initrd", initramfs, "-append", " ".join((f"console={p.console}", *KERNEL_OPTIONS))),
    ]
