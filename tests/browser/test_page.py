"""The demo page, as people meet it: in a browser, against a real server."""

import re
import time
from uuid import uuid4

import jwt
import pytest
from playwright.async_api import Page, expect

from realtime.client import connect
from tests.browser.conftest import restart, say

SECRET = "0123456789abcdef0123456789abcdef"
QUICK = {"reconnect_min_ms": 0, "reconnect_max_ms": 200}


@pytest.fixture
def room() -> str:
    return f"room {uuid4().hex[:8]}"


async def fill(server, room: str, lines: int) -> None:
    """Have somebody say `line 0`, `line 1` … in the room, and leave."""
    async with connect(server.ws_url, user="Cy") as client:
        joined = await client.join(f"chat:{room}")
        for number in range(lines):
            await joined.publish("chat_message", {"text": f"line {number}"})


def bubbles(page: Page):
    return page.locator("#log .bubble")


async def overflow(page: Page) -> int:
    """How many pixels the page, its list of messages, or anything that is not cut off, is too wide."""
    return await page.evaluate(
        """() => {
          const cut = (node) => {
            for (let at = node.parentElement; at; at = at.parentElement) {
              if (getComputedStyle(at).overflowX !== "visible") return true;
            }
            return false;
          };
          const free = [...document.querySelectorAll("body *")].filter(
            (node) => node.checkVisibility({ visibilityProperty: true }) && !cut(node));
          return Math.max(
            document.documentElement.scrollWidth - innerWidth,
            scroller.scrollWidth - scroller.clientWidth,
            ...free.map((node) => Math.floor(node.getBoundingClientRect().right - innerWidth)));
        }"""
    )


async def test_the_page_loads_whole_under_a_strict_policy(server, open_page):
    page = await open_page()
    loaded: list[int] = []
    page.on("response", lambda response: loaded.append(response.status))
    response = await page.goto(f"{server.url}/")
    await expect(page.get_by_role("heading", name="Step into a room")).to_be_visible()
    policy = response.headers["content-security-policy"]
    assert re.search(r"default-src '(self|none)'", policy)
    assert "unsafe" not in policy
    assert set(loaded) == {200}
    assert len(loaded) >= 6  # page, style, icon, and the modules


async def test_two_people_talk(server, enter, room):
    ada = await enter(server.url, "Ada", room)
    ben = await enter(server.url, "Ben", room, color_scheme="dark")
    await say(ada, "Good morning!")
    await expect(bubbles(ben)).to_have_text(["Good morning!"])
    await say(ben, "Hello Ada")
    await say(ben, "How are you?")
    for page in (ada, ben):
        await expect(bubbles(page)).to_have_text(["Good morning!", "Hello Ada", "How are you?"])
        await expect(page.locator("#pending li")).to_have_count(0)
    await expect(ada.locator(".message.own .bubble")).to_have_text(["Good morning!"])
    await expect(ben.locator(".message.own .bubble")).to_have_text(["Hello Ada", "How are you?"])
    # One name and one time over what one person says in a row.
    await expect(ada.locator(".message.first:not(.own) .who:visible")).to_have_text(["Ben"])


async def test_members_come_and_go(server, enter, room):
    ada = await enter(server.url, "Ada", room)
    await expect(ada.locator("#room-sub")).to_have_text("Only you, for now")
    ben = await enter(server.url, "Ben", room)
    await expect(ada.locator("#members .who")).to_have_text(["Ada", "Ben"])
    await expect(ada.locator("#log .note")).to_have_text(["Ben joined"])
    await ben.get_by_role("button", name="Leave room").click()
    await expect(ben.get_by_role("heading", name="Step into a room")).to_be_visible()
    await expect(ada.locator("#members .who")).to_have_text(["Ada"])
    await expect(ada.locator("#log .note")).to_have_text(["Ben joined", "Ben left"])


async def test_both_go_on_after_the_server_was_killed_and_restarted(serve, enter, room):
    running = serve(**QUICK)
    ada, ben = await enter(running.url, "Ada", room), await enter(running.url, "Ben", room)
    await say(ada, "before")
    await expect(bubbles(ben)).to_have_text(["before"])
    await restart(running, kill=True)
    for page in (ada, ben):
        await expect(page.locator("#status")).to_have_attribute("data-state", "online")
        lost = page.get_by_text("The room began anew: messages may be missing here")
        await expect(lost).to_be_visible()
        await expect(page.locator("#members .who")).to_have_count(2)
    await say(ben, "after")
    await expect(bubbles(ada).last).to_have_text("after")  # of two connections the server makes the order
    await say(ada, "yes")
    for page in (ada, ben):
        await expect(bubbles(page)).to_have_text(["before", "after", "yes"])
        await expect(page.locator("#log .note", has_text="left")).to_have_count(0)


