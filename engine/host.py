"""The host's processor, and its memory: what is free, and what this process has."""

import os
import platform
import sys
from pathlib import Path


def processor() -> str:
    """The processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def adds_products_in_16_bits() -> bool:
    """Whether int8 kernels add pairs of products in 16 bits, where they overflow: on x86 without VNNI."""
    flags = _cpuinfo("flags").split()
    return "avx2" in flags and not {"avx512_vnni", "avx_vnni"}.intersection(flags)


def _cpuinfo(field: str) -> str:
    """A field of the first processor in /proc/cpuinfo; empty if it isn't there."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Free memory, in bytes, as far as control groups and `ulimit -v` allow.

    On systems without /proc it isn't known, and taken to be unlimited.
    """
    if not Path("/proc/meminfo").exists():
        return sys.maxsize
    import resource

    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":") for line in lines)
    free = [int(fields["MemAvailable"].split()[0]) * 1024, *_cgroups()]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free.append(limit - own("VmSize"))
    return max(0, min(free))


def _cgroups() -> list[int]:
    """What is left of the limits of this process's control groups, of either version."""
    left = []
    root = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif not controllers:
            base, names = root, ("memory.max", "memory.current")
        else:
            continue
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            if base not in (place, *place.parents):
                break
            try:
                limit, used = ((place / name).read_text().strip() for name in names)
            except OSError:
                continue
            if limit.isdecimal():
                left.append(int(limit) - int(used) + _cache(place))
    return left


def _cache(group: Path) -> int:
    """The files' pages that a control group counts, but would give up."""
    try:
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return 0
    return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))


def own(field: str) -> int:
    """Memory of this process, in bytes: `VmRSS`, `VmHWM` (the most there was), `VmSize`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
