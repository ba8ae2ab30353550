"""The dashboard's WebSocket: who is let see it, what it says, and what it costs while nobody looks."""

import asyncio
import json
import time

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from realtime.edge.rest.rates import Rates
from realtime.protocol.admin import WorkerStatus
from tests.edge.peer import PATIENCE_S, ask, bearer, closed, metric, receive, token
from tests.edge.rest import Keys, everybody, staged

BOUNDS = [0.001, 0.01, 0.1]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    made = staged(tmp_path_factory.mktemp("stage"), everybody(), public_metrics="yes")
    yield made
    made.finish()


def live(stage, **how):
    return connect(f"ws{stage.url.removeprefix('http')}/dashboard/live", **how)


async def enter(ws, key):
    await ws.send(json.dumps({"type": "connect", "content": {"token": key}}))
    return await receive(ws)


async def overview(ws, wanted=lambda content: True):
    """The next overview that is what is wanted."""
    async with asyncio.timeout(3 * PATIENCE_S):
        while True:
            message = await receive(ws)
            if message["type"] == "overview" and wanted(message["content"]):
                return message["content"]


async def test_an_overview_comes_again_and_again_with_what_is_there(stage):
    headers = bearer(token("alice", ttl_s=3600))
    async with live(stage) as ws, connect(stage.server.ws_url, additional_headers=headers) as member:
        assert (await receive(member))["type"] == "connected"
        assert (await ask(member, type="join", id=1, room="events:watched"))["type"] == "joined"
        told = await enter(ws, stage.keys.given["ops"])
        assert (told["type"], told["content"]["user_id"]) == ("connected", "key:ops")
        assert "admin:operate" in told["content"]["powers"]
        assert (await receive(ws))["type"] == "past"
        first = await overview(ws, lambda each: each.get("rooms"))
        assert first["rooms"] == [{"name": "events:watched", "connections": 1, "tenant": "default"}]
        assert first["tenants"] == [{"name": "default", "connections": 1}]
        assert first["point"]["connections"] == 1
        (worker,) = first["workers"]
        assert (worker["connections"], worker["orders"], worker["troubles"]) == (1, ["drain"], {})

        async def talk():
            for number in range(1_000_000):
                await ask(member, type="publish", id=number, room="events:watched", content=number)

        talking = asyncio.create_task(talk())
        busy = await overview(ws, lambda each: each["point"]["deliveries"] and each["point"]["messages_in"])
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        assert busy["point"]["latency_p99_ms"] > 0
        assert busy["point"]["bytes_out"] > 0
        assert busy["workers"][0]["deliveries"] > 0


async def test_what_goes_on_record_is_shown_and_who_comes_later_sees_it_too(stage):
    async with live(stage) as ws:
        await enter(ws, stage.keys.given["ops"])
        await overview(ws)
        await stage.done("disconnect", user="nobody", reason="test")
        kicked = await overview(ws, lambda each: any(one["action"] == "admin.kick" for one in each["events"]))
        event = next(one for one in kicked["events"] if one["action"] == "admin.kick")
        assert (event["target"], event["detail"]["by"]) == ("nobody", "key:ops")
        async with live(stage) as late:
            await enter(late, stage.keys.given["ops"])
            past = (await receive(late))["content"]
            assert event in past["events"]
            assert past["points"]


@pytest.mark.parametrize(
    ("first", "name", "code"),
    [
        ({"type": "connect", "content": {"token": "nonsense"}}, "unauthorized", 4500),
        ({"type": "connect", "content": {"token": "@acme"}}, "forbidden", 4507),
        ({"type": "connect", "content": {"token": "@reader"}}, "forbidden", 4507),
        ({"type": "connect", "content": {}}, "unauthorized", 4500),
        ({"type": "ping"}, "unauthorized", 4500),
        ("nonsense", "bad_message", 4501),
    ],
)
async def test_who_may_not_see_it_is_told_why_and_put_out(stage, first, name, code):
    async with live(stage) as ws:
        said = json.dumps(first) if isinstance(first, dict) else first
        for key, value in stage.keys.given.items():
            said = said.replace(f'"@{key}"', f'"{value}"')
        await ws.send(said)
        message = await receive(ws)
        assert (message["type"], message["content"]["name"]) == ("error", name)
        assert (await closed(ws))[0] == code


async def test_no_page_of_another_site_can_open_it(stage):
    with pytest.raises(InvalidStatus) as refused:
        await live(stage, origin="https://elsewhere.example").__aenter__()
    assert refused.value.response.status_code == 403
    own = f"http://{stage.api.host}:{stage.api.port}"
    async with live(stage, origin=own) as ws:
        assert (await enter(ws, stage.keys.given["ops"]))["type"] == "connected"


