"""The host's processor, and its memory: what is free, and what this process has."""

import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from zsm.limits import control_groups


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


def free_memory() -> int:
    """Free memory, in bytes, as far as control groups and `ulimit -v` allow.

    On systems without /proc it isn't known, and taken to be unlimited.
    """
    if not Path("/proc/meminfo").exists():
        return sys.maxsize
    import resource

    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":") for line in lines)
    free = [int(fields["MemAvailable"].split()[0]) * 1024, *_left_of_groups()]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free.append(limit - own("VmSize"))
    return max(0, min(free))


def _left_of_groups() -> Iterator[int]:
    """What is left of the limits of this process's control groups, of either version."""
    for group in control_groups("memory"):
        for names in ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"):
            with suppress(OSError):
                limit, used = ((group / name).read_text().strip() for name in names)
                if limit.isdecimal():
                    yield int(limit) - int(used) + _cache(group)


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
