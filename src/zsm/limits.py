"""Limits of this process: its CPU cores, and its control groups, such as a container's."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def cores() -> int:
    """Number of CPU cores that this process may use, by its affinity and its control groups' quotas."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([available, *_quotas()])


def _quotas() -> Iterator[int]:
    """The cores' worth of time that each control group may use, rounded up."""
    for group in control_groups("cpu"):
        for names in ["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]:
            with suppress(OSError):
                quota, period = " ".join((group / name).read_text() for name in names).split()
                if quota.isdecimal():  # not "max" or "-1"
                    yield -(-int(quota) // int(period))


def control_groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control groups, of either version, from the innermost to the outermost."""
    if not MEMBERSHIP.exists():
        return
    for line in MEMBERSHIP.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = GROUPS / controller if controllers else GROUPS
        folder = base / path.lstrip("/")
        yield from (place for place in (folder, *folder.parents) if place.is_relative_to(base))
