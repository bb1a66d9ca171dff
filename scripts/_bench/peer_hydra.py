"""Hydra's side of peer.py: the same point function as a Hydra application."""

import json
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig

from _bench.peer import point


@hydra.main(version_base=None, config_path=None)
def main(config: Any) -> None:
    place = Path(HydraConfig.get().runtime.output_dir)
    (place / "row.json").write_text(json.dumps(point(int(config.seed))))


if __name__ == "__main__":
    main()