async def test_what_is_written_without_a_connection_is_sent_when_it_is_back(serve, enter, room):
    running = serve(**QUICK)
    ada, ben = await enter(running.url, "Ada", room), await enter(running.url, "Ben", room)
    running.kill()
    await expect(ada.locator("#banner")).to_contain_text("What you write is sent when it is back")
    await expect(ada.locator("#status")).not_to_have_attribute("data-state", "online")
    await say(ada, "first")
    await say(ada, "second")
    await expect(ada.locator("#pending .state")).to_have_text(["Waiting for the connection"] * 2)
    await restart(running)
    await expect(bubbles(ben)).to_have_text(["first", "second"])
    await expect(bubbles(ada)).to_have_text(["first", "second"])
    await expect(ada.locator("#pending li")).to_have_count(0)
    await expect(ada.locator("#banner")).to_be_hidden()


async def test_what_others_said_before_one_was_back_is_shown_too(serve, enter, room):
    running = serve(reconnect_min_ms=600_000, reconnect_max_ms=3_600_000)
    ada = await enter(running.url, "Ada", room)
    await say(ada, "before")
    await expect(bubbles(ada)).to_have_text(["before"])
    await restart(running, kill=True)
    await fill(running, room, 2)
    await ada.get_by_role("button", name="Try now").click()
    await say(ada, "after")
    await expect(bubbles(ada)).to_have_text(["before", "line 0", "line 1", "after"])
    order = ada.locator("#log .bubble, #log .warn")
    await expect(order.nth(1)).to_contain_text("The room began anew")


async def test_the_reader_may_try_at_once_instead_of_waiting(serve, enter, room):
    running = serve(reconnect_min_ms=600_000, reconnect_max_ms=3_600_000)
    ada = await enter(running.url, "Ada", room)
    await restart(running, kill=True)
    await ada.get_by_role("button", name="Try now").click()
    await expect(ada.locator("#status")).to_have_attribute("data-state", "online")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_is_wider_than_a_phone(serve, enter, room, scheme):
    running = serve(**QUICK)
    page = await enter(
        running.url, "A very long name without end 0", room + "-" + "x" * 30, width=360, color_scheme=scheme
    )
    other = await enter(running.url, "AnotherNameThatIsLongAsWell1234", room + "-" + "x" * 30, width=360)
    for text in ("short", "word " * 60, "x" * 400, "https://example.org/" + "path/" * 60, "👍"):
        await say(page, text.strip())
        await say(other, text.strip())
    await expect(bubbles(page)).to_have_count(10)
    assert await overflow(page) <= 0
    await page.get_by_role("button", name="members and connection").click()
    await expect(page.get_by_role("button", name="Leave room")).to_be_visible()
    assert await overflow(page) <= 0
    await expect(page.get_by_label("Members and connection", exact=True)).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Leave room")).to_be_hidden()
    await expect(page.get_by_role("button", name="members and connection")).to_be_focused()
    running.kill()
    await expect(page.locator("#banner")).to_be_visible()
    assert await overflow(page) <= 0
    await restart(running)


async def test_the_way_in_fits_a_phone(server, open_page):
    page = await open_page(width=360, height=560)
    await page.goto(f"{server.url}/")
    await expect(page.get_by_role("button", name="Enter")).to_be_visible()
    assert await overflow(page) <= 0


async def test_the_round_trip_is_shown_live(server, enter, room):
    page = await enter(server.url, "Ada", room)
    await expect(page.locator("#status-text")).to_have_text(re.compile(r"^\d+(\.\d)? ms$"))
    await expect(page.locator("#rtt")).to_have_text(re.compile(r"^\d+(\.\d)?$"))
    three_points = re.compile(r"^\S+,\S+ \S+,\S+ \S+,\S+")
    await expect(page.locator("#spark-large polyline")).to_have_attribute("points", three_points)


async def test_what_people_write_is_never_markup(server, enter):
    evil = "<img src=x onerror=\"document.title='owned'\">"
    page = await enter(server.url, evil[:32], evil[:40])
    other = await enter(server.url, "<b>Ben</b>", evil[:40])
    await say(other, evil)
    await say(other, "javascript:alert(1) https://example.org/\"onmouseover='x' <https://a.example>")
    await expect(bubbles(page)).to_have_count(2)
    await expect(bubbles(page).first).to_have_text(evil)
    await expect(page.locator("#members .who")).to_contain_text(["<img", "<b>Ben</b>"])
    for one in (page, other):
        assert await one.locator("#chat img, #chat b, #chat [onerror], #chat [onmouseover]").count() == 0
        assert "owned" not in (await one.title()).split("#")[0]
    links = await bubbles(page).locator("a").evaluate_all("links => links.map((link) => link.href)")
    assert links == ["https://example.org/", "https://a.example/"]