async def test_no_other_path_takes_a_websocket(stage):
    for path in ("/v1/rooms", "/ws", "/dashboard"):
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws{stage.url.removeprefix('http')}{path}").__aenter__()
        assert refused.value.response.status_code in (403, 404)


async def test_a_token_that_is_revoked_sees_no_more(stage):
    mine = token("viewer", ttl_s=3600, scope="admin:*", jti="viewer-1", iat=time.time() - 5)
    async with live(stage) as ws:
        assert (await enter(ws, mine))["type"] == "connected"
        await overview(ws)
        await stage.done("revoke", token_id="viewer-1", keep_s=60)
        with pytest.raises(ConnectionClosed) as ended:
            await overview(ws, lambda each: False)
        assert ended.value.rcvd.code == 4500


async def test_pings_are_answered_and_what_is_not_taken_ends_it(stage):
    async with live(stage) as ws:
        await enter(ws, stage.keys.given["ops"])
        assert (await ask(ws, type="ping", id=7))["type"] == "pong"
        await ws.send(json.dumps({"type": "publish"}))
        assert (await closed(ws))[0] == 4501


async def test_nobody_is_asked_while_nobody_looks(stage):
    for _ in range(2):
        async with live(stage) as ws:
            await enter(ws, stage.keys.given["ops"])
            await overview(ws)
            assert await asking(stage) == 1
        async with asyncio.timeout(PATIENCE_S):
            while await asking(stage):
                pass


async def asking(stage):
    return await asyncio.to_thread(metric, stage.api, "dashboard_asking")


async def test_while_workers_are_away_it_says_so_and_goes_on_after(tmp_path):
    stage = staged(tmp_path, Keys().add("ops", ["admin:*"], ["default", "*"]), audit_path="")
    try:
        async with live(stage) as ws:
            await enter(ws, stage.keys.given["ops"])
            await overview(ws, lambda each: each.get("workers"))
            await asyncio.to_thread(stage.server.stop)
            gone = await overview(ws, lambda each: each.get("silent") or each.get("trouble"))
            assert gone.get("silent") == ["local"]
            await asyncio.to_thread(stage.server.start)
            await overview(ws, lambda each: each.get("workers") and not each.get("silent"))
    finally:
        stage.finish()


# ---------------------------------------------------------------- rates, without anybody


def status(uptime_s, worker="w", **counters):
    latency = counters.pop("latency", [0, 0, 0, 0])
    return WorkerStatus(
        worker=worker,
        node=worker,
        version="1",
        uptime_s=uptime_s,
        draining=False,
        checks={"store": "failing", "listener": "ok"},
        connections=2,
        rooms=1,
        tenants=1,
        counters=counters,
        cpu_s=uptime_s / 2,
        memory_bytes=1,
        bounds_s=BOUNDS,
        lag_counts=[0, 0, 0, 0],
        latency_counts=latency,
        busiest_rooms=[],
        busiest_tenants=[],
        orders=[],
    )


def test_rates_are_what_grew_in_the_last_second_over_all_workers():
    rates = Rates()
    rates.point([status(10, "a", deliveries=100), status(20, "b", deliveries=0)], 0.0, "t")
    point = rates.point([status(11, "a", deliveries=150), status(21, "b", deliveries=30)], 1.0, "t")
    assert (point.deliveries, point.connections, point.cpu) == (80.0, 4, 1.0)
    (line, _) = rates.workers([status(11, "a", deliveries=150), status(21, "b", deliveries=30)])
    assert (line.deliveries, line.troubles) == (50.0, {"store": "failing"})


def test_a_worker_that_began_anew_counts_from_its_start():
    rates = Rates()
    rates.point([status(10, deliveries=100)], 0.0, "t")
    assert rates.point([status(0.5, deliveries=5)], 1.0, "t").deliveries == 0.0
    assert rates.point([status(1.5, deliveries=25)], 2.0, "t").deliveries == 20.0


def test_quantiles_are_of_the_last_ten_seconds_and_lie_in_their_bucket():
    rates = Rates()
    rates.point([status(0, latency=[1000, 0, 0, 0])], 0.0, "t")
    point = rates.point([status(1, latency=[1050, 50, 0, 0])], 1.0, "t")
    assert 0 < point.latency_p50_ms <= 1.0
    assert 1.0 < point.latency_p99_ms <= 10.0
    beyond = rates.point([status(2, latency=[1050, 50, 0, 10_000])], 2.0, "t")
    assert beyond.latency_p99_ms == 100.0
    assert rates.point([], 3.0, "t").latency_p99_ms == 0.0
    assert msgspec.json.encode(point)
