"""Messages folded from pushes, and texts made of entities: the rules, without a server's help."""

import pytest

FOLD = 'const { Window, shownOf, change } = await import("/fold.js");'


@pytest.fixture
def module(server, open_page):
    async def go(body: str, *values: object):
        page = await open_page()
        await page.goto(f"{server.url}/")
        return await page.evaluate(f"async (values) => {{ {body} }}", list(values))

    return go


async def test_a_window_has_each_message_once_and_in_order(module):
    assert await module(
        FOLD
        + """
        const said = (id, text) =>
          ({ type: "chat_message", room: "chat:a", from: "al", content: { id, text } });
        const window = new Window("me", 4);
        for (const id of ["3", "4", "4"]) window.take(said(id, id));
        window.before([shownOf(said("2", "2")), shownOf(said("3", "3"))], true);
        const first = window.list.map(({ id }) => id);
        window.take(said("1", "too early: further up"));
        for (const id of ["5", "7", "6"]) window.take(said(id, id));
        return [first, window.list.map(({ id }) => id), window.more];
        """
    ) == [["2", "3", "4"], ["4", "5", "6", "7"], True]


async def test_our_own_reaction_counts_once_however_often_it_is_told(module):
    assert await module(
        FOLD
        + """
        const reactions = { "👍": { count: 1, mine: true } };
        const message = shownOf({ from: "al", content: { id: "1", text: "x", reactions } });
        const react = (user, emoji, remove = false) =>
          change(message, { type: "chat_react", content: { id: "1", emoji, user, remove } }, "me");
        const told = [react("me", "👍"), react("al", "👍"), react("me", "👍", true), react("me", "👍", true)];
        react("al", "__proto__");
        return [told, message.reactions["👍"], Object.hasOwn(message.reactions, "__proto__")];
        """
    ) == [[False, True, True, False], {"count": 1, "mine": False}, True]


@pytest.mark.parametrize(
    "content", [None, 7, "text", [], {"text": 5, "entities": "no", "attachments": {}, "reactions": []}, {}]
)
async def test_a_message_of_any_form_can_be_shown(module, content):
    text = await module(FOLD + "return shownOf({ offset: 1, epoch: 'e', content: values[0] }).text;", content)
    assert text == ""


@pytest.mark.parametrize(
    ("text", "entities", "html"),
    [
        ("plain <b>", [], "plain &lt;b&gt;"),
        ("**bold** it", [["bold", 0, 8]], "<strong>bold</strong> it"),
        ("**a *b* c**", [["bold", 0, 11], ["italic", 4, 7]], "<strong>a <em>b</em> c</strong>"),
        ("😀 `<i>`", [["code", 2, 7]], "😀 <code>&lt;i&gt;</code>"),
        ("```js\n<x>\n```", [["code_block", 0, 13]], '<pre tabindex="0">&lt;x&gt;</pre>'),
        ("> one\n> two\nno", [["quote", 0, 11]], "<blockquote>one\ntwo</blockquote>no"),
        ("@me hi", [["mention", 0, 3, {"user": "me"}]], '<span class="mention mine">@me</span> hi'),
        ("@{A b}", [["mention", 0, 6, {"user": "A b"}]], '<span class="mention">@A b</span>'),
        ("javascript:x", [["url", 0, 12, {"url": "javascript:x"}]], "javascript:x"),
        ("x", [["url", 0, 1, {"url": "data:text/html,x"}]], "x"),
        ("out", [["bold", 0, 99], ["bold", -1, 2], ["bold", 2, 1], ["unheard", 0, 3]], "out"),
        ("crossed", [["bold", 0, 6], ["italic", 3, 7]], "<strong>os</strong>d"),
    ],
)
async def test_entities_become_elements_and_text_stays_text(module, text, entities, html):
    shaped = [
        dict(kind=kind, **{"from": a, "to": b}, **(more[0] if more else {})) for kind, a, b, *more in entities
    ]
    assert (
        await module(
            """
        const { formatted } = await import("/format.js");
        const node = document.createElement("p");
        node.append(...formatted(values[0], values[1], "me"));
        return node.innerHTML;
        """,
            text,
            shaped,
        )
        == html
    )


async def test_links_lead_out_without_telling_where_from(module):
    assert await module(
        """
        const { formatted } = await import("/format.js");
        const url = "https://example.org/a?b=1";
        const [link] = formatted(url, [{ kind: "url", from: 0, to: url.length, url }], "me");
        return [link.href, link.rel, link.target];
        """
    ) == ["https://example.org/a?b=1", "noopener noreferrer nofollow", "_blank"]
