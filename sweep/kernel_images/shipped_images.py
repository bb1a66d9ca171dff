"""Kernel images as they travel to the nodes of a cluster: the image, its configuration and its modules.

A node keeps them in PTSWEEP/copies/IDENTITY/, PTSWEEP being kernel_cache.cache_folder(), so that it writes them once.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from engine.guest.image import Image
from sweep.kernel_images import kernel_cache


@dataclass(frozen=True, slots=True)
class ShippedImage:
    """An image and what is beside it. files: contents by path in its folder, the image's own as `vmlinuz`."""

    image: Image
    files: Mapping[str, bytes]

    @property
    def identity(self) -> str:
        """A hash of the files."""
        digest = hashlib.blake2b(digest_size=16)
        for name, data in sorted(self.files.items()):
            digest.update(f"{name} {len(data)} ".encode() + data)
        return digest.hexdigest()


def ship(image: Image) -> ShippedImage:
    """Read an image and its modules. Raises OSError."""
    modules = {f"modules/{file.name}": file.read_bytes() for file in image.modules}
    return ShippedImage(image, {kernel_cache.VMLINUZ: image.path.read_bytes()} | modules)


def unpack(shipped: ShippedImage) -> Image:
    """The image in this node's cache, written there if it is new. Raises OSError."""
    folder = kernel_cache.cache_folder() / "copies" / shipped.identity
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        try:
            for name, data in shipped.files.items():
                (new / name).parent.mkdir(exist_ok=True)
                (new / name).write_bytes(data)
            try:
                os.rename(new, folder)  # noqa: PTH104
            except OSError:
                if not folder.exists():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return replace(shipped.image, path=folder / kernel_cache.VMLINUZ)
