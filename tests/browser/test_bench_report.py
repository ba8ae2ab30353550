"""The report of `realtime bench` in a browser: drawn, readable in light and dark, and nothing complains."""

import os

import pytest

from realtime.client.bench.coordinator import run
from realtime.client.bench.page import page
from realtime.client.bench.plan import Plan
from realtime.client.bench.subject import Subject


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_report_is_drawn_without_a_complaint(server, open_page, tmp_path, scheme):
    plan = Plan(
        url=server.ws_url,
        connections=10,
        rooms=2,
        rate=100.0,
        publishers=10,
        duration_s=1.0,
        warmup_s=0.0,
        payload_bytes=64,
        kind="events",
        type="publish",
        processes=1,
        arrivals_per_second=500.0,
        patience_s=30.0,
        run=f"t{os.urandom(3).hex()}",
    )
    result = await run(plan, [], Subject([server.pid], []))
    report = tmp_path / "report.html"
    report.write_text(page(result), encoding="utf-8")
    shown = await open_page(color_scheme=scheme)
    await shown.goto(report.as_uri())
    assert await shown.locator("svg").count() == 6
    assert await shown.locator("polyline").count() == 3 + 4 + 2 + 1 + 1 + 1
    assert "Everything arrived once and in order" in await shown.inner_text("main")
    ground, ink = [
        await shown.evaluate(f"getComputedStyle(document.body).{name}")
        for name in ("backgroundColor", "color")
    ]
    assert (ground == "rgb(18, 22, 28)") == (scheme == "dark")
    assert ground != ink
    # The policy holds: a script that somebody got into the page would not run.
    assert await shown.evaluate(
        "document.querySelector('meta[http-equiv]').content.startsWith(\"default-src 'none'\")"
    )
