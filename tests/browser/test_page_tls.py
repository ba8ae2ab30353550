"""The demo page over https and wss, in a browser, from our own TLS listener."""

import pytest
from playwright.async_api import expect

from tests.browser.conftest import say
from tests.certificates import Authority
from tests.ports import free_port


@pytest.fixture
def secure(serve, tmp_path):
    """A server with TLS, and the URL of its page. The certificate's authority is unknown to the browser."""
    port = free_port()
    serve(tls_port=port, **Authority(tmp_path).sign().settings())
    return f"https://localhost:{port}"


async def test_two_people_talk_over_wss(secure, enter):
    ada = await enter(secure, "Ada", "tls", ignore_https_errors=True)
    ben = await enter(secure, "Ben", "tls", ignore_https_errors=True)
    assert await ada.evaluate("location.protocol") == "https:"
    await say(ada, "Good morning!")
    await expect(ben.locator("#log .bubble")).to_have_text(["Good morning!"])
    await say(ben, "Hello Ada")
    for page in (ada, ben):
        await expect(page.locator("#log .bubble")).to_have_text(["Good morning!", "Hello Ada"])
        await expect(page.locator("#pending li")).to_have_count(0)


async def test_a_page_over_tls_opens_its_websocket_by_tls(secure, enter, open_page):
    page = await open_page(ignore_https_errors=True)
    opened: list[str] = []
    page.on("websocket", lambda websocket: opened.append(websocket.url))
    await page.goto(f"{secure}/")
    await page.get_by_label("Your name").fill("Cy")
    await page.get_by_role("button", name="Enter").click()
    await expect(page.locator("#status")).to_have_attribute("data-state", "online")
    assert opened
    assert all(url.startswith(secure.replace("https", "wss")) for url in opened)