async def test_everything_works_by_keyboard(server, open_page, room):
    page = await open_page()
    await page.goto(f"{server.url}/")
    await expect(page.get_by_label("Your name")).to_be_focused()
    await page.keyboard.type("Ada")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Control+A")
    await page.keyboard.type(room)
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Message", exact=True)).to_be_focused()
    await expect(page.locator("#members li")).to_have_count(1)
    await page.keyboard.type("two")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("lines")
    await page.keyboard.press("Enter")
    await expect(bubbles(page)).to_have_text(["two\nlines"])
    assert await bubbles(page).inner_text() == "two\nlines"
    await page.keyboard.type("by button")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Send")).to_be_focused()
    await page.keyboard.press("Space")
    await expect(bubbles(page)).to_have_count(2)


async def test_every_control_has_a_name_and_news_is_announced(server, enter, room):
    page = await enter(server.url, "Ada", room, width=360)
    nameless = await page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, a")].filter((node) =>
            !(node.innerText.trim() || node.textContent.trim() || node.labels?.length
              || node.getAttribute("aria-label")) && !node.hidden).map((node) => node.outerHTML)"""
    )
    assert nameless == []
    log = page.get_by_role("log")
    await expect(log).to_have_attribute("aria-live", "polite")
    await expect(page.locator("#banner")).to_have_attribute("role", "status")
    assert await page.locator("html").get_attribute("lang") == "en"
    await expect(page.get_by_role("button", name="members and connection")).to_have_attribute(
        "aria-expanded", "false"
    )


async def test_who_scrolled_up_is_told_of_news_and_brought_to_it(server, enter, room):
    ada, ben = await enter(server.url, "Ada", room), await enter(server.url, "Ben", room)
    await fill(server, room, 40)
    await expect(bubbles(ada)).to_have_count(40)
    await expect(bubbles(ada).last).to_be_in_viewport()
    await ada.locator("#scroller").evaluate("node => { node.scrollTop = 0 }")
    await expect(bubbles(ada).last).not_to_be_in_viewport()
    await say(ben, "news")
    await say(ben, "more news")
    await expect(ada.get_by_role("button", name="2 new messages")).to_be_visible()
    await expect(ada).to_have_title(re.compile(r"^\(2\) #"))
    await expect(ada.locator(".day.unread")).to_have_count(1)
    await ada.get_by_role("button", name="2 new messages").click()
    await expect(bubbles(ada).last).to_be_in_viewport()
    await expect(ada.locator("#pill")).to_be_hidden()
    await expect(ada).to_have_title(re.compile(r"^#"))


HIDE = """(hidden) => {
  // document.hidden is the browser's to say, and headless it never does.
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


async def test_a_hidden_page_counts_in_its_title_and_shows_all_when_somebody_looks(server, enter, room):
    ada, ben = await enter(server.url, "Ada", room), await enter(server.url, "Ben", room)
    await say(ben, "seen")
    await expect(bubbles(ada)).to_have_text(["seen"])
    await ada.evaluate(HIDE, True)
    for number in range(3):
        await say(ben, f"unseen {number}")
    await expect(bubbles(ben)).to_have_count(4)
    await expect(ada).to_have_title(re.compile(r"^\(\d+\) #"))
    await expect(bubbles(ada)).to_have_text(["seen"])
    await expect(ben.locator("#members .who")).to_have_text(["Ben", "Ada"])
    await ada.evaluate(HIDE, False)
    await expect(bubbles(ada)).to_have_text(["seen", *(f"unseen {number}" for number in range(3))])
    await expect(ada).to_have_title(re.compile(r"^#"))
    await expect(ada.locator("#banner")).to_be_hidden()
    await say(ben, "seen again")
    await expect(bubbles(ada).last).to_have_text("seen again")


async def test_a_hidden_page_that_reconnects_is_told_and_misses_nothing(serve, enter, room):
    running = serve(**QUICK)
    ada, ben = await enter(running.url, "Ada", room), await enter(running.url, "Ben", room)
    await ada.evaluate(HIDE, True)
    await restart(running, kill=True)
    await expect(ada.locator("#status")).to_have_attribute("data-state", "online")
    await say(ben, "said while hidden")
    await expect(ada).to_have_title(re.compile(r"^\(\d+\) #"))
    await ada.evaluate(HIDE, False)
    await expect(bubbles(ada)).to_have_text(["said while hidden"])
    await expect(ada).to_have_title(re.compile(r"^#"))


async def test_a_link_with_room_and_name_leads_straight_in_and_shows_what_was_said(server, open_page, room):
    await fill(server, room, 130)
    ben = await open_page()
    await ben.goto(f"{server.url}/?room={room}&name=Ben")
    await expect(bubbles(ben).last).to_have_text("line 129")
    await expect(bubbles(ben).last).to_be_in_viewport()
    # Without the way there: on it they would come by themselves, and the button be gone.
    await ben.get_by_role("button", name="Show earlier messages").dispatch_event("click")
    await expect(bubbles(ben)).to_have_text([f"line {number}" for number in range(130)])
    await expect(ben.locator("#log .day")).to_have_text(["Today"])
    await ben.reload()
    await expect(bubbles(ben).last).to_have_text("line 129")
    await ben.get_by_role("button", name="Leave room").click()
    assert await ben.evaluate("location.search") == ""


async def test_the_invitation_names_the_room_and_nobody(server, enter, open_page, room):
    context = {"permissions": ["clipboard-read", "clipboard-write"]}
    ada = await enter(server.url, "Ada", room, **context)
    await ada.get_by_role("button", name="Invite").click()
    await expect(ada.get_by_role("button", name="Link copied")).to_be_visible()
    link = await ada.evaluate("navigator.clipboard.readText()")
    guest = await open_page()
    await guest.goto(link)
    await expect(guest.get_by_label("Room")).to_have_value(room)
    await expect(guest.get_by_label("Your name")).to_have_value("")


async def test_who_may_not_enter_is_told_and_may_choose_another_name(serve, enter, open_page, room):
    running = serve(max_connections_per_user=1, **QUICK)
    await enter(running.url, "Ada", room)
    page = await open_page()
    await page.goto(f"{running.url}/?room={room}&name=Ada")
    await expect(page.locator("#banner")).to_contain_text("as many connections open as it may have")
    await page.get_by_role("button", name="Choose another name").click()
    await page.get_by_label("Your name").fill("Ben")
    await page.get_by_role("button", name="Enter").click()
    await expect(page.locator("#members .who")).to_have_text(["Ben", "Ada"])


async def test_a_token_in_the_fragment_lets_one_in(serve, open_page, room):
    running = serve(jwt_secret=SECRET)
    token = jwt.encode({"sub": "Ada", "exp": time.time() + 3600}, SECRET, algorithm="HS256")
    page = await open_page()
    await page.goto(f"{running.url}/?room={room}&name=Ada#token={token}")
    await expect(page.locator("#members .who")).to_have_text(["Ada"])
    stranger = await open_page()
    await stranger.goto(f"{running.url}/?room={room}&name=Eve#token={token}x")
    await expect(stranger.locator("#banner")).to_be_visible()
    await expect(stranger.locator("#members .who")).to_have_count(0)


async def test_someone_who_types_is_shown_until_the_message_is_there(server, enter, room):
    ada, ben = await enter(server.url, "Ada", room), await enter(server.url, "Ben", room)
    await ben.get_by_label("Message", exact=True).press_sequentially("hel")
    await expect(ada.locator("#typing")).to_have_text("Ben is typing…")
    await say(ben, "hello")
    await expect(bubbles(ada)).to_have_text(["hello"])
    await expect(ada.locator("#typing")).to_have_text("")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_stands_out_from_its_ground(server, enter, room, scheme):
    ada = await enter(server.url, "Ada", room, color_scheme=scheme)
    ben = await enter(server.url, "Ben", room, color_scheme=scheme)
    await say(ada, "hello")
    await say(ben, "hi")
    await expect(bubbles(ada)).to_have_count(2)
    faint = await ada.evaluate(CONTRAST)
    assert faint == []


# WCAG 2.2, 1.4.3: text has at least 4.5 times the luminance of its ground, or the other way round.
CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color[3] > 250) return color;
    }
    return [255, 255, 255];
  };
  const luminance = ([r, g, b]) => {
    const part = (value) => value <= 10 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const faint = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    const style = getComputedStyle(node);
    if (!texts.currentNode.data.trim() || !node.checkVisibility({ checkOpacity: true })) continue;
    if (node.closest("script, style, noscript, :disabled, .hash")) continue;
    const [a, b] = [luminance(rgb(style.color)), luminance(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${node.tagName}.${node.className} ${texts.currentNode.data} ${ratio}`);
  }
  return faint;
}"""
