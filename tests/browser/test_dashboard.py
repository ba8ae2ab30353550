"""The dashboard and the API's reference in a browser, over real workers with real traffic."""

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect
from websockets.asyncio.client import connect

from tests.browser.conftest import Watched
from tests.browser.test_chat_page_reach import broken
from tests.edge.peer import ask, bearer, closed, receive, token
from tests.edge.rest import Keys, Stage, staged

# Where pictures for docs/ are put, when they are made anew.
PICTURES = os.environ.get("DASHBOARD_PICTURES", "")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory):
    keys = (
        Keys()
        .add("ops", ["admin:*"], ["default", "*"])
        .add("viewer", ["admin:workers"], ["default", "*"])
        .add("acme", ["admin:*"], ["acme"])
    )
    made = staged(tmp_path_factory.mktemp("stage"), keys, node="edge-1")
    yield made
    made.finish()


@pytest_asyncio.fixture(loop_scope="session")
async def traffic(stage: Stage):
    """Members of some rooms who talk to each other; returns how to connect one more."""
    opened: list[Any] = []

    async def member(user: str, *rooms: str, tenant: str = "default") -> Any:
        own = bearer(token(user, ttl_s=3600, tenant=tenant))
        ws = await connect(stage.server.ws_url, additional_headers=own, max_queue=None)
        opened.append(ws)
        assert (await receive(ws))["type"] == "connected"
        for room in rooms:
            assert (await ask(ws, type="join", id="in", room=room))["type"] == "joined"
        return ws

    async def talk(ws: Any, room: str) -> None:
        number = 0
        while True:
            await ask(ws, type="publish", id=number, room=room, content={"n": number})
            number += 1

    names = ("goals", "odds", "weather", "traffic")
    speakers = []
    for place, name in enumerate(names):
        for number in range(6 - place):
            ws = await member(f"{name}-{number}", f"events:{name}", tenant="acme" if place % 2 else "default")
        speakers.append(asyncio.create_task(talk(ws, f"events:{name}")))
    yield member
    for each in speakers:
        each.cancel()
    await asyncio.gather(*speakers, return_exceptions=True)
    for ws in opened:
        await ws.close()


async def signed_in(open_page: Watched, stage: Stage, by: str = "ops", **options: Any) -> Page:
    page = await open_page(**options)
    await page.goto(f"{stage.url}/dashboard")
    await page.get_by_label("Key or token").fill(stage.keys.given[by])
    await page.get_by_role("button", name="Show it").click()
    await expect(page.locator("#state")).to_have_text("live")
    return page


