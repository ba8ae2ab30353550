"""The small parts of a worker: greetings, listening, process limits, metrics."""

import json
import os
import re
import socket

import msgspec
import pytest

from realtime.edge import listener, metrics
from realtime.edge.load import Load
from realtime.edge.process import (
    SPARE_FILES,
    connections_allowed,
    file_limit_warning,
    node_name,
    worker_count,
)
from realtime.edge.telemetry import HUB_COUNTERS, HUB_GAUGES, worker_metrics
from realtime.edge.welcome import Welcome
from realtime.errors import StartupError
from realtime.native.histogram import Histogram
from realtime.native.hub import Hub
from realtime.protocol.messages import Connected
from realtime.settings import Settings


class Stamp:
    timestamp = b"2025-07-15T10:30:00.123Z"


# -- greetings ----------------------------------------------------------------------------------------------


def test_a_greeting_is_json_with_everything_a_client_needs():
    welcome = Welcome(Settings(heartbeat_interval_s=12.5, max_rooms_per_connection=7), "n-1", Stamp())
    greeting = welcome.json(42, b'"al\\"ice"', "acme")
    msgspec.convert(json.loads(greeting)["content"], Connected)  # what the protocol's reference says
    assert json.loads(greeting) == {
        "type": "connected",
        "content": {
            "connection_id": "n-1-42",
            "user_id": 'al"ice',
            "tenant": "acme",
            "node": "n-1",
            "server_time": "2025-07-15T10:30:00.123Z",
            "heartbeat_s": 12.5,
            "limits": {"message_bytes": 65536, "messages_per_second": 100_000, "rooms": 7},
            "reconnect": {"min_ms": 500, "max_ms": 15_000},
        },
    }


def test_a_guest_is_greeted_by_a_name_of_its_own():
    content = json.loads(Welcome(Settings(), "n", Stamp()).guest(42))["content"]
    assert (content["user_id"], content["tenant"]) == ("guest-42", "default")


def test_a_connection_is_named_by_the_worker_that_is_no_other_after_a_restart():
    welcome = Welcome(Settings(), "n-1", Stamp(), "n-1-0123456789ab")
    content = json.loads(welcome.json(7, b'"a"'))["content"]
    assert (content["connection_id"], content["node"]) == ("n-1-0123456789ab-7", "n-1")
    assert json.loads(welcome.guest(7))["content"]["user_id"] == "guest-0123456789ab-7"


def test_a_packed_greeting_says_the_same():
    welcome = Welcome(Settings(), "n", Stamp())
    plain = welcome.json(1, b'"a"')
    assert msgspec.msgpack.decode(welcome.packed(plain)) == json.loads(plain)


@pytest.mark.parametrize("given", ["", "a", "n" * 32])
@pytest.mark.parametrize("number", [0, 1, 999])
def test_a_node_is_named_so_that_settings_would_take_it(given: str, number: int):
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", node_name(Settings(node=given), number))


def test_the_workers_of_a_node_have_its_name_and_their_numbers():
    settings = Settings(node="berlin")
    assert [node_name(settings, number) for number in range(3)] == ["berlin", "berlin-1", "berlin-2"]


def test_workers_and_a_shared_port_need_redis_between_them():
    for settings in (Settings(workers="2"), Settings(share_port=True)):
        with pytest.raises(StartupError, match="REDIS_URL"):
            worker_count(settings)
    assert worker_count(Settings(workers="3", redis_url="redis://x")) == 3
    assert worker_count(Settings(share_port=True, redis_url="redis://x")) == 1
    assert worker_count(Settings(workers="auto", redis_url="redis://x")) == len(os.sched_getaffinity(0))
    assert worker_count(Settings()) == 1


# -- listening ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("localhost", "localhost")]
)
def test_it_listens_where_it_says(host, shown):
    settings = Settings(host=host, port=0)
    with listener.listen(settings) as listening:
        port = listening.getsockname()[1]
        assert listener.url(settings, listening) == f"http://{shown}:{port}"
        with socket.create_connection((host, port), timeout=60):
            pass


