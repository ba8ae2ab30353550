"""The units, as systemd's own tools judge them, and what `realtime install-units` makes of them."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from realtime.edge import unit_files, unit_settings
from realtime.errors import SettingsError
from realtime.settings import Settings
from tests.tree import ROOT

EXPOSURE_MAX = 2.0
SERVICES = ["realtime@0.service", "realtime-api.service", "realtime-failover@main.service"]
ALL = [*SERVICES, "realtime@0.socket", "realtime-tls@0.socket", "realtime.target"]
KEY = "k" * 32
REDIS = "REDIS_URL=redis://127.0.0.1:6379"


def realtime(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "realtime", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def configure(root, *lines, host="0.0.0.0"):
    path = root / unit_files.ENVIRONMENT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([f"REALTIME_HOST={host}", f"REALTIME_JWT_SECRET={KEY}", *lines, ""]))


def install(root, *more, cores=(0, 1), **options):
    """Write the plan below `root`, which has an executable of that name; return what was said."""
    if more:
        configure(root, *more)
    plan = unit_files.make_plan(unit_files.Options(cores=cores, root=root, **options))
    return list(unit_files.write(plan)), plan


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A system's root with all units of a host that has everything: two workers, TLS, an API."""
    made = tmp_path_factory.mktemp("root")
    units = Path("/usr/lib/systemd/system")
    assert shutil.which("systemd-analyze"), "apt-get install systemd"
    shutil.copytree(units, made / "usr/lib/systemd/system", symlinks=True)
    python = made / "opt/realtime/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    install(made, REDIS, "REALTIME_TLS_PORT=8443", "REALTIME_TLS_CERTIFICATE=/etc/realtime/tls.pem")
    return made


def analyze(*arguments):
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("unit", ALL)
def test_systemd_has_nothing_to_say_against_a_unit(root, unit):
    assert analyze("verify", f"--root={root}", unit) == (0, "")


def test_what_is_wrong_would_be_said(root):
    path = root / "etc/systemd/system/wrong.service"
    path.write_text("[Service]\nExecStart=/opt/realtime/bin/python\nMemoryHihg=1\n")
    _, said = analyze("verify", f"--root={root}", "wrong.service")
    path.unlink()
    assert "Unknown key name 'MemoryHihg'" in said or "Unknown key 'MemoryHihg'" in said


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_may_do_little(root, unit):
    code, said = analyze(
        "security", "--offline=true", f"--root={root}", f"--threshold={EXPOSURE_MAX * 10:g}", unit
    )
    level = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1])
    assert (code, level <= EXPOSURE_MAX) == (0, True), said


def values(path, key):
    lines = path.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def test_each_worker_has_a_core_a_socket_and_its_number(root):
    system = root / unit_files.SYSTEM
    unit = system / "realtime@.service"
    assert values(unit, "CPUAffinity") == ["%i"]
    assert values(unit, "Requires") == ["realtime@%i.socket"]
    assert values(system / "realtime@.socket", "ReusePort") == ["yes"]
    host = (system / "realtime@.service.d/10-host.conf").read_text()
    assert "REALTIME_SHARE_PORT=true" in host
    assert "MemoryHigh=40%" in host
    assert "Sockets=realtime@%i.socket realtime-tls@%i.socket" in host
    assert values(system / "realtime@.socket.d/10-host.conf", "ListenStream") == ["", "0.0.0.0:8000"]
    assert values(system / "realtime-tls@.socket.d/10-host.conf", "ListenStream") == ["", "0.0.0.0:8443"]


def test_a_second_run_changes_nothing_and_another_setting_what_it_says(tmp_path):
    install(tmp_path, REDIS)
    said, _ = install(tmp_path)
    assert {line.split()[0] for line in said} == {"unchanged"}
    said, _ = install(tmp_path, REDIS, "REALTIME_PORT=9000")
    changed = {line.split()[1] for line in said if not line.startswith("unchanged")}
    assert changed == {"/etc/systemd/system/realtime@.socket.d/10-host.conf"}


def test_settings_are_begun_once_with_a_key_of_their_own(tmp_path):
    install(tmp_path)
    path = tmp_path / unit_files.ENVIRONMENT
    first = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = unit_settings.read(first, "x").jwt_secret
    assert len(secret) == 64
    install(tmp_path)
    assert path.read_text() == first
    dry = realtime("install-units", "--dry-run", "--prefix=/opt/x", f"--root={tmp_path / 'new'}")
    assert dry.returncode == 0
    assert not re.search(r"SECRET=[0-9a-f]{64}", dry.stdout)
    assert not (tmp_path / "new").exists()
    assert "ExecStart=/opt/x/bin/python -P -m realtime serve" in dry.stdout


