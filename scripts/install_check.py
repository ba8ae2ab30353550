"""Install it as docs/install.md says, on a clean Debian 12 that a real systemd has booted, and start it.

    scripts/install_check.py [--wheel dist/realtime-….whl] [--root DIRECTORY] [--from SECTION] [--keep]

Every command of the page's console blocks is run, in order, and what it prints is printed; the first that
fails ends it. The system is made by debootstrap in `--root` and booted in namespaces of its own (mounts,
processes, network, cgroups): of this machine it has processor and memory. Needs root, debootstrap,
util-linux, and a network for packages.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent.parent
PAGE = HERE / "docs" / "install.md"
BOOTED = "<!-- booted"
MIRROR = "http://deb.debian.org/debian"
CGROUP = Path("/sys/fs/cgroup/systemd/realtime-install-check")
PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
UNITS_OF_A_MACHINE = ("getty.target", "console-getty.service", "systemd-udevd.service")
CLEAN = ("env", "-i", PATH, "HOME=/root", "LC_ALL=C.UTF-8", "SYSTEMD_PAGER=", "PIP_CERT=/srv/ca.crt")
COMMAND_S = 600
BOOT_S = 90

# Not a chroot but a new root: who is chrooted may make no user namespace, which PrivateUsers= does. /proc/sys
# is read-only but for the network's, which is the namespace's own: sysctl must not reach this machine.
BOOT = r"""
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"; cd "$ROOT"
mount -t proc proc proc; mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
mount --bind proc/sys/net proc/sys/net; mount -o remount,bind,rw proc/sys/net
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run; mount -t tmpfs tmpfs tmp; mount -t tmpfs -o mode=755 tmpfs dev
for each in null zero full random urandom tty; do touch dev/$each; mount --bind /dev/$each dev/$each; done
mkdir dev/shm dev/pts; mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
if [ -d /sys/fs/cgroup/systemd ]; then
  mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup; mkdir sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
else
  mount -t cgroup2 cgroup2 sys/fs/cgroup
fi
ip link set lo up
mkdir run/host; pivot_root . run/host; umount -l /run/host; cd /
export container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec /lib/systemd/systemd --system --unit=multi-user.target
"""


def main() -> int:
    """Run the page; return the exit code."""
    parsed = _arguments()
    if os.geteuid() != 0:
        sys.exit("install-check: it makes a system and boots it: run it as root")
    root: Path = parsed.root
    before, after = _commands(PAGE.read_text(encoding="utf-8"))
    prepare(root, parsed.wheel)
    if not parsed.start:
        run(before, ("chroot", str(root), *CLEAN))
    host = Host(root)
    try:
        host.boot()
        run([each for each in after if each[0] >= parsed.start], host.inside())
    finally:
        if not parsed.keep:
            host.end()
    print("install-check: every command of docs/install.md did what it should")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    wheels = sorted((HERE / "dist").glob("*.whl"))
    parser.add_argument("--wheel", type=Path, default=wheels[-1] if wheels else None)
    parser.add_argument("--root", type=Path, default=Path("/var/tmp/realtime-install-check"))
    parser.add_argument("--from", dest="start", default="", help="begin at this section: 4")
    parser.add_argument("--keep", action="store_true", help="leave it running, and say how to enter it")
    return parser.parse_args()


def _commands(text: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The page's commands as (section, command): those before the system runs, and those after."""
    before: list[tuple[str, str]] = []
    found, section, inside = before, "", False
    after: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("```"):
            inside = line == "```console"
        elif line.startswith(BOOTED):
            found = after
        elif heading := re.match(r"## (\d+)\.", line):
            section = heading[1]
        elif inside and line.startswith("# "):
            found.append((section, line[2:]))
    return before, after


def prepare(root: Path, wheel: Path | None) -> None:
    """Make the system where there is none, and put the wheel and the first client into it."""
    if not (root / "lib/systemd/systemd").exists():
        packages = "systemd,systemd-sysv,dbus,ca-certificates,procps,iproute2"
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", root, MIRROR],
            check=True,
        )
    # In a system that does not run yet nothing may be started by its packages.
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    for unit in UNITS_OF_A_MACHINE:
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "srv/ca.crt")
    (root / "etc/hostname").write_text("host1\n")
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    shutil.copy(HERE / "tests/systemd/hello.py", root / "srv")
    if wheel is not None:
        shutil.copy(wheel, root / "srv")


class Host:
    """The booted system: `boot` and `end`, and what a command inside begins with."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._init = 0

    def boot(self) -> None:
        """Boot it; return when its services are up."""
        (self._root / "usr/sbin/policy-rc.d").unlink(missing_ok=True)
        CGROUP.mkdir(exist_ok=True) if CGROUP.parent.is_dir() else None
        join = f"[ ! -d {CGROUP} ] || echo $$ > {CGROUP}/cgroup.procs; "
        spaces = "--mount --pid --uts --ipc --cgroup --net --fork --kill-child=SIGKILL"
        errors = (self._root / "var/log/boot-errors").open("w")
        self._outer = subprocess.Popen(
            ["bash", "-c", f"{join} exec unshare {spaces} bash -euc {_quoted(BOOT)}"],
            env={**os.environ, "ROOT": str(self._root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        deadline = time.monotonic() + BOOT_S
        while time.monotonic() < deadline and self._outer.poll() is None:
            self._init = self._init or next(_children(self._outer.pid), 0)
            if self._init and self._is_up():
                return
            time.sleep(0.2)
        self.end()
        why = (self._root / "var/log/boot-errors").read_text()
        sys.exit(f"install-check: the system did not boot: {why}")

    def inside(self) -> tuple[str, ...]:
        """What a command in it begins with."""
        return ("nsenter", "-t", str(self._init), "-m", "-p", "-u", "-i", "-n", "-C", "-r", *CLEAN)

    def end(self) -> None:
        """End it at once, and take its cgroups away."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init or self._outer.pid, signal.SIGKILL)
        self._outer.wait(30)
        for path in sorted(CGROUP.rglob("*/"), reverse=True) if CGROUP.is_dir() else ():
            path.rmdir()
        if CGROUP.is_dir():
            CGROUP.rmdir()

    def _is_up(self) -> bool:
        done = subprocess.run(
            [*self.inside(), "systemctl", "is-system-running"], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() in ("running", "degraded")


def run(commands: list[tuple[str, str]], inside: tuple[str, ...]) -> None:
    """Run each and print what it prints; exit at the first that fails."""
    for _, command in commands:
        print(f"# {command}", flush=True)
        began = time.monotonic()
        done = subprocess.run(
            [*inside, "bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            check=False,
            cwd="/",
            start_new_session=True,  # a signal that a command sends to its group is not for us
        )
        print(done.stdout, end="", flush=True)
        if done.returncode:
            sys.exit(f"install-check: exit code {done.returncode} after {time.monotonic() - began:.1f} s")


def _children(pid: int) -> Iterator[int]:
    try:
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except OSError:
        return


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


if __name__ == "__main__":
    sys.exit(main())
