"""`realtime doctor`: what it finds on real parts that are not as they should be, and what it says to do."""

import asyncio
import json
import os
import socket
import sqlite3
import subprocess
import sys

import pytest

from realtime.backends.store_report import Disk, Postgres
from realtime.edge.doctor import examine, worst
from realtime.edge.doctor.contradictions import contradictions
from realtime.edge.doctor.diagnosis import State
from realtime.edge.doctor.host import GB, Host
from realtime.edge.doctor.limits import limits
from realtime.edge.doctor.machine import ClockState, clock, clock_state, kernel, memory, processors
from realtime.edge.doctor.ports import ports
from realtime.edge.doctor.redis import redis
from realtime.edge.doctor.store import judge_postgres, judge_sqlite, store
from realtime.features import discover
from realtime.loading import load
from realtime.settings import KNOBS, Settings
from tests.certificates import Authority
from tests.tree import ROOT


def of(diagnoses, area):
    """What was said of an area; each that is not well says what to do."""
    found = list(diagnoses)
    assert all(bool(each.todo) == bool(each.state) for each in found), found
    return [each for each in found if each.area == area]


def one(diagnoses, area):
    (found,) = of(diagnoses, area)
    return found


def doctor(*arguments, prefix="", **variables):
    """Run the command; return its exit code and what its JSON says."""
    ours = {knob.variable for knob in KNOBS.values()}
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    command = " ".join([prefix, "exec", sys.executable, "-m", "realtime", "doctor", "--json", *arguments])
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        env={**environ, "REALTIME_AUDIT_PATH": "", "REALTIME_SQLITE_PATH": "", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def stated(report, area):
    return [(each["state"], each["text"]) for each in report["findings"] if each["area"] == area]


def machine_of(root, files):
    """A machine whose kernel says what `files` say."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return Host(root)


# ---------------------------------------------------------------- the command


def test_a_low_limit_of_open_files_is_found_and_one_that_is_too_low_is_a_failure():
    code, report = doctor("--port", "0", prefix="ulimit -n 1000 &&")
    assert ("warn", "the hard limit is 1000: at most 872 connections a worker") in stated(
        report, "open files"
    )
    assert code == 1
    code, report = doctor("--port", "0", "--max-connections", "5000", prefix="ulimit -n 1000 &&")
    assert stated(report, "open files") == [("fail", "max_connections is 5000, and 1000 open files hold 872")]
    assert code == 2
    assert report["state"] == "fail"
    assert all(each["todo"] for each in report["findings"] if each["state"] != "ok")


def test_a_wrong_setting_is_a_finding_too():
    code, report = doctor("--port", "0", REALTIME_RECONNECT_MIN_MS="900", REALTIME_RECONNECT_MAX_MS="800")
    assert code == 2
    assert report["findings"] == [
        {
            "area": "settings",
            "state": "fail",
            "text": "reconnect_min_ms 900 is above reconnect_max_ms 800",
            "todo": "correct it: nothing else was looked at",
        }
    ]


def test_as_text_it_says_what_to_do_below_each_finding():
    done = subprocess.run(
        [sys.executable, "-m", "realtime", "doctor", "--quiet", "--port", "0", "--sqlite-path", ""],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = done.stdout.splitlines()
    at = lines.index("warn  store: none: durable rooms are lost with the process")
    assert lines[at + 1] == "        -> set REALTIME_SQLITE_PATH or POSTGRES_URL"
    assert not any(line.startswith("ok") for line in lines)


def test_all_of_it_looks_at_this_machine_and_fails_at_nothing(tmp_path):
    loaded = load(
        config=None,
        environ={},
        options={"port": 0, "sqlite_path": str(tmp_path / "s.sqlite"), "audit_path": ""},
    )
    found = list(examine(loaded))
    assert worst(found) < State.FAIL, found
    areas = {each.area for each in found}
    assert {"kernel", "processors", "memory", "clock", "open files", "store", "disk", "redis"} <= areas


# ---------------------------------------------------------------- Redis


def test_a_whole_cluster_is_well_but_for_what_it_is(redis_cluster):
    found = list(redis(Settings(redis_url=redis_cluster.url), 2))
    assert worst(found) == State.OK, found
    assert "cluster of 3 masters, every slot is somewhere" in found[0].text
    assert one(found, "redis latency").text.startswith("answers within ")


def test_missing_slots_a_missing_replica_and_an_evicting_master_are_found(own_redis_cluster):
    cluster = own_redis_cluster
    bare = cluster.master_of(5)
    for replica in cluster.replicas_of(bare):
        replica.kill()
    bare.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    for node in cluster.masters():
        node.ask("CLUSTER", "DELSLOTS", 7, 8, 9000)
    texts = {}
    while not any("no replica" in text for text in texts):  # until the master has missed it
        texts = {each.text: each for each in of(redis(Settings(redis_url=cluster.url), 1), "redis")}
    missing = next(each for text, each in texts.items() if "have no node" in text)
    assert missing.text.startswith("3 slots have no node (7 to 8, 9000)")
    assert missing.state == State.FAIL
    assert "--cluster fix" in missing.todo
    evicting = next(each for text, each in texts.items() if "maxmemory-policy" in text)
    assert "is allkeys-lru" in evicting.text
    assert evicting.state == State.FAIL


def test_redis_that_is_not_there_is_a_failure_with_its_reason():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = one(redis(Settings(redis_url=f"redis://:secret@127.0.0.1:{port}"), 1), "redis")
    assert found.state == State.FAIL
    assert "secret" not in found.text
    assert str(port) in found.text


def test_functions_that_are_older_there_are_found(own_redis_node):
    settings = Settings(redis_url=own_redis_node.url)
    assert "is not loaded yet" in one(redis(settings, 1), "redis functions").text
    own_redis_node.ask(
        "FUNCTION",
        "LOAD",
        "#!lua name=realtime_1\nlocal MINOR = 0\n"
        "redis.register_function('rt1_x', function() return MINOR end)",
    )
    found = one(redis(settings, 1), "redis functions")
    assert found.state == State.WARN
    assert "is older, or missing, at 127.0.0.1:" in found.text


# ---------------------------------------------------------------- the store


async def test_a_database_is_looked_at_and_left_as_it_is(postgres):
    url = await postgres.new_database()

    def look():
        return list(store(Settings(postgres_url=url), discover(), Host(), 1))

    found = await asyncio.to_thread(look)
    # The tests' own database does not wait for the disk, and that is found, too.
    failed = [each for each in found if each.state != State.OK]
    assert {each.text.split()[0] for each in failed} == {"fsync", "full_page_writes"}, found
    assert "are due" in one(found, "migrations").text
    assert one(await asyncio.to_thread(look), "migrations") == one(found, "migrations")  # nothing was applied


def test_a_database_that_lies_about_the_disk_is_a_failure():
    settings = {
        "fsync": "off",
        "max_connections": "20",
        "synchronous_standby_names": "b",
        "idle_session_timeout": "5",
    }
    found = list(judge_postgres(Postgres(150_004, settings, 15, 0, (0.02,), 3.0), "postgres", 2))
    states = [each.state for each in of(found, "store")]
    assert states == [State.OK, State.OK, State.FAIL] + [State.WARN] * 3
    assert one(found, "store latency").state == State.WARN
    assert one(found, "clock").text == "PostgreSQL's is 3.0 s ahead"


@pytest.mark.parametrize(("version", "state"), [(130_022, State.FAIL), (140_000, State.OK)])
def test_a_version_that_nobody_mends_any_more_is_a_failure(version, state):
    found = list(judge_postgres(Postgres(version, {}, 0, 0, (0.001,), 0.0), "postgres", 1))
    assert of(found, "store")[0].state == state
    assert worst(found) == state


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "UTF8"])
async def test_a_database_that_cannot_keep_every_text_is_a_failure(postgres, encoding):
    url = await postgres.new_database(f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    found = await asyncio.to_thread(lambda: list(store(Settings(postgres_url=url), (), Host(), 1)))
    said = next(each for each in of(found, "store") if "encoding" in each.text)
    if encoding == "UTF8":
        assert said.state == State.OK
    else:
        assert said.state == State.FAIL
        assert encoding in said.text
        assert "ENCODING 'UTF8'" in said.todo


def test_a_database_that_is_not_there_is_a_failure_without_its_password():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = one(
        store(Settings(postgres_url=f"postgresql://a:secret@127.0.0.1:{port}/x"), (), Host(), 1), "store"
    )
    assert found.state == State.FAIL
    assert "secret" not in found.text


def test_a_file_says_its_journal_mode_and_is_not_touched(tmp_path):
    path = tmp_path / "s.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE x (y)")
    database.close()
    before = path.read_bytes()
    found = of(store(Settings(sqlite_path=str(path)), discover(), Host(), 1), "store")
    assert [each.text for each in found] == [
        f"{path} has journal mode delete: another program made it, or set it back"
    ]
    assert path.read_bytes() == before
    path.write_bytes(b"something else")
    assert one(store(Settings(sqlite_path=str(path)), discover(), Host(), 1), "store").state == State.FAIL


def test_a_disk_that_is_full_slow_or_elsewhere_is_found(tmp_path):
    found = list(judge_sqlite(tmp_path / "s", "wal", Disk(GB // 2, 10, "nfs4", (0.1,))))
    assert [each.state for each in found] == [State.FAIL, State.WARN, State.WARN]
    assert "lies on nfs4" in found[0].text


# ---------------------------------------------------------------- certificates and ports


def test_certificates_say_how_long_they_hold_and_whose_chain_is_broken(tmp_path):
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")

    def looked_at(pair):
        code, report = doctor(
            *("--port", "0", "--tls-port", "8443"),
            *("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)),
        )
        return code, stated(report, "certificate")

    code, found = looked_at(authority.sign("old.example", days=-2))
    assert code == 2
    assert found[0][0] == "fail"
    assert "old.example.pem expired 2 days ago" in found[0][1]
    good = authority.sign("good.example", days=40)
    code, found = looked_at(good)
    assert "holds for" in found[0][1]
    assert "no intermediate certificate follows it" in found[1][1]
    leaf = good.certificate.read_bytes()
    good.certificate.write_bytes(leaf + authority.certificate.read_bytes())
    assert [state for state, _ in looked_at(good)[1]] == ["ok"]
    good.certificate.write_bytes(leaf + other.certificate.read_bytes())
    assert "certificate 2 in the file did not sign the one before it" in looked_at(good)[1][1][1]
    soon, stranger = authority.sign("soon.example", days=3), authority.sign("stranger.example")
    assert looked_at(soon)[1][0][0] == "warn"
    soon.key.write_bytes(stranger.key.read_bytes())
    code, found = looked_at(soon)
    assert code == 2
    assert found[0][1].endswith("the key is another certificate's")


def test_a_port_that_a_server_of_ours_has_is_well_and_another_programs_is_not(server):
    found = one(ports(Settings(port=server.port), 1), "port")
    assert found.state == State.OK
    assert "a realtime server" in found.text
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        other.close()  # what answers nothing would be waited for
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        found = one(ports(Settings(port=port), 1), "port")
    assert found.state == State.FAIL
    assert f"sport = :{port}" in found.todo


# ---------------------------------------------------------------- a machine's files


def test_small_queues_buffers_tables_and_port_ranges_are_found(tmp_path):
    host = machine_of(
        tmp_path,
        {
            "proc/sys/net/core/somaxconn": "128",
            "proc/sys/net/ipv4/tcp_max_syn_backlog": "4096",
            "proc/sys/net/ipv4/tcp_syncookies": "0",
            "proc/sys/net/core/wmem_max": "1000",
            "proc/sys/net/ipv4/tcp_wmem": "4096 16384 65536",
            "proc/sys/net/ipv4/tcp_mem": "100 200 300",
            "proc/sys/net/ipv4/ip_local_port_range": "8000 9000",
            "proc/sys/net/netfilter/nf_conntrack_max": "1000",
            "proc/sys/net/netfilter/nf_conntrack_count": "950",
            "proc/sys/fs/file-max": "900",
            "proc/sys/fs/epoll/max_user_watches": "500",
        },
    )
    found = list(limits(Settings(send_buffer_bytes=65536, max_connections=1000), host, 1))
    bad = [each.area for each in found if each.state]
    assert bad == [
        "open files",
        "net.core.somaxconn",
        "net.ipv4.tcp_syncookies",
        "net.core.wmem_max",
        "net.ipv4.tcp_wmem",
        "net.ipv4.tcp_mem",
        "ephemeral ports",
        "ephemeral ports",
        "conntrack",
        "fs.epoll.max_user_watches",
    ]
    assert "sysctl -w net.core.somaxconn=4096" in of(found, "net.core.somaxconn")[0].todo


def test_a_port_that_is_reserved_is_no_outgoing_connections(tmp_path):
    files = {
        "proc/sys/net/ipv4/ip_local_port_range": "32768 60999",
        "proc/sys/net/ipv4/ip_local_reserved_ports": "39000-40000,50000",
    }
    host = machine_of(tmp_path, files)
    assert one(limits(Settings(port=40_000), host, 1), "ephemeral ports").state == State.OK
    assert one(limits(Settings(port=40_001), host, 1), "ephemeral ports").state == State.WARN


def test_throttled_processors_and_little_memory_are_found(tmp_path):
    host = machine_of(
        tmp_path,
        {
            "proc/self/cgroup": "0::/ours",
            "sys/fs/cgroup/ours/cpu.max": "50000 100000",
            "sys/fs/cgroup/ours/memory.max": str(128 * 1024 * 1024),
            "sys/fs/cgroup/ours/memory.current": "1000000",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
            "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB",
        },
    )
    found = list(processors(host, 1))
    assert [each.area for each in found] == ["processors", "cpu governor"]
    assert "may use 0.5 processors" in found[0].text
    assert "1 worker" in found[0].text
    assert of(processors(Host(tmp_path / "none"), 10_000), "processors")[0].state == State.WARN
    (short,) = memory(Settings(max_connections=100_000), host, 1)
    assert "128.0 MB in all" in short.text


def test_a_clock_that_nobody_keeps_and_a_slow_one_are_found(tmp_path):
    host = machine_of(tmp_path, {"sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet"})
    assert [each.state for each in clock(host, ClockState(False, 16.0))] == [State.WARN, State.WARN]
    assert [each.state for each in clock(Host(tmp_path / "none"), ClockState(True, 0.01))] == [State.OK]
    assert clock_state().error_max_s >= 0  # of this machine


def test_an_old_kernel_is_found(tmp_path):
    assert of(kernel(Host(tmp_path), "4.19.0-x"), "kernel")[0].state == State.WARN
    assert one(kernel(Host(tmp_path)), "kernel").state == State.OK


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"history_bytes": 65_536, "max_message_bytes": 1_000_000}, "cannot be recovered"),
        ({"messages_per_second_per_user": 5.0, "messages_per_second": 10.0}, "no connection ever reaches"),
        ({"close_timeout_s": 30.0}, "one client that does not answer"),
        ({"handshake_timeout_s": 3.0}, "the kernel hides a slow client"),
        ({"redis_url": "redis://x", "postgres_url": "p", "redis_ping_interval_s": 1.0}, "loses its rooms"),
        ({"redis_url": "redis://x"}, "sqlite_path is not used"),
        ({"host": "0.0.0.0", "allowed_origins": ("https://a.example",)}, "tokens can be read on the way"),
        ({"host": "0.0.0.0", "tls_port": 443}, "allowed_origins is empty"),
        ({"admin_port": 7_998}, "port 8000 is among them"),
    ],
)
def test_settings_that_contradict_each_other_are_found(settings, says):
    found = [each for each in of(contradictions(Settings(**settings), 4), "settings") if each.state]
    assert [says in each.text for each in found] == [True], found


def test_the_defaults_do_not_contradict_each_other():
    assert one(contradictions(Settings(), 1), "settings").text == "none contradicts another"
