"""The chat on the page, end to end: people in a browser, a real server, its store in a file."""

import asyncio
import io
import re
from pathlib import Path
from urllib.parse import urlparse

from PIL import Image
from playwright.async_api import Page, expect

from tests.browser.chat import bubbles, choose, create_room, go_to, keeping, message, text_box
from tests.browser.conftest import Enter, restart, say
from tests.conftest import Server

__all__ = ["keeping"]  # fixture


def picture() -> bytes:
    """A small PNG."""
    drawn = io.BytesIO()
    Image.linear_gradient("L").resize((320, 240)).save(drawn, "PNG")
    return drawn.getvalue()


async def shown(page: Page) -> list[str]:
    """What a page shows of the conversation, in order."""
    return await bubbles(page).all_inner_texts()


class Talk:
    """Two people in one room, and all that they have sent."""

    def __init__(self, ada: Page, ben: Page) -> None:
        self.ada = ada
        self.ben = ben
        self.pages = (ada, ben)
        self.sent: list[str] = []

    async def tell(self, page: Page, text: str) -> None:
        await say(page, text)
        self.sent.append(text)

    async def both_have_all(self) -> None:
        for page in self.pages:
            await expect(bubbles(page)).to_have_count(len(self.sent))
            await expect(page.locator("#pending li")).to_have_count(0)


async def type_and_read(talk: Talk) -> None:
    """Typing is shown until the message is there; read is what the other has on the screen."""
    ada, ben = talk.pages
    await talk.tell(ada, "Who brings the cake?")
    await expect(bubbles(ben)).to_have_text(talk.sent)
    await text_box(ben).press_sequentially("I b")
    await expect(ada.locator("#typing")).to_have_text("Ben is typing…")
    await talk.tell(ben, "I bring the cake")
    await expect(bubbles(ada)).to_have_text(talk.sent)
    await expect(ada.locator("#typing")).to_have_text("")
    await talk.tell(ada, "Chocolate, please")
    await expect(ada.locator("#seen")).to_have_text("Seen by Ben")
    await go_to(ben, "lobby")
    await talk.tell(ada, "With elderberries")
    room = ben.locator("#nav-lists button", has_text="Release party")
    await expect(room.locator(".badge")).to_contain_text("1")
    await expect(ada.locator("#seen")).to_have_text("")
    await go_to(ben, "Release party")
    await expect(ada.locator("#seen")).to_have_text("Seen by Ben")


async def attach(talk: Talk) -> None:
    """Files are sent, seen small and large, and fetched as they were."""
    ada, ben = talk.pages
    recipe = b"elderberries, sugar\n" * 50_000
    await ada.locator("#composer input[type=file]").set_input_files(
        [
            {"name": "cake.png", "mimeType": "image/png", "buffer": picture()},
            {"name": "recipe.txt", "mimeType": "text/plain", "buffer": recipe},
        ]
    )
    await expect(ada.locator('.chip[data-state="done"]')).to_have_count(2)
    await talk.tell(ada, "Like this one")
    for page in talk.pages:
        await expect(page.locator("#log .picture img")).to_have_js_property("complete", True)
        await expect(page.locator("#log .picture img")).not_to_have_js_property("naturalWidth", 0)
    assert await fetched(ben, "recipe.txt") == recipe
    await ben.get_by_role("button", name="Open cake.png").click()
    large = ben.get_by_role("dialog", name="cake.png").locator("img")
    await expect(large).not_to_have_js_property("naturalWidth", 0)
    await ben.keyboard.press("Escape")


async def fetched(page: Page, name: str) -> bytes:
    """The bytes of a file, by its button."""
    async with page.expect_download() as downloading:
        await page.get_by_role("button", name=name).click()
    path = await (await downloading.value).path()
    return await asyncio.to_thread(Path(path).read_bytes)


async def survive(talk: Talk, server: Server) -> None:
    """The server is killed; what is written meanwhile waits, and all goes on where it was."""
    ada, ben = talk.pages
    await asyncio.to_thread(server.kill)
    for page in talk.pages:
        await expect(page.locator("#banner")).to_contain_text("What you write is sent when it is back")
    await talk.tell(ada, "Is anybody there?")
    await expect(ada.locator("#pending .state")).to_have_text(["Waiting for the connection"])
    await talk.tell(ben, "I am, but alone")
    await expect(ben.locator("#pending li")).to_have_count(1)
    await asyncio.to_thread(server.start)
    for page in talk.pages:
        await expect(page.locator("#status")).to_have_attribute("data-state", "online")
    await talk.both_have_all()
    await talk.tell(ben, "Now we are back")
    await talk.tell(ada, "And nothing is lost")
    await talk.both_have_all()


