"""The demo page with a shared secret: who has it reads, who has not sees that there is something."""

from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.conftest import say


@pytest.fixture
def sealed(serve, tmp_path: Path):
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rooms]]\nrooms = ["chat:secret-*"]\nend_to_end = true\n')
    return serve(policy_path=policy)


async def come_in(open_page, server, name: str, room: str, secret: str = ""):
    page = await open_page()
    await page.goto(f"{server.url}/")
    await page.get_by_label("Your name").fill(name)
    await page.get_by_label("Room").fill(room)
    await page.get_by_label("Shared secret").fill(secret)
    await page.get_by_role("button", name="Enter").click()
    await expect(page.locator("#status")).to_have_attribute("data-state", "online")
    return page


async def test_who_shares_the_secret_talks_and_nobody_else_reads(sealed, open_page):
    ada = await come_in(open_page, sealed, "Ada", "secret-a", "correct horse")
    ben = await come_in(open_page, sealed, "Ben", "secret-a", "correct horse")
    eve = await come_in(open_page, sealed, "Eve", "secret-a")
    guess = await come_in(open_page, sealed, "Guess", "secret-a", "battery staple")
    await expect(ada.locator("#log")).to_contain_text("the server cannot read")
    await expect(eve.locator("#log")).to_contain_text("Come in with its secret")
    await say(ada, "only for us")
    for page in (ada, ben):
        await expect(page.locator("#log .message")).to_contain_text("only for us")
    await expect(eve.locator("#log .message")).to_contain_text("sealed: come in with the secret")
    await expect(guess.locator("#log .message")).to_contain_text("sealed with another secret")
    late = await come_in(open_page, sealed, "Late", "secret-a", "correct horse")
    await expect(late.locator("#log .message")).to_contain_text("only for us")
    await say(eve, "said openly")
    await expect(eve.locator("#pending")).to_contain_text("sealed end to end: join it with keys")
    await expect(ben.locator("#log .message")).to_have_count(1)


async def test_a_reload_does_not_say_openly_what_was_to_be_sealed(sealed, open_page):
    ada = await come_in(open_page, sealed, "Ada", "open", "correct horse")
    assert "correct" not in ada.url
    await ada.reload()
    await expect(ada.get_by_label("Room")).to_have_value("open")
    await expect(ada.get_by_role("button", name="Enter")).to_be_visible()


async def test_what_comes_unsealed_among_the_sealed_is_marked(sealed, open_page):
    ada = await come_in(open_page, sealed, "Ada", "open", "correct horse")
    eve = await come_in(open_page, sealed, "Eve", "open")
    await say(eve, "trust me")
    await expect(ada.locator("#log .message")).to_contain_text("not sealed, so it may be anybody's: trust me")