async def overflow(page: Page) -> int:
    """How many pixels the page is wider than the screen."""
    return await page.evaluate(
        "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


async def points(page: Page, count: int) -> None:
    """Wait until it has drawn so many overviews."""
    body = page.locator("body")
    while int(drawn := await body.get_attribute("data-overviews") or "0") < count:
        await expect(body).not_to_have_attribute("data-overviews", drawn)


async def test_what_goes_on_is_drawn_live(open_page: Watched, stage: Stage, traffic: Any):
    page = await signed_in(open_page, stage)
    await points(page, 3)
    await expect(page.locator("#value-connections")).to_have_text("18")
    await expect(page.locator("#value-deliveries")).not_to_have_text("0 /s")
    await expect(page.locator("#value-latency")).not_to_have_text("0.0 ms")
    await expect(page.locator("#workers tr")).to_have_count(1)
    await expect(page.locator("#workers th")).to_contain_text("edge-1")
    await expect(page.locator("#rooms tbody tr").first).to_contain_text("events:goals")
    await expect(page.locator("#tenants tbody tr")).to_have_count(2)
    drawn = await page.locator("#tiles .line").first.get_attribute("d")
    await points(page, 6)
    assert await page.locator("#tiles .line").first.get_attribute("d") != drawn
    more = await traffic("late", "events:goals")
    await expect(page.locator("#value-connections")).to_have_text("19")
    await more.close()
    await expect(page.locator("#value-connections")).to_have_text("18")


async def test_one_publishes_kicks_and_revokes_from_it(open_page: Watched, stage: Stage, traffic: Any):
    page = await signed_in(open_page, stage)
    ws = await traffic("victim", "events:acts")
    form = page.locator("#publish")
    await form.get_by_label("Room").fill("events:acts")
    await form.get_by_label("Type").fill("publish")
    await form.get_by_label("Content").fill('{"said":"from the dashboard"}')
    await form.get_by_role("button", name="Publish").click()
    await expect(page.locator("#said")).to_have_text("published in events:acts at offset 1")
    while (push := await receive(ws))["type"] != "publish":
        pass
    assert push["content"] == {"said": "from the dashboard"}

    await page.locator("#kick").get_by_label("User").fill("victim")
    await page.locator("#kick").get_by_role("button", name="Kick").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Kick victim?")
    await dialog.get_by_role("button", name="Cancel").click()
    assert (await ask(ws, type="ping", id=1))["type"] == "pong"
    await page.locator("#kick").get_by_role("button", name="Kick").click()
    await dialog.get_by_role("button", name="Kick").click()
    await expect(page.locator("#said")).to_have_text("1 connections of victim closed")
    assert await closed(ws) == (4503, '{"r":"kicked"}')
    await expect(page.locator("#events li", has_text="admin.kick").first).to_contain_text("key:ops")

    await page.locator("#revoke").get_by_label("All tokens so far of user").fill("victim")
    await page.locator("#revoke").get_by_role("button", name="Revoke").click()
    await dialog.get_by_role("button", name="Revoke").click()
    await expect(page.locator("#said")).to_contain_text("refused until")

    open_page.expected = re.compile("the server responded with a status of 400")
    await form.get_by_label("Content").fill("{")
    await form.get_by_role("button", name="Publish").click()
    await expect(page.locator("#said")).to_contain_text("the content is no JSON")
    await form.get_by_label("Content").fill("1")
    await form.get_by_label("Room").fill("nothing:x")
    await form.get_by_role("button", name="Publish").click()
    await expect(page.locator("#said")).to_contain_text("there is no room kind")


async def test_who_may_only_look_is_shown_no_acts(open_page: Watched, stage: Stage):
    page = await signed_in(open_page, stage, "viewer")
    await points(page, 1)
    for form in ("#publish", "#kick", "#revoke"):
        await expect(page.locator(form)).to_be_hidden()
    await expect(page.locator("#workers button")).to_have_count(0)


async def test_a_key_that_will_not_do_is_said_and_forgotten(open_page: Watched, stage: Stage):
    page = await open_page()
    await page.goto(f"{stage.url}/dashboard")
    for key, said in (("nonsense", "token is malformed"), (stage.keys.given["acme"], "not for all tenants")):
        await page.get_by_label("Key or token").fill(key)
        await page.keyboard.press("Enter")
        await expect(page.locator("#login-said")).to_contain_text(said)
        assert await page.evaluate("sessionStorage.length") == 0
        await expect(page.get_by_label("Key or token")).to_be_focused()
    await page.get_by_label("Key or token").fill(stage.keys.given["viewer"])
    await page.keyboard.press("Enter")
    await points(page, 1)
    await page.reload()
    await expect(page.locator("#state")).to_have_text("live")
    await page.get_by_role("button", name="Sign out").click()
    assert await page.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_wrong(open_page: Watched, stage: Stage, traffic: Any, scheme: str):
    page = await open_page(color_scheme=scheme)
    await page.goto(f"{stage.url}/dashboard")
    assert await broken(page) == []
    page = await signed_in(open_page, stage, color_scheme=scheme)
    await points(page, 2)
    assert await broken(page) == []
    await page.get_by_role("button", name="Drain edge-1").click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    assert await broken(page) == []
    page = await open_page(color_scheme=scheme)
    await page.goto(f"{stage.url}/docs")
    await page.wait_for_selector("body[data-ready]")
    assert await broken(page) == []


@pytest.mark.parametrize("width", [360, 768, 1280])
async def test_nothing_is_wider_than_the_screen(open_page: Watched, stage: Stage, traffic: Any, width: int):
    page = await signed_in(open_page, stage, width=width, height=800)
    await points(page, 2)
    assert await overflow(page) <= 0
    await page.goto(f"{stage.url}/docs")
    await page.wait_for_selector("body[data-ready]")
    assert await overflow(page) <= 0


async def test_by_keyboard_alone(open_page: Watched, stage: Stage, traffic: Any):
    """The focus stays on an order's button while overviews come, Escape leaves the question."""
    page = await signed_in(open_page, stage)
    button = page.get_by_role("button", name="Drain edge-1")
    await button.focus()
    await points(page, 4)
    await expect(button).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await expect(button).to_be_focused()


async def test_the_reference_lists_every_operation_and_tries_one_out(open_page: Watched, stage: Stage):
    page = await open_page()
    await page.goto(f"{stage.url}/docs")
    await page.wait_for_selector("body[data-ready]")
    spec = json.loads(await page.evaluate("fetch('/openapi.json').then((answer) => answer.text())"))
    await expect(page.locator("#operations article")).to_have_count(len(spec["paths"]))
    await page.get_by_label("Key or token").fill(stage.keys.given["ops"])
    rooms = page.locator("#op-rooms")
    await rooms.get_by_text("Try it out").click()
    await rooms.get_by_role("button", name="Send").click()
    await expect(rooms.locator(".answer")).to_contain_text("200")
    publish = page.locator("#op-publish")
    await publish.get_by_text("Try it out").click()
    body = {"room": "events:docs", "type": "publish", "content": 1}
    await publish.get_by_label("Body").fill(json.dumps(body))
    await publish.get_by_role("button", name="Send").click()
    await expect(publish.locator(".answer")).to_contain_text('"offset": 1')


async def test_a_server_that_is_drained_from_it_is_shown_as_gone_and_back(open_page: Watched, tmp_path: Path):
    keys = Keys().add("ops", ["admin:*"], ["default", "*"])
    stage = await asyncio.to_thread(staged, tmp_path, keys, node="edge-9")
    try:
        page = await signed_in(open_page, stage)
        await page.get_by_role("button", name="Drain edge-9").click()
        await page.get_by_role("dialog").get_by_role("button", name="Drain").click()
        await expect(page.locator("#said")).to_have_text("edge-9 is told to drain")
        await expect(page.locator("#workers")).to_contain_text("gives no answer")
        assert await asyncio.to_thread(stage.server.process.wait, 30) == 0
        await asyncio.to_thread(stage.server.start)
        await expect(page.locator("#workers")).to_contain_text("edge-9")
        await asyncio.to_thread(stage.api.restart)
        await expect(page.locator("#state")).to_have_text("live")
    finally:
        await asyncio.to_thread(stage.finish)


@pytest.mark.timeout(400)
@pytest.mark.skipif(not PICTURES, reason="makes the pictures of docs/: DASHBOARD_PICTURES=docs")
async def test_pictures_for_the_docs(open_page: Watched, stage: Stage, traffic: Any):
    for scheme, width, height in (("light", 1280, 980), ("dark", 1280, 980), ("dark", 390, 844)):
        page = await signed_in(open_page, stage, width=width, height=height, color_scheme=scheme)
        await points(page, 20)
        name = "phone" if width < 500 else scheme
        await page.screenshot(path=f"{PICTURES}/dashboard-{name}.png")