async def find(page: Page, words: str, where: str) -> None:
    """Find a message, and be led to it."""
    await page.get_by_role("button", name="Search", exact=True).click()
    await page.get_by_label("Search messages").fill(words)
    await page.keyboard.press("Enter")
    await expect(page.locator(".cards mark")).to_have_text([words])
    await page.locator(".card-message").click()
    await expect(message(page, where)).to_be_focused()
    await expect(message(page, where)).to_be_in_viewport()


async def test_two_people_in_a_private_room_lose_nothing_though_the_server_is_killed(
    keeping: Server, enter: Enter, open_page
):
    talk = Talk(await enter(keeping.url, "Ada"), await enter(keeping.url, "Ben"))
    ada, ben = talk.pages
    await create_room(ada, "Release party", "Ben")
    await go_to(ben, "Release party")  # it is in the list without a reload
    await type_and_read(talk)
    await attach(talk)
    await survive(talk, keeping)
    # What both screens show is what was sent, in one order, in which each one's own is in theirs.
    screen = await shown(ada)
    assert await shown(ben) == screen
    assert sorted(screen) == sorted(talk.sent)
    for page in talk.pages:
        own = await page.locator("#log .message.own .bubble").all_inner_texts()
        assert own == [text for text in talk.sent if text in own]
    await find(ben, "elderberries", "With elderberries")
    await find(ben, "alone", "I am, but alone")
    # Whoever comes later has the same, and who is no member has nothing.
    await ben.reload()
    await expect(bubbles(ben)).to_have_text(screen)
    await expect(ben.locator("#log .picture img")).not_to_have_js_property("naturalWidth", 0)
    eve = await open_page()
    await eve.goto(f"{keeping.url}/?name=Eve&{urlparse(ada.url).query.split('&')[0]}")
    await expect(eve.locator("#banner")).to_be_visible()
    assert not await eve.locator("#log .message").count()
    assert "Release party" not in await eve.locator("body").inner_text()


async def test_what_waits_to_be_sent_outlives_the_page(keeping: Server, enter: Enter):
    ada, ben = await enter(keeping.url, "Ada"), await enter(keeping.url, "Ben")
    await say(ada, "before")
    await expect(bubbles(ben)).to_have_text(["before"])
    await asyncio.to_thread(keeping.kill)
    await expect(ada.locator("#banner")).to_be_visible()
    await say(ada, "written offline")
    await expect(ada.locator("#pending li")).to_have_count(1)
    await ada.goto("about:blank")
    await restart(keeping)
    await ada.go_back()
    for page in (ada, ben):
        await expect(bubbles(page)).to_have_text(["before", "written offline"])
    await expect(ada.locator("#pending li")).to_have_count(0)


async def test_messages_are_edited_deleted_answered_and_reacted_to(keeping: Server, enter: Enter):
    ada, ben = await enter(keeping.url, "Ada"), await enter(keeping.url, "Ben")
    await say(ada, "first of all")
    await say(ada, "mistaken")
    await expect(bubbles(ben)).to_have_count(2)
    await choose(ada, "first of all", "Edit")
    await text_box(ada).fill("first of **all**")
    await text_box(ada).press("Enter")
    await expect(message(ben, "first of all").locator("strong")).to_have_text("all")
    await expect(message(ben, "first of all").locator(".marks")).to_contain_text("edited")
    await message(ben, "first of all").get_by_role("button", name="edited").click()
    await expect(ben.get_by_role("dialog").locator(".edit-text")).to_have_text(["first of all"])
    await ben.keyboard.press("Escape")
    await choose(ben, "first of all", "React 👍")
    await expect(message(ada, "first of all").locator(".reaction")).to_have_text("👍1")
    await message(ada, "first of all").locator(".reaction").click()
    await expect(message(ben, "first of all").locator(".reaction")).to_have_text("👍2")
    await expect(message(ada, "first of all").locator(".reaction")).to_have_attribute("aria-pressed", "true")
    await choose(ben, "first of all", "Reply")
    await say(ben, "and then?")
    await expect(message(ada, "and then?").locator(".quote")).to_contain_text("first of all")
    await choose(ada, "mistaken", "Delete")
    await ada.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(ben.locator(".bubble.gone")).to_have_text("This message was deleted.")
    await choose(ben, "first of all", "Reply in thread")
    await ben.get_by_label("Reply in thread").fill("aside")
    await ben.get_by_label("Reply in thread").press("Enter")
    await expect(ben.locator(".thread .bubble")).to_have_text(["first of all", "aside"])
    await message(ada, "first of all").get_by_role("button", name="1 reply").click()
    await expect(ada.locator(".thread .bubble")).to_have_text(["first of all", "aside"])
    later = await enter(keeping.url, "Cy")
    await expect(bubbles(later)).to_have_text(await shown(ada))