def test_what_was_installed_goes_and_what_is_the_operators_stays(tmp_path):
    install(tmp_path, REDIS, "REALTIME_TLS_PORT=8443", "REALTIME_TLS_CERTIFICATE=/etc/realtime/tls.pem")
    system = tmp_path / unit_files.SYSTEM
    own = system / "realtime@.service.d/50-own.conf"
    own.write_text("[Service]\nMemoryHigh=1G\n")
    wants = system / "realtime.target.wants"
    wants.mkdir()
    (wants / "realtime@0.service").symlink_to("/etc/systemd/system/realtime@.service")
    assert realtime("uninstall-units", f"--root={tmp_path}").returncode == 0
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert left == {unit_files.ENVIRONMENT, str(own.relative_to(tmp_path))}
    assert not wants.exists()
    assert realtime("uninstall-units", f"--root={tmp_path}").stdout == "nothing to remove\n"


def test_fewer_workers_than_before_are_named(tmp_path):
    install(tmp_path, REDIS)
    wants = tmp_path / unit_files.SYSTEM / "realtime.target.wants"
    wants.mkdir()
    for number in range(2):
        (wants / f"realtime@{number}.service").symlink_to("../realtime@.service")
    assert install(tmp_path, wanted="1")[1].gone == [1]


def test_a_port_that_is_no_longer_of_tls_loses_its_socket(tmp_path):
    install(tmp_path, REDIS, "REALTIME_TLS_PORT=8443", "REALTIME_TLS_CERTIFICATE=/etc/realtime/tls.pem")
    said, _ = install(tmp_path, REDIS)
    assert "removed   /etc/systemd/system/realtime-tls@.socket.d/10-host.conf" in said


@pytest.mark.parametrize(
    ("host", "stream"), [("127.0.0.1", "127.0.0.1:1"), ("::", "[::]:1"), ("localhost", "127.0.0.1:1")]
)
def test_a_socket_listens_where_the_settings_say(host, stream):
    assert unit_settings.address(Settings(host=host), 1) == stream


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        ([], {"wanted": "2"}, "2 workers need a Redis between them"),
        ([REDIS], {"wanted": "3"}, "--cores 3: this machine lets us use 2"),
        ([REDIS], {"wanted": "0"}, "it is a number from 1 on, or auto"),
        (["REALTIME_WORKERS=2", REDIS], {}, "leave REALTIME_WORKERS out"),
        (["REALTIME_INSTANCE=1", REDIS], {}, "leave REALTIME_INSTANCE out"),
        (["REALTIME_PORT=0"], {}, "port is 0, and a socket unit has to name one"),
        (
            ["REALTIME_ADMIN_PORT=7999", REDIS],
            {},
            "port 8000 is one of the workers' admin_ports, 7999 to 8000",
        ),
        (["REALTIME_SQLITE_PATH=/srv/x.sqlite"], {}, "read-only to the units (ProtectSystem=strict)"),
        (["REALTIME_POLICY_PATH=/run/user/1/policy.toml"], {}, "which the units do not see (ProtectHome="),
        (["REALTIME_HOST=example.org"], {}, "is a name, and a socket unit listens on an address"),
        (["nonsense"], {}, "/etc/realtime/realtime.env, line 3: it is no NAME=VALUE"),
        (["REALTIME_PROT=1"], {}, "unknown environment variable REALTIME_PROT"),
        (["REALTIME_JWT_SECRET="], {}, "no key is configured"),
        ([], {"prefix": "/var/tmp/venv"}, "see no homes and no temporary folders"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(tmp_path, lines, options, said):
    with pytest.raises(SettingsError) as caught:
        install(tmp_path, *lines, *([] if lines else ["# none"]), **options)
    assert said in caught.value.message
    assert list(tmp_path.rglob("*.service")) == []


def test_a_folder_that_a_drop_in_opens_may_be_written(tmp_path):
    own = tmp_path / unit_files.SYSTEM / "realtime@.service.d/50-own.conf"
    own.parent.mkdir(parents=True)
    own.write_text("[Service]\nReadWritePaths=/srv/realtime\n")
    install(tmp_path, "REALTIME_SQLITE_PATH=/srv/realtime/x.sqlite")


def test_without_redis_auto_is_one_worker(tmp_path):
    assert install(tmp_path, "# none")[1].numbers == [0]
    assert install(tmp_path, REDIS, cores=(2, 5))[1].numbers == [2, 5]


def test_files_of_environment_are_read_as_systemd_does():
    text = "# a comment\n; another\n\nA=1\nB='x y'\nC=\"z\" \n D=a=b\n"
    assert unit_settings.parse_environment(text, "x") == {"A": "1", "B": "x y", "C": "z", "D": "a=b"}
