"""The point function of peer.py as a Hydra application."""

import json
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig

from _bench.peer import point


@hydra.main(version_base=None, config_path=None)
def main(config: Any) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "row.json").write_text(json.dumps(point(int(config.seed))))


if __name__ == "__main__":
    main()
