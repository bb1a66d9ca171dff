"""Settings of memory allocators that change which slots their calls cover, from allocator_settings.toml."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("allocator_settings.toml")


@dataclass(frozen=True, slots=True)
class AllocatorSetting:
    """A setting, its default, its effect on the calls, and the URL of its documentation."""

    allocator: str
    setting: str
    default: str
    effect: str
    source: str


@cache
def allocator_settings() -> tuple[AllocatorSetting, ...]:
    """All settings, by allocator."""
    return tuple(AllocatorSetting(**setting) for setting in tomllib.loads(FILE.read_text(encoding="utf-8"))["setting"])
