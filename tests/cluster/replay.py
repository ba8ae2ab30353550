"""`python -m tests.cluster.replay`: a real chat log across two hosts, every delivery checked.

Four workers and six Redis nodes on two hosts, in network namespaces where we may make some (root), else on
loopback. Half of each room's connections are on each host.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.cluster.hosts import SECRET
from tests.cluster.network import possible
from tests.cluster.scene import scene
from tests.conftest import ROOT

SAMPLE = ROOT / "tests" / "data" / "irc" / "ubuntu_irc_sample.tsv"
SETTINGS: dict[str, object] = {"max_connections_per_user": 1000}


def main(argv: list[str] | None = None) -> int:
    """Play the log; return the exit code of `realtime replay`: 0 where nothing is missing or out of order."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.replay", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=SAMPLE, help="TSV (the sample of the tests)")
    parser.add_argument("--workers", type=int, default=4, help="on both hosts together (4)")
    parser.add_argument("--loopback", action="store_true", help="no namespaces")
    parsed, rest = parser.parse_known_args(argv)
    why = "asked for" if parsed.loopback else possible()
    print(f"two hosts on loopback: {why}" if why else "two hosts in network namespaces", flush=True)
    with scene(SETTINGS, workers=parsed.workers, namespaces=not why) as here:
        urls = [part for host in here.hosts for part in ("--url", host.server.ws_url)]
        environ = os.environ | ({} if why else {"REALTIME_JWT_SECRET": SECRET})
        command = [sys.executable, "-m", "realtime", "replay", str(parsed.file), *urls, *rest]
        return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
