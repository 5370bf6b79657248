"""What was measured on: figures without it mean nothing."""

import importlib.metadata
import os
import platform
from pathlib import Path

import psycopg

PACKAGES = ("litestar", "uvicorn", "uvloop", "psycopg", "eventsourcing")
IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def describe(url: str, directory: Path) -> dict[str, str]:
    """Describe processor, memory, system, file system and versions."""
    found = {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{_memory_bytes() / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file system": file_system(directory),
        "Python": platform.python_version(),
        "PostgreSQL": _postgres(url),
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def load_average() -> str:
    """Return how busy the machine is: the mean number of runnable processes of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def file_system(directory: Path) -> str:
    """Name the file system of a directory, and say so where a sync to it means nothing."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    whole = directory.resolve()
    over = [mount for mount in mounts if whole.is_relative_to(mount[1].replace("\\040", " "))]
    kind = max(over, key=lambda mount: len(mount[1]))[2] if over else "unknown"
    return f"{kind}: IN MEMORY, so that nothing is durable" if kind in IN_MEMORY else kind


def _postgres(url: str) -> str:
    with psycopg.connect(url) as connection:
        version = connection.info.server_version
        rows = connection.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE name IN"
            " ('fsync', 'full_page_writes', 'shared_buffers', 'wal_compression') ORDER BY name"
        ).fetchall()
    settings = ", ".join(f"{name} {value}" for name, value in rows)
    return f"{version // 10_000}.{version % 10_000} ({settings}, synchronous_commit on)"
