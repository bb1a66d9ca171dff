"""Bring the kernels' portable code, made by Numba from their sources, up to date. `--check`: only look.

Exit code 1 if something is out of date (--check), else 0.
"""

import platform
import sys
from concurrent.futures import ThreadPoolExecutor

from engine.compilation.native_code import SHIPPED, SHIPS_FOR, lowered, shipped
from engine.run import COMPILED


def main(check: bool) -> int:
    wanted = {shipped(kernel): kernel for kernel in COMPILED}
    missing, stale = [path for path in wanted if not path.exists()], set(SHIPPED.glob("*.xz")) - set(wanted)
    if check:
        for path in (*missing, *stale):
            print(f"{path.parent.name}/{path.name}: {'missing' if path in wanted else 'stale'}; run scripts/portable")
        return int(bool(missing or stale))
    if platform.machine() != SHIPS_FOR:
        sys.exit(f"this machine is {platform.machine()}; what ships is made on {SHIPS_FOR}")
    SHIPPED.mkdir(exist_ok=True)
    with ThreadPoolExecutor(len(wanted)) as pool:
        made = dict(zip(wanted, pool.map(lowered, wanted.values()), strict=True))
    for path, data in made.items():
        path.write_bytes(data)
        print(f"{path.name}: {len(data):,} bytes")
    for path in stale:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
