"""How a run is dealt out to several processes (pytest-xdist): a file to each, whatever its tests are called.

xdist refuses a run in which processes call a test by different names, as they do where a parameter is random.
The names of one process are taken for all: the files, and how many tests each has, have to be the same.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


class FileByFile(LoadFileScheduling):
    """Deals out whole files, those with the most tests first."""

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        known = next(iter(self.registered_collections.values()), None)
        if known is not None and _files(known) == _files(collection):
            collection = known
        super().add_node_collection(node, collection)


def _files(collection: Sequence[str]) -> list[str]:
    return [name.partition("::")[0] for name in collection]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileByFile | None:
    """Take ours where `--dist=loadfile` is asked for."""
    return FileByFile(config, log) if config.getvalue("dist") == "loadfile" else None