async def test_earlier_messages_come_as_one_scrolls_and_the_page_stays_small(keeping: Server, enter: Enter):
    ada = await enter(keeping.url, "Ada", "long")
    await ada.evaluate(
        """async () => {
          const { connect } = await import("/realtime.js");
          const client = connect(location.origin.replace("http", "ws") + "/ws", { user: "Cy" });
          const room = await client.join("chat:long");
          for (let number = 0; number < 600; number += 20) {
            await Promise.all(Array.from({ length: 20 }, (_, each) =>
              room.publish("chat_message", { text: `line ${number + each}` })));
          }
          client.close();
        }"""
    )
    await expect(bubbles(ada).last).to_have_text("line 599")
    await ada.reload()
    await expect(bubbles(ada).last).to_be_in_viewport()
    first = int((await bubbles(ada).first.inner_text()).removeprefix("line "))
    assert first >= 500
    # What one looks at stays where it is while earlier messages come above it.
    moved = await ada.evaluate(
        """async () => {
          const scroller = document.getElementById("scroller");
          const first = document.querySelector("#log .message");
          scroller.scrollTop = 100;
          const before = first.getBoundingClientRect().top;
          await new Promise((resolve) => new MutationObserver((_, seen) => {
            if (document.querySelector("#log .message") === first) return;
            seen.disconnect();
            resolve();
          }).observe(document.querySelector("#log ol"), { childList: true }));
          await new Promise(requestAnimationFrame);
          return Math.abs(first.getBoundingClientRect().top - before);
        }"""
    )
    assert moved < 2
    await ada.evaluate(
        """() => new Promise((resolve) => {
          const scroller = document.getElementById("scroller");
          const up = () => {
            const first = document.querySelector("#log .bubble").textContent;
            if (first === "line 0") return resolve();
            scroller.scrollTop = scroller.scrollTop > 10 ? 0 : 20;
            requestAnimationFrame(up);
          };
          up();
        })"""
    )
    assert await bubbles(ada).count() <= 400
    await expect(ada.get_by_role("button", name="To the newest messages")).to_be_visible()
    await ada.get_by_role("button", name="To the newest messages").click()
    await expect(bubbles(ada).last).to_have_text("line 599")
    await expect(bubbles(ada).last).to_be_in_viewport()


async def test_rooms_are_found_joined_set_and_left(keeping: Server, enter: Enter):
    ada, ben = await enter(keeping.url, "Ada"), await enter(keeping.url, "Ben", "elsewhere")
    await create_room(ada, "Gardening", private=False)
    await ben.get_by_role("button", name="New conversation").click()
    await ben.get_by_role("menuitem", name="Browse public rooms").click()
    await ben.get_by_role("dialog").get_by_label("Find").fill("garden")
    await ben.get_by_role("dialog").get_by_role("button", name=re.compile("Gardening")).click()
    await expect(ben.locator("#room-name")).to_have_text("Gardening")
    await expect(ada.locator("#members .who")).to_have_text(["Ada", "Ben"])
    await ada.get_by_role("button", name="Room settings").click()
    await ada.get_by_role("dialog").get_by_label("Topic").fill("Beans & roses")
    await ada.get_by_role("dialog").get_by_role("button", name="Save").click()
    await expect(ben.locator("#room-sub")).to_have_text("Beans & roses")
    await ada.get_by_role("button", name="Actions for Ben").click()
    await ada.get_by_role("menuitemradio", name="Moderator").click()
    await expect(ben.locator("#members li", has_text="Ben")).to_contain_text("moderator")
    await ben.get_by_role("button", name="Leave room").click()
    await ben.get_by_role("dialog").get_by_role("button", name="Leave").click()
    await expect(ada.locator("#members .who")).to_have_text(["Ada"])
    await expect(ben.locator("#nav-lists button", has_text="Gardening")).to_have_count(0)


