"""What this machine has and lacks for running kernels in guests."""

from collections.abc import Iterator
from dataclasses import dataclass

from engine.guest import agent, qemu_command
from engine.guest.booted_guest import BootError, Guest
from engine.guest.image import MACHINES, Image
from engine.kernel.host import UnsupportedMachineError
from sweep.kernel_images import kernel_cache


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that guests need. found: what is there, "" if it is missing; advice: the command that provides it."""

    what: str
    machine: str
    found: str
    advice: str = ""


def check_machine(machine: str, images: list[Image]) -> Iterator[Check]:
    """QEMU, a compiler, a kernel, a boot in emulation, and one with KVM, of a machine (uname -m)."""
    program, compiler = qemu_command.find_qemu(machine), agent.find_compiler(machine)
    image = next((image for image in reversed(images) if image.machine == machine), None)
    get = "sweep kernel get 6.12" + (" --arch arm64" if machine != MACHINES[0] else "")
    yield Check("QEMU", machine, program or "", "" if program else qemu_command.missing_qemu(machine))
    yield Check("C compiler", machine, compiler or "", "" if compiler else agent.missing_compiler(machine))
    yield Check("kernel", machine, image.release if image else "", "" if image else f"none in the cache; {get}")
    if program and compiler and image:
        yield try_boot(image, qemu_command.TCG)
        if qemu_command.has_kvm(machine):
            yield try_boot(image, qemu_command.KVM)
        else:
            yield Check("boot with kvm", machine, "", "no /dev/kvm for this machine: guests are emulated")


def try_boot(image: Image, accel: str) -> Check:
    """Boot a guest and end it."""
    what = f"boot with {accel}"
    try:
        Guest(image, accel, kernel_cache.cache_folder()).close()
    except (BootError, UnsupportedMachineError) as error:
        advice = f"{error}" + ("; guests are emulated" if accel == qemu_command.KVM else "")
        return Check(what, image.machine, "", advice)
    return Check(what, image.machine, image.release)
