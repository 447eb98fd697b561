"""The machine: processor, system, versions, memory."""

import platform
import resource
import sys
from pathlib import Path
from typing import Any

import zsm
from zsm.engine import host
from zsm.limits import cores


def peak_rss_mib() -> float:
    """Peak resident memory of this process, in MiB."""
    if Path("/proc/self/status").exists():
        return host.own("VmHWM") / 2**20  # getrusage's maximum includes the parent's
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def describe() -> dict[str, Any]:
    """Processor, cores, system and versions, as plain values for JSON."""
    return {
        "cpu": host.processor(),
        "cores": cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "zsm": zsm.__version__,
    }
