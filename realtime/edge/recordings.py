"""The folder of recordings: files for their owner alone, bounded in number, bytes and age; the oldest go
first.

Several workers may share one: what one of them has deleted is no mistake to another. Everything here waits
for the disk, so a thread of its own calls it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, NamedTuple

from realtime.errors import StartupError
from realtime.settings import Settings

SUFFIX: Final = ".recording"
UNFINISHED: Final = f"{SUFFIX}.part"
DAY_S: Final = 86_400.0


class _Kept(NamedTuple):
    modified: float
    path: Path
    size: int


class Folder:
    """The folder that the settings name, which has to be there or to be possible."""

    def __init__(self, settings: Settings) -> None:
        self.path = Path(settings.recorder_dir)
        self._files = settings.recorder_files
        self._bytes = settings.recorder_dir_bytes
        self._age_s = settings.recorder_days * DAY_S

    def open(self) -> None:
        """Make it where it is not there.

        Raises:
            StartupError: it is none, or nobody may write there.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartupError(f"recorder_dir {self.path}: {error.strerror}") from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise StartupError(f"recorder_dir {self.path}: it cannot be written to")

    def keep(self, name: str, data: bytes) -> Path:
        """Write a recording, whole or not at all, and return where it is.

        Raises:
            OSError: it could not be written.
        """
        path = self.path / f"{name}{SUFFIX}"
        unfinished = self.path / f"{name}{UNFINISHED}"
        try:
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
            unfinished.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        return path

    def prune(self, now: float) -> int:
        """Delete what is too much or too old at `now` (Unix time); return how many files that was.

        Raises:
            OSError: the folder cannot be read, or one of them not deleted.
        """
        found = sorted(self._found())
        left, size = len(found), sum(each.size for each in found)
        for each in found:
            if left <= self._files and size <= self._bytes and each.modified >= now - self._age_s:
                break
            each.path.unlink(missing_ok=True)
            left -= 1
            size -= each.size
        return len(found) - left

    def _found(self) -> list[_Kept]:
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                # What was being written when a process died goes with the others when it is the oldest.
                if entry.name.endswith((SUFFIX, UNFINISHED)):
                    with contextlib.suppress(FileNotFoundError):
                        said = entry.stat(follow_symlinks=False)
                        found.append(_Kept(said.st_mtime, Path(entry.path), said.st_size))
        return found