def test_any_address_is_shown_as_one_that_a_browser_opens():
    settings = Settings(host="::", port=0, jwt_secret="x" * 32)
    with listener.listen(settings) as listening:
        port = listening.getsockname()[1]
        assert listener.url(settings, listening, "ws") == f"ws://localhost:{port}"
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=60):
                pass


def test_a_taken_port_is_refused_though_both_would_share_it():
    with (
        listener.listen(Settings(port=0)) as first,
        pytest.raises(StartupError, match="another program has it"),
    ):
        listener.listen(Settings(port=first.getsockname()[1]))


def test_the_socket_is_set_up_as_configured():
    with listener.listen(Settings(port=0, tcp_defer_accept_s=7, send_buffer_bytes=50_000)) as listening:
        assert not listening.getblocking()
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) >= 7
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 100_000  # the kernel doubles it


# -- the process --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "wanted", "allowed", "warns"),
    [
        (1024, 0, 1024 - SPARE_FILES, False),
        (1024, 500, 500, False),
        (1024, 1024 - SPARE_FILES, 1024 - SPARE_FILES, False),
        (1024, 1000, 1024 - SPARE_FILES, True),
        (10, 0, 1, False),
        (2**63 - 1, 0, 10_000_000, False),
    ],
)
def test_connections_fit_into_the_open_files(files, wanted, allowed, warns):
    settings = Settings(max_connections=wanted)
    assert connections_allowed(files, settings) == allowed
    assert bool(file_limit_warning(files, settings)) is warns


# -- metrics ------------------------------------------------------------------------------------------------


def hub():
    def never(*_):
        raise AssertionError

    return Hub(on_handshake=never, on_message=never, on_close=never, on_http=never, on_wake=never)


def test_everything_that_the_hub_counts_is_told():
    assert hub().stats().keys() - {"epoll_fd"} <= HUB_COUNTERS.keys() | HUB_GAUGES.keys()


def test_everything_that_is_told_is_counted_by_the_hub():
    assert HUB_COUNTERS.keys() | HUB_GAUGES.keys() <= hub().stats().keys()


def test_the_exposition_holds_every_source():
    lag = Histogram()
    lag.observe(0.003)
    lag.observe(5.0)
    text = metrics.render(
        worker_metrics(
            {"accepted": 3, "connections": 2},
            {"rooms": 4, "streams_idle": 9},
            refusals={"max_message_bytes": 6},
            arrivals={"country": 8},
            offences={"bad_frame": 5},
            node="n",
            version="1",
            http=1,
            errors={"bad_message": 2},
            closes={"4001": 3},
            leaving={"drain": 7},
            timings={"loop_lag": lag.taken()},
            load=Load({"loop": 0.5, "connections": 0.25}, lag_s=0.002),
            connection_bytes=512.0,
        )
    ).decode()
    for line in (
        'realtime_info{node="n",version="1"} 1',
        "realtime_connections_accepted_total 3",
        "realtime_connections 2",
        "realtime_rooms 4",
        "realtime_streams_idle 9",
        'realtime_refusals_total{limit="max_message_bytes"} 6',
        'realtime_address_refusals_total{reason="country"} 8',
        'realtime_offences_total{offence="bad_frame"} 5',
        "realtime_http_connections 1",
        'realtime_loop_lag_seconds_bucket{le="0.0025"} 0',
        'realtime_loop_lag_seconds_bucket{le="0.005"} 1',
        'realtime_loop_lag_seconds_bucket{le="+Inf"} 2',
        'realtime_errors_total{code="bad_message"} 2',
        'realtime_closes_total{code="4001"} 3',
        'realtime_asked_to_leave_total{reason="drain"} 7',
        "realtime_utilization_ratio 0.5",
        'realtime_resource_utilization_ratio{resource="connections"} 0.25',
        "realtime_loop_lag_recent_seconds 0.002",
        "realtime_memory_per_connection_bytes 512.0",
    ):
        assert line in text.splitlines()
    assert re.search(r"^process_resident_memory_bytes \d{7,}$", text, re.M)


def test_names_and_help_keep_prometheus_conventions():
    for key, (name, help) in HUB_COUNTERS.items():
        assert name.endswith("_total"), key
        assert help.endswith(".")
    for name, help in HUB_GAUGES.values():
        assert not name.endswith("_total")
        assert help.endswith(".")
