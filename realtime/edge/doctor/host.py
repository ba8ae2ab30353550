"""What the kernel tells of itself in files: `/proc` and `/sys`, read as numbers and words."""

from __future__ import annotations

from pathlib import Path

KB = 1024
MB = 1024 * KB
GB = 1024 * MB


class Host:
    """The machine as its files show it; tests show it another one under `root`.

    What is not there, or not readable, is None: a container hides much, and that is no finding.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def text(self, path: str) -> str | None:
        """Return a file's text without the line's end."""
        try:
            return (self._root / path.lstrip("/")).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def numbers(self, path: str) -> list[int]:
        """Return the whole numbers of a file; none where it has something else."""
        try:
            return [int(word) for word in (self.text(path) or "").split()]
        except ValueError:
            return []

    def number(self, path: str) -> int | None:
        """Return the only, or first, number of a file."""
        found = self.numbers(path)
        return found[0] if found else None

    def sysctl(self, name: str) -> int | None:
        """Return a kernel parameter, such as net.core.somaxconn."""
        return self.number(f"/proc/sys/{name.replace('.', '/')}")

    def each(self, pattern: str) -> list[str]:
        """Return the texts of all files that match, sorted by their names."""
        found = (self.text(str(path.relative_to(self._root))) for path in sorted(self._root.glob(pattern)))
        return [text for text in found if text is not None]

    def memory_bytes(self) -> tuple[int, int] | None:
        """Return (total, available): of the machine, or of this control group where that has less."""
        fields = dict(
            line.split(":", 1) for line in (self.text("/proc/meminfo") or "").splitlines() if ":" in line
        )
        try:
            total, free = (int(fields[name].split()[0]) * KB for name in ("MemTotal", "MemAvailable"))
        except (KeyError, ValueError, IndexError):
            return None
        limit, used = self._group("memory.max"), self._group("memory.current")
        if limit is not None and limit < total:
            total, free = limit, max(0, min(free, limit - (used or 0)))
        return total, free

    def cpu_quota(self) -> float | None:
        """Return how many processors this control group may use up; None where that is not limited."""
        words = (self._group_text("cpu.max") or "max").split()
        if words[0] == "max" or len(words) < 2 or not all(word.isdigit() for word in words):
            return None
        return int(words[0]) / int(words[1])

    def _group(self, name: str) -> int | None:
        text = self._group_text(name)
        return int(text) if text is not None and text.isdigit() else None

    def _group_text(self, name: str) -> str | None:
        """A file of this process' control group (version 2); within a namespace it is the root's."""
        own = (self.text("/proc/self/cgroup") or "").rpartition("::")[2].strip("/\n")
        return self.text(f"/sys/fs/cgroup/{own}/{name}") or self.text(f"/sys/fs/cgroup/{name}")
