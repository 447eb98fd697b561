"""The user's cache folder: what was fetched and built, and can be made again."""

import os
from pathlib import Path

import platformdirs

VARIABLE = "ZSM_CACHE"


def cache_folder() -> Path:
    """`$ZSM_CACHE`, or the system's usual place for caches."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("zsm", appauthor=False))
