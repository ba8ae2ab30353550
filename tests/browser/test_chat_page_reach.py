"""The chat for everybody: by keyboard alone, read by a screen reader, in light and dark, on a phone; and what
people write is never markup.
"""

import re
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.browser.chat import bubbles, create_room, go_to, keeping, message, open_menu, text_box
from tests.browser.conftest import Enter, say
from tests.browser.test_page import overflow
from tests.conftest import Server

__all__ = ["keeping"]  # fixture

EVIL = "<img src=x onerror=\"document.title='owned'\">"


async def broken(page: Page, *, but: str = "") -> list[str]:
    """What axe finds wrong with the page as it is: WCAG 2.2 A and AA, and its best practices `but` one."""
    found: Any = await Axe().run(page)
    return [
        f"{rule['id']}: {rule['help']}: {node['html'][:160]}"
        for rule in found.response["violations"]
        if rule["id"] != but
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_wrong_wherever_one_goes(keeping: Server, enter: Enter, scheme: str):
    ada = await enter(keeping.url, "Ada", color_scheme=scheme, reduced_motion="reduce")
    ben = await enter(keeping.url, "Ben")
    await create_room(ada, "Reading room", "Ben")
    await go_to(ben, "Reading room")
    await say(ben, "Hello @Ada, see **this** and `that`: https://example.org/\n> quoted\n```\na block\n```")
    await say(ada, "Hello Ben")
    await expect(bubbles(ada)).to_have_count(2)
    await expect(ada.locator("#seen")).to_have_text("Seen by Ben")
    assert await broken(ada) == []
    await open_menu(ada, "Hello Ben")
    assert await broken(ada, but="region") == []  # a menu that has the focus stands above all landmarks
    await ada.get_by_role("menuitem", name="React 👍").click()
    await expect(ada.locator(".reaction")).to_have_count(1)
    await ada.get_by_role("button", name="Search", exact=True).click()
    await ada.get_by_label("Search messages").fill("hello")
    await ada.keyboard.press("Enter")
    await expect(ada.locator(".card-message")).to_have_count(2)
    assert await broken(ada) == []
    await open_menu(ada, "Hello Ben")
    await ada.get_by_role("menuitem", name="Reply in thread").click()
    await expect(ada.get_by_label("Reply in thread")).to_be_focused()
    assert await broken(ada) == []
    await ada.get_by_role("button", name="New conversation").click()
    await ada.get_by_role("menuitem", name="Create a room").click()
    assert await broken(ada) == []


async def open_and_close_a_dialog(page: Page) -> None:
    """By keyboard; it keeps the focus, and gives it back."""
    await page.locator("#nav-new").focus()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog").get_by_label("Title")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(page.locator("#nav-new")).to_be_focused()


async def test_everything_is_done_by_keyboard(keeping: Server, enter: Enter):
    ada, ben = await enter(keeping.url, "Ada"), await enter(keeping.url, "Ben")
    keys = ada.keyboard
    await say(ben, "Good morning")
    await expect(bubbles(ada)).to_have_count(1)
    # Writing, and editing what was written last.
    await text_box(ada).focus()
    await keys.type("Good mornin")
    await keys.press("Enter")
    for page in (ben, ada):  # to her it comes by itself, so perhaps later than to him
        await expect(bubbles(page)).to_have_text(["Good morning", "Good mornin"])
    await keys.press("ArrowUp")
    await expect(ada.locator(".about-draft")).to_contain_text("Editing your message")
    await expect(text_box(ada)).to_have_value("Good mornin")
    await keys.type("g!")
    await keys.press("Enter")
    for page in (ben, ada):
        await expect(bubbles(page)).to_have_text(["Good morning", "Good morning!"])
    # Back to the messages, to one of them, and a reaction by its menu.
    for _ in range(4):
        await keys.press("Shift+Tab")
        if await ada.evaluate("document.activeElement.classList.contains('message')"):
            break
    await expect(message(ada, "Good morning!")).to_be_focused()
    await keys.press("ArrowUp")
    await expect(ada.locator("#log .message").first).to_be_focused()
    await keys.press("Enter")
    await expect(ada.get_by_role("menuitem", name="React 👍")).to_be_focused()
    await keys.press("ArrowRight")
    await keys.press("Enter")
    for page in (ben, ada):
        await expect(page.locator("#log .message").first.locator(".reaction")).to_have_text("❤️1")
    await expect(ada.locator("#log .message").first).to_be_focused()
    # To the reaction itself, which takes it back, and back to the message.
    await keys.press("ArrowRight")
    await expect(ada.locator(".reaction")).to_be_focused()
    await keys.press("Enter")
    for page in (ben, ada):
        await expect(page.locator(".reaction")).to_have_count(0)
    # A thread, and out of it.
    await ada.locator("#log .message").first.focus()
    await keys.press("Enter")
    await expect(ada.get_by_role("menuitem", name="React 👍")).to_be_focused()
    for _ in range(12):
        if await ada.evaluate("document.activeElement.textContent") == "Reply in thread":
            break
        await keys.press("ArrowDown")
    await keys.press("Enter")
    await expect(ada.get_by_label("Reply in thread")).to_be_focused()
    await keys.type("aside")
    await keys.press("Enter")
    await expect(ada.locator(".thread .bubble")).to_have_text(["Good morning", "aside"])
    await keys.press("Escape")
    await expect(ada.get_by_label("Reply in thread")).to_have_count(0)
    await expect(text_box(ada)).to_be_focused()
    # A search, and a jump to what it finds.
    await keys.press("Control+K")
    await expect(ada.get_by_label("Search messages")).to_be_focused()
    await keys.type("aside")
    await keys.press("Enter")
    await expect(ada.locator(".card-message")).to_have_count(1)
    for _ in range(5):
        await keys.press("Tab")
    await expect(ada.locator(".card-message")).to_be_focused()
    await keys.press("Enter")
    await expect(message(ada, "aside")).to_be_focused()
    await open_and_close_a_dialog(ada)


async def test_names_titles_texts_and_files_are_never_markup(keeping: Server, enter: Enter):
    ada = await enter(keeping.url, EVIL[:32], EVIL[:40])
    ben = await enter(keeping.url, "<b>Ben</b>", EVIL[:40])
    await say(ben, f"{EVIL} @{{{EVIL[:32]}}}")
    await expect(bubbles(ada)).to_have_count(1)
    await create_room(ada, EVIL, "<b>Ben</b>")
    await ada.get_by_role("button", name="Room settings").click()
    await ada.get_by_role("dialog").get_by_label("Topic").fill(EVIL)
    await ada.get_by_role("dialog").get_by_role("button", name="Save").click()
    await go_to(ben, EVIL)
    await expect(ben.locator("#room-sub")).to_have_text(EVIL)
    await ben.locator("#composer input[type=file]").set_input_files(
        [
            {
                "name": EVIL.replace("/", ""),
                "mimeType": "text/html",
                "buffer": b"<script>document.title='owned'</script>",
            }
        ]
    )
    await expect(ben.locator('.chip[data-state="done"]')).to_have_count(1)
    await say(ben, f"**{EVIL}** `{EVIL}` javascript:alert(1) [x](javascript:alert(1)) data:text/html,{EVIL}")
    await expect(ada.locator("#log .file")).to_have_count(1)
    await message(ada, "javascript:").locator(".bubble").click(button="right")
    await ada.get_by_role("menuitem", name="Reply", exact=True).click()
    await say(ada, EVIL)
    await expect(ben.locator("#log .quote")).to_have_count(1)
    await ben.locator("#me").click()
    await ben.get_by_role("menuitem", name="Status text…").click()
    await ben.get_by_role("dialog").get_by_label("Status text").fill(EVIL)
    await ben.get_by_role("dialog").get_by_role("button", name="Save").click()
    await expect(ada.locator(".member-text")).to_have_text(EVIL)
    await ada.get_by_role("button", name="Search", exact=True).click()
    await ada.get_by_label("Search messages").fill("onerror")
    await ada.keyboard.press("Enter")
    await expect(ada.locator(".card-message")).not_to_have_count(0)
    for page in (ada, ben):
        made = await page.evaluate(
            """() => [...document.querySelectorAll(
                "#chat img, #chat b, #chat script, #chat iframe, [onerror]")]
              .map((node) => node.outerHTML)"""
        )
        assert made == []
        links = await page.locator("#chat a").evaluate_all("links => links.map((link) => link.protocol)")
        assert set(links) <= {"http:", "https:", "mailto:"}
        assert not (await page.title()).startswith("owned")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_of_it_is_wider_than_a_phone(keeping: Server, enter: Enter, scheme: str):
    ada = await enter(keeping.url, "Ada", color_scheme=scheme)
    ben = await enter(
        keeping.url, "Ben", width=360, height=640, color_scheme=scheme, has_touch=True, is_mobile=True
    )
    await create_room(ada, "A room whose name has no end " + "x" * 60, "Ben")
    await ben.get_by_role("button", name=re.compile("Conversations$")).click()
    assert await overflow(ben) <= 0
    await ben.locator("#nav-lists button", has_text="A room whose").click()
    await expect(ben.locator("#room-name")).to_contain_text("A room whose")
    for text in ("x" * 300, "**" + "word " * 50 + "**", "```\n" + "y" * 200 + "\n```", "> " + "z" * 200):
        await say(ada, text.replace(" **", "**"))
    await expect(bubbles(ben)).to_have_count(4)
    await message(ben, "zzz").tap()
    await ben.get_by_role("menuitem", name="React 👍").tap()
    await expect(ben.locator(".reaction")).to_have_count(1)
    assert await overflow(ben) <= 0
    await message(ben, "word").tap()
    await ben.get_by_role("menuitem", name="Reply in thread").tap()
    await expect(ben.get_by_label("Reply in thread")).to_be_visible()
    assert await overflow(ben) <= 0
    await ben.get_by_role("button", name="Close thread").tap()
    await ben.get_by_role("button", name="Search", exact=True).tap()
    await expect(ben.get_by_label("Search messages")).to_be_visible()
    assert await overflow(ben) <= 0
