"""The `realtime` command as a user runs it: what it prints, where, and its exit codes."""

import json
import os
import socket
import subprocess
import sys

import jwt
import pytest

from realtime.features.chat import FEATURE as CHAT
from realtime.settings import describe

KEY = "0123456789abcdef0123456789abcdef"


def realtime(*arguments, **variables):
    """Run the command with an environment that holds nothing of ours but `variables`, and without a store."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("REALTIME_") and k not in _OURS}
    return subprocess.run(
        [sys.executable, "-m", "realtime", *arguments],
        env={**kept, "REALTIME_SQLITE_PATH": "", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


_OURS = {knob.variable for knob in describe()}


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["--help"], ["serve", "check", "settings", "migrate", "token", "replay", "examples:"]),
        (["serve", "--help"], ["--host", "--echo", "--no-compression", "REALTIME_PORT", "default 8000"]),
        (["check", "--help"], ["--config", "REALTIME_CONFIG"]),
        (["settings", "--help"], ["markdown"]),
        (["migrate", "--help"], ["--status", "--sqlite-path"]),
        (["token", "make", "--help"], ["--sub", "--ttl", "--roles"]),
        (["replay", "--help"], ["--connections"]),
    ],
)
def test_help_explains_and_succeeds(arguments, mentions):
    done = realtime(*arguments)
    assert done.returncode == 0
    assert done.stderr == ""
    for word in mentions:
        assert word in done.stdout


@pytest.mark.parametrize("command", ["serve", "check", "settings"])
def test_no_secret_can_be_given_where_ps_shows_it(command):
    assert "--jwt-secret" not in realtime(command, "--help").stdout
    assert realtime(command, "--redis-url", "redis://x").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["serve", "--prot", "1"], "--prot"),
        (["serve", "--port", "70000"], "0 to 65535"),
        (["serve", "--port", "http"], "int"),
        (["token"], "VERB"),
        (["token", "make"], "--sub"),
        (["token", "make", "--sub", "a", "--ttl", "-1"], "seconds"),
        (["settings", "--format", "xml"], "xml"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2_and_one_line_that_says_what(arguments, says):
    done = realtime(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("realtime")
    assert says in line
    assert "--help" in line


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"REALTIME_PRT": "1"}, "did you mean REALTIME_PORT?"),
        ({"REALTIME_PORT": "x"}, "REALTIME_PORT 'x'"),
        ({"REALTIME_CONFIG": "/nonexistent/realtime.toml"}, "/nonexistent/realtime.toml: No such file"),
        ({"REALTIME_HOST": "0.0.0.0"}, "REALTIME_JWT_SECRET"),
        ({"WS_HEARTBEAT_INTERVAL": "0"}, "WS_HEARTBEAT_INTERVAL '0'"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "check", "settings"])
def test_a_wrong_environment_is_exit_code_1_and_one_line(command, variables, says):
    done = realtime(command, **variables)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("realtime: ")
    assert says in line


def test_settings_lists_every_knob_with_its_current_value_and_source(tmp_path):
    config = tmp_path / "realtime.toml"
    config.write_text("backlog = 99\n")
    done = realtime(
        "settings", "--format", "json", "--port", "9000", "--config", str(config), REALTIME_JWT_SECRET=KEY
    )
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert list(rows) == [knob.name for knob in describe()]
    assert (rows["port"]["current"], rows["port"]["source"]) == ("9000", "--port")
    assert (rows["backlog"]["current"], rows["backlog"]["source"]) == ("99", f"{config}: backlog")
    assert rows["jwt_secret"]["current"] == "(set)"
    assert KEY not in done.stdout


@pytest.mark.parametrize("format", ["table", "markdown"])
def test_settings_for_people_names_every_knob_and_variable(format):
    done = realtime("settings", "--format", format)
    assert done.returncode == 0
    for knob in describe():
        assert knob.name in done.stdout
        assert knob.variable in done.stdout
        assert knob.description.replace("|", "\\|") in done.stdout


def test_settings_survives_a_reader_that_leaves():
    done = subprocess.run(
        f"{sys.executable} -m realtime settings | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith("NAME")
    assert done.stderr == ""


def test_token_make_prints_a_token_that_the_key_verifies():
    done = realtime(
        *(
            "token",
            "make",
            "--sub",
            "alice",
            "--tenant",
            "acme",
            "--roles",
            "dj,mod",
            "--ttl",
            "60",
            "--jti",
            "t1",
        ),
        REALTIME_JWT_SECRET=KEY,
    )
    assert done.returncode == 0
    claims = jwt.decode(done.stdout.strip(), KEY, algorithms=["HS256"])
    assert (claims["sub"], claims["tenant"], claims["roles"], claims["jti"]) == (
        "alice",
        "acme",
        ["dj", "mod"],
        "t1",
    )
    assert claims["exp"] - claims["iat"] == 60


def test_token_make_signs_with_the_short_key_of_a_developer_without_a_murmur():
    done = realtime("token", "make", "--sub", "alice", REALTIME_JWT_SECRET="short")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        (["--sub", "alice"], {}, "REALTIME_JWT_SECRET"),
        (["--sub", ""], {"REALTIME_JWT_SECRET": KEY}, "user id is empty"),
        (["--sub", "a", "--tenant", "a/b"], {"REALTIME_JWT_SECRET": KEY}, "tenant"),
    ],
)
def test_token_make_says_what_it_lacks(arguments, variables, says):
    done = realtime("token", "make", *arguments, **variables)
    assert done.returncode == 1
    assert done.stdout == ""
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_check_says_that_the_server_would_start():
    done = realtime("check", "--port", "0")
    assert done.returncode == 0, done.stdout
    assert "configuration: 2 of" in done.stdout
    assert "OPEN MODE" in done.stdout
    assert "compiled build: present" in done.stdout
    assert "features: chat, events" in done.stdout
    assert "port: can listen on http://127.0.0.1:" in done.stdout


def test_check_reads_the_policy_and_what_it_names(tmp_path):
    path = tmp_path / "policy.toml"
    how = ("check", "--port", "0", "--sqlite-path", "", "--policy-path", str(path))
    path.write_text('[network]\ndeny = ["192.0.2.0/24"]\n')
    assert f"ok    policy: {path}" in realtime(*how).stdout
    path.write_text('[network]\ndeny = ["192.0.2.1/24"]\n')
    done = realtime(*how)
    assert done.returncode == 1
    assert "fail  policy: network.deny[0]: '192.0.2.1/24': host bits are set" in done.stdout
    path.write_text('[network]\ncountries_deny = ["KP"]\ngeo_database = "/nowhere/x.mmdb"\n')
    assert "fail  policy: network.geo_database: /nowhere/x.mmdb: No such file" in realtime(*how).stdout


def test_check_says_what_the_store_is_and_makes_none(tmp_path):
    path = tmp_path / "s.sqlite"
    assert f"ok    store: {path} will be made" in check_store(path)
    assert list(tmp_path.iterdir()) == []
    realtime("migrate", "--sqlite-path", str(path))
    assert f"ok    store: {path} opens" in check_store(path)
    assert "warn  store: none: durable rooms are kept in memory only" in check_store("")
    path.write_text("my notes" * 1000)
    assert f"fail  store: {path} is not a database of ours" in check_store(path)
    assert "fail  store:" in check_store(tmp_path / "nowhere" / "s.sqlite")


def check_store(path) -> str:
    return realtime("check", "--port", "0", "--sqlite-path", str(path)).stdout


def test_migrate_prints_what_it_applies_and_status_what_there_is(tmp_path):
    path = tmp_path / "s.sqlite"
    status = realtime("migrate", "--status", "--sqlite-path", str(path))
    lines = [line.split() for line in status.stdout.splitlines()]
    first = [["core", "001_publications.sql", "due"], ["sealing", "001_data_keys.sql", "due"]]
    chat = sorted(each.name for each in (CHAT.migrations / "sqlite").glob("*.sql"))
    assert lines == [*first, *(["chat", name, "due"] for name in chat)]
    assert list(tmp_path.iterdir()) == []
    done = realtime("migrate", "--sqlite-path", str(path))
    assert done.stdout == "".join(f"{feature}: applied {name}\n" for feature, name, _ in sorted(lines))
    assert (done.returncode, done.stderr) == (0, "")
    again = realtime("migrate", "--sqlite-path", str(path))
    assert again.stdout == "nothing to apply: the store is up to date\n"
    status = realtime("migrate", "--status", "--sqlite-path", str(path))
    assert status.stdout.split()[:3] == ["core", "001_publications.sql", "applied"]


def test_migrate_without_a_store_says_what_to_set():
    for arguments in (["migrate"], ["migrate", "--status"]):
        done = realtime(*arguments)
        assert done.returncode == 1
        assert done.stderr == (
            "realtime: there is no store to migrate: set REALTIME_SQLITE_PATH or POSTGRES_URL\n"
        )


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_taken_port_is_named_with_what_to_do(command):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # even one that would share
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = realtime(command, "--port", str(port))
    assert done.returncode == 1
    assert f"port {port}: Address already in use" in done.stdout + done.stderr
    assert "--port" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("host", "says"), [("192.0.2.1", "no such address"), ("nowhere.invalid", "does not resolve")]
)
def test_an_address_that_is_not_ours_is_named(host, says):
    done = realtime("check", "--host", host, REALTIME_JWT_SECRET=KEY)
    assert done.returncode == 1
    assert says in done.stdout