async def test_who_is_called_hears_of_it_in_another_room(keeping: Server, enter: Enter):
    ada, ben = await enter(keeping.url, "Ada"), await enter(keeping.url, "Ben")
    await create_room(ada, "Kitchen", "Ben")
    await expect(ben.locator("#nav-lists button", has_text="Kitchen")).to_be_visible()
    await text_box(ada).press_sequentially("Hello @B")
    await expect(ada.get_by_role("listbox", name="Names").get_by_role("option")).to_have_text(["BBen"])
    await text_box(ada).press("Enter")
    await text_box(ada).press_sequentially("the kettle boils")
    await text_box(ada).press("Enter")
    await expect(bubbles(ada)).to_have_text(["Hello @Ben the kettle boils"])
    await expect(ben.locator("#nav-lists .badge.loud")).to_contain_text("@1")
    await ben.get_by_role("button", name="Ada in Kitchen").click()
    await expect(message(ben, "the kettle boils")).to_be_focused()
    await expect(message(ben, "the kettle boils").locator(".mention.mine")).to_have_text("@Ben")


async def test_what_is_said_in_a_room_that_one_was_just_added_to_is_counted_at_once(
    keeping: Server, enter: Enter
):
    ada, ben = await enter(keeping.url, "Ada"), await enter(keeping.url, "Ben")
    await create_room(ada, "Garage", "Ben")
    garage = ben.locator("#nav-lists button", has_text="Garage")
    await expect(garage).to_be_visible()
    await expect(ada.locator("#room-sub")).to_contain_text("Ben")  # who is in it as soon as they know of it
    await say(ada, "It does not start")
    await expect(garage.locator(".badge")).to_contain_text("1")
    await expect(ben).to_have_title(re.compile(r"^\(1\) #lobby"))


async def test_a_status_is_seen_by_others(keeping: Server, enter: Enter):
    ada, ben = await enter(keeping.url, "Ada"), await enter(keeping.url, "Ben")
    await create_room(ada, "Office", "Ben")
    await ben.locator("#me").click()
    await ben.get_by_role("menuitemradio", name="Busy").click()
    await expect(ben.locator("#me-status")).to_have_text("Busy")
    await expect(ada.locator("#members li", has_text="Ben").locator(".avatar")).to_have_attribute(
        "data-status", "busy"
    )


async def test_moderators_hear_of_reports_and_hide_messages(keeping: Server, enter: Enter):
    ada, ben = await enter(keeping.url, "Ada"), await enter(keeping.url, "Ben")
    cy = await enter(keeping.url, "Cy")
    await create_room(ada, "Market", "Ben", "Cy")
    for page in (ben, cy):
        await go_to(page, "Market")
    await say(cy, "buy my wonderful things")
    await choose(ben, "wonderful", "Report")
    await ben.get_by_role("dialog").get_by_label("What is wrong with it").fill("advertising")
    await ben.get_by_role("dialog").get_by_role("button", name="Report").click()
    await expect(ben.get_by_role("dialog")).to_have_count(0)  # the report is there
    await choose(ada, "wonderful", "Reports…")
    await expect(ada.locator(".report-reason")).to_contain_text("advertising")
    await ada.get_by_role("button", name="Hide it").click()
    await expect(ben.locator(".bubble.gone")).to_have_text("A moderator has hidden this message.")
    await message(cy, "A moderator").locator(".bubble").click(button="right")
    await cy.get_by_role("menuitem", name="Appeal").click()
    await cy.get_by_role("dialog").get_by_label("Why it should be shown again").fill("they are wonderful")
    await cy.get_by_role("dialog").get_by_role("button", name="Send").click()
    await expect(cy.get_by_role("dialog")).to_have_count(0)
    await choose(ada, "wonderful", "Reports…")
    await ada.get_by_role("button", name="Show it again").click()
    await expect(bubbles(ben)).to_have_text(["buy my wonderful things"])


async def test_a_file_goes_on_where_it_stopped_when_the_connection_is_back(
    keeping: Server, enter: Enter, open_page
):
    open_page.expected = re.compile("ERR_CONNECTION_RESET")
    ada = await enter(keeping.url, "Ada")
    lost: list[str] = []

    async def break_the_second(route):
        if route.request.method == "PATCH" and route.request.headers["upload-offset"] != "0" and not lost:
            lost.append(route.request.headers["upload-offset"])
            await route.abort("connectionreset")
        else:
            await route.continue_()

    await ada.route("**/chat/uploads/**", break_the_second)
    whole = b"0123456789abcdef" * 600_000  # three chunks
    await ada.locator("#composer input[type=file]").set_input_files(
        [{"name": "large.bin", "mimeType": "application/octet-stream", "buffer": whole}]
    )
    await expect(ada.locator('.chip[data-state="done"]')).to_have_count(1)
    assert lost
    await say(ada, "here it is")
    assert await fetched(ada, "large.bin") == whole
