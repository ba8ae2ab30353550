"""A real Prometheus scrapes two workers and their supervisor under load: every panel and every rule has data.

With MONITORING_PICTURES=folder it goes on until the charts have something to show, and draws them there.
"""

import asyncio
import contextlib
import json
import os
import time
import uuid
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from realtime.ids import DEFAULT_TENANT
from tests.certificates import Authority
from tests.conftest import ROOT
from tests.edge.peer import ask, receive
from tests.edge.workers import (
    deployment,
    enter,
    greeted,
    hang_up,  # noqa: F401 - a fixture
    on_each,
    say,
    until_ready,
)
from tests.monitoring.prometheus import PATIENCE_S, Prometheus, filled_in, free_ports
from tests.monitoring.scripts import load
from tests.ports import free_port

LISTENERS = 20


rules = load("monitoring_rules")
panels = load("monitoring_panels")
monitoring = load("monitoring")


def configuration(folder: Path, admin_port: int, metrics_port: int) -> dict[str, object]:
    """What is shipped, with a shorter interval and the ports of this run."""
    made = json.loads(json.dumps(monitoring.scraping()))
    made["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
    rule_file = folder / "rules.yml"
    rule_file.write_text((ROOT / monitoring.FOLDER / "rules.yml").read_text(encoding="utf-8"))
    made["rule_files"] = [str(rule_file)]
    workers, supervisor = made["scrape_configs"]
    workers["static_configs"][0]["targets"] = [f"127.0.0.1:{admin_port + n}" for n in range(2)]
    supervisor["static_configs"][0]["targets"] = [f"127.0.0.1:{metrics_port}"]
    return made


async def listen(ws):
    """Read whatever comes, until the end."""
    with contextlib.suppress(ConnectionClosed):
        async for _ in ws:
            continue


class Crowd:
    """Members on both workers: two who talk, err and ask, and `LISTENERS` who only listen."""

    def __init__(self, server, authority):
        self.server = server
        self._tls = authority.trusting()
        self.talk = f"events:{uuid.uuid4()}"
        self.kept = f"playlist:{uuid.uuid4()}"
        self.turns = 0
        self._listening: list[asyncio.Task[None]] = []

    async def come(self):
        self.members = list((await on_each(self.server)).values())
        for ws in self.members:
            await enter(ws, self.talk)
            await enter(ws, self.kept)
        for n in range(LISTENERS):
            ws, _ = await greeted(self.server, f"listener{n}")
            await enter(ws, self.talk)
            self._listening.append(asyncio.create_task(listen(ws)))

    async def go(self):
        for task in self._listening:
            task.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)

    async def turn(self):
        """A little of everything."""
        self.turns += 1
        for number, ws in enumerate(self.members):
            for n in range(5):
                said = await say(ws, self.talk, f"{self.turns} {number} {n}")
                assert said["type"] == "ack", said
            kept = {"type": "chat_message", "room": self.kept, "content": self.turns}
            said = await ask(ws, id=f"kept {self.turns}", **kept)
            assert said["type"] == "ack", said
            await ask(ws, type="history", id=f"history {self.turns}", room=self.kept, content={"limit": 3})
            await ask(ws, type="nonsense", id=f"nonsense {self.turns}")
        passer_by, _ = await greeted(self.server, "passer-by")
        await passer_by.close()
        address = f"wss://localhost:{self.server.settings['tls_port']}/ws/passer-by"
        async with connect(address, ssl=self._tls) as passer_by:
            await receive(passer_by)


def wanted() -> dict[str, str]:
    """The queries that have to have data: of panels, recordings, and what alerts look at."""
    found = {
        f"{name}: {panel.title}: {legend}": filled_in(expression)
        for name, (_, shown) in panels.DASHBOARDS.items()
        for panel in shown
        for expression, legend in panel.targets
    }
    found |= {name: name for name, _ in rules.recordings()}
    return found | {alert.name: alert.looks_at for alert in rules.alerts() if alert.limit}


@pytest.mark.timeout(600 if os.environ.get("MONITORING_PICTURES") else 300)
async def test_every_panel_and_every_rule_has_data(serve, redis_cluster, postgres, tmp_path):
    admin_port = free_ports(2)
    metrics_port = free_ports(1)
    authority = Authority(tmp_path)
    server = serve(
        **deployment(
            redis_cluster.url,
            workers=2,
            node="n",
            admin_port=admin_port,
            metrics_port=metrics_port,
            postgres_url=await postgres.new_database(),
            tenant_metrics=DEFAULT_TENANT,
            messages_per_second_per_tenant=1_000_000,
            errors_per_second=1000,
            tls_port=free_port(),
            **authority.sign().settings(),
        )
    )
    await until_ready(server)
    prometheus = await asyncio.to_thread(
        Prometheus, tmp_path, configuration(tmp_path, admin_port, metrics_port)
    )
    crowd = Crowd(server, authority)
    try:
        await crowd.come()
        missing, until = wanted(), time.monotonic() + 2 * PATIENCE_S
        while missing and time.monotonic() < until:
            await crowd.turn()
            for name, query in list(missing.items()):
                if await asyncio.to_thread(prometheus.values, query):
                    del missing[name]
        assert not missing, f"no data: {json.dumps(missing, indent=1)}"
        groups = (await asyncio.to_thread(prometheus.ask, "rules"))["groups"]
        every = [rule for group in groups for rule in group["rules"]]
        assert len(every) == len(list(rules.recordings())) + len(list(rules.alerts()))
        assert {rule["health"] for rule in every} == {"ok"}, [rule.get("lastError") for rule in every]
        targets = (await asyncio.to_thread(prometheus.ask, "targets"))["activeTargets"]
        assert [target["health"] for target in targets] == ["up"] * 3
        if folder := os.environ.get("MONITORING_PICTURES"):
            await draw(prometheus, crowd, Path(folder))
    finally:
        await crowd.go()
        await asyncio.to_thread(prometheus.stop)


async def draw(prometheus: Prometheus, crowd: Crowd, folder: Path) -> None:
    """Go on for two minutes of data, and have each dashboard drawn."""
    pictures = load("monitoring_pictures")
    while not await asyncio.to_thread(prometheus.values, 'count_over_time(up{job="realtime"}[10m]) > 120'):
        await crowd.turn()
    await asyncio.to_thread(pictures.draw, f"http://127.0.0.1:{prometheus.port}", folder)
