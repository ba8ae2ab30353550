"""Install it as docs/install.md says, on a clean Debian 12 that a real systemd has booted, and start it.

    scripts/install_check.py [--wheel dist/realtime-….whl] [--root DIRECTORY] [--from SECTION] [--keep]
                             [--record docs/install-check.md]

Every command of the page's console blocks is run, in order, and what it prints is printed; the first that
fails, or prints something else than the page shows, ends it. The system is made anew by debootstrap in
`--root` and booted in namespaces of its own (mounts, processes, network, cgroups): of this machine it has
processor and memory. `--from` goes on with the one that is there. Needs root, debootstrap, util-linux, and a
network for packages.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

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
# In the root, so that nothing else is ever taken for one of ours and removed.
MARK = "srv/made-by-install-check"
# What the record says of the system, by commands inside it.
VERSIONS = {
    "Debian": "cat /etc/debian_version",
    "systemd": "systemctl --version | awk 'NR == 1 { print $2, $3 }'",
    "Python": "python3 -V | cut -d' ' -f2",
    "Redis": "redis-server -v | grep -o 'v=[0-9.]*' | cut -c3-",
    "PostgreSQL": "psql -V | cut -d' ' -f3",
    "realtime": "/opt/realtime/bin/realtime --version | cut -d' ' -f2",
    "kernel": "uname -r | cut -d. -f1,2",
}
NOT_ENFORCED = "(Control groups of version 1, on which systemd enforces no `MemoryHigh=`.)"
ELLIPSIS = "…"  # in what the page shows: anything; alone in a line: any lines

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


class Step(NamedTuple):
    """A command of the page, its section, and what the page shows that it prints; nothing: not compared."""

    section: str
    command: str
    shown: tuple[str, ...]


def main() -> int:
    """Run the page; return the exit code."""
    parsed = _arguments()
    if os.geteuid() != 0:
        sys.exit("install-check: it makes a system and boots it: run it as root")
    root: Path = parsed.root
    before, after = steps(PAGE.read_text(encoding="utf-8"))
    took: dict[str, float] = {}
    began = time.monotonic()
    if not parsed.start:
        remove(root)
    prepare(root, parsed.wheel)
    took["a bare Debian, by debootstrap"] = time.monotonic() - began
    if not parsed.start:
        run(before, ("chroot", str(root), *CLEAN), took)
    host = Host(root)
    try:
        began = time.monotonic()
        host.boot()
        took["boot"] = time.monotonic() - began
        run([each for each in after if int(each.section.split(".")[0]) >= parsed.start], host.inside(), took)
        versions = {name: host.says(command) for name, command in VERSIONS.items()}
    finally:
        if not parsed.keep:
            host.end()
    told = record(took, versions)
    if parsed.record:
        parsed.record.write_text(told, encoding="utf-8")
    print(f"{told}\ninstall-check: every command of docs/install.md did what it should")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    wheels = sorted((HERE / "dist").glob("*.whl"))
    parser.add_argument("--wheel", type=Path, default=wheels[-1] if wheels else None)
    parser.add_argument("--root", type=Path, default=Path("/var/tmp/realtime-install-check"))
    parser.add_argument("--from", dest="start", type=int, default=0, help="go on at this section: 4")
    parser.add_argument("--keep", action="store_true", help="leave it running, and say how to enter it")
    parser.add_argument("--record", type=Path, help="write here how it went, when all went well")
    return parser.parse_args()


def steps(text: str) -> tuple[list[Step], list[Step]]:
    """The page's commands, in order: those before the system runs, and those after."""
    before: list[Step] = []
    found, section, inside = before, "", False
    after: list[Step] = []
    for line in text.splitlines():
        if line.startswith("```"):
            inside = line == "```console"
        elif line.startswith(BOOTED):
            found = after
        elif heading := re.match(r"## (\d+\. .*)", line):
            section = heading[1]
        elif inside and line.startswith("# "):
            found.append(Step(section, line[2:], ()))
        elif inside and found:
            found[-1] = found[-1]._replace(shown=(*found[-1].shown, line))
    return before, after


def is_as_shown(shown: Sequence[str], printed: str) -> bool:
    """Whether what was printed is what the page shows, but for numbers and times."""
    parts = ["(?:.*\n)*" if line == ELLIPSIS else f"{_pattern(line)}\n" for line in shown]
    lines = "".join(f"{_plain(line)}\n" for line in printed.splitlines())
    return re.fullmatch("".join(parts), lines) is not None


def _pattern(line: str) -> str:
    return ".*".join(re.escape(_plain(part)) for part in line.split(ELLIPSIS))


def _plain(line: str) -> str:
    line = re.sub(r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b", "Day", line.rstrip())
    line = re.sub(r"(\d+\w+ )+ago", "ago", line)
    return re.sub(r"\d+(\.\d+)?", "0", line)


def record(took: dict[str, float], versions: dict[str, str]) -> str:
    """How it went, as a page: when, on what, and how long each part took."""
    rows = "".join(f"| {part} | as shown | {seconds:.0f} s |\n" for part, seconds in took.items())
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        "# The last run of `make install-check`\n\n"
        f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}: {said}; {os.cpu_count()} cores.\n\n"
        f"| Part of [install](install.md) | Outcome | Took |\n| --- | --- | --- |\n{rows}"
        f"| all of it | | {sum(took.values()):.0f} s |\n"
        + (f"\n{NOT_ENFORCED}\n" if CGROUP.parent.is_dir() else "")
    )


def remove(root: Path) -> None:
    """Remove the system of an earlier run; refuse to touch anything else."""
    if not root.exists() or not any(root.iterdir()):
        return
    if not (root / MARK).exists():
        sys.exit(f"install-check: {root} is not empty, and no system of ours: choose another --root")
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").split()
    if any(each.startswith(f"{root.resolve()}/") for each in mounts):
        sys.exit(f"install-check: something is mounted below {root}")
    shutil.rmtree(root)


def prepare(root: Path, wheel: Path | None) -> None:
    """Make the system where there is none, and put the wheel and the first client into it."""
    if not (root / "lib/systemd/systemd").exists():
        packages = "systemd,systemd-sysv,dbus,ca-certificates,procps,iproute2"
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", root, MIRROR],
            check=True,
        )
        (root / MARK).touch()
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
    for name in ("hello.py", "stay.py"):
        shutil.copy(HERE / "tests/systemd" / name, root / "srv")
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

    def says(self, command: str) -> str:
        """What a command in it prints."""
        done = subprocess.run(
            [*self.inside(), "bash", "-c", command], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

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


def run(commands: Sequence[Step], inside: Sequence[str], took: dict[str, float]) -> None:
    """Run each and print what it prints; exit at the first that fails, or prints something else than shown.

    `took` gets the seconds of each section.
    """
    for step in commands:
        print(f"# {step.command}", flush=True)
        began = time.monotonic()
        done = subprocess.run(
            [*inside, "bash", "-c", step.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            check=False,
            cwd="/",
            start_new_session=True,  # a signal that a command sends to its group is not for us
        )
        seconds = time.monotonic() - began
        took[step.section] = took.get(step.section, 0.0) + seconds
        print(done.stdout, end="", flush=True)
        if done.returncode:
            sys.exit(f"install-check: exit code {done.returncode} after {seconds:.1f} s")
        if step.shown and not is_as_shown(step.shown, done.stdout):
            shown = "\n".join(step.shown)
            sys.exit(f"install-check: section {step.section} shows something else:\n{shown}")


def _children(pid: int) -> Iterator[int]:
    try:
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except OSError:
        return


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


if __name__ == "__main__":
    sys.exit(main())
