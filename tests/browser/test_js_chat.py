"""The SDK's `Chat` against a real server with a store: rooms, and conversations folded from what they say."""

from tests.browser.chat import RunChat, keeping, run_chat
from tests.browser.conftest import restart

__all__ = ["keeping", "run_chat"]  # fixtures


async def test_a_server_with_a_store_is_told_from_one_without(run_chat: RunChat, server, open_page):
    assert await run_chat("return (await come('al')).kept;") is True
    page = await open_page()
    await page.goto(f"{server.url}/")
    plain = await page.evaluate(
        """async (url) => {
          const { connect } = await import("/realtime.js");
          const { Chat } = await import("/chat.js");
          const client = connect(url, { user: "al" });
          const chat = new Chat(client);
          await client.ready;
          const kept = await chat.refresh();
          const room = await chat.open("chat:plain");
          await room.send("hello").sent;
          await new Promise((resolve) => {
            const look = () => room.window.list.length && resolve();
            room.on("change", look);
            look();
          });
          client.close();
          return [kept, chat.kept, room.plain, room.window.list.map(({ text }) => text)];
        }""",
        server.ws_url,
    )
    assert plain == [False, False, True, ["hello"]]


async def test_two_members_see_one_conversation(run_chat: RunChat):
    assert await run_chat(
        """
        const [al, bo] = [await come("al"), await come("bo")];
        const { room: name } = await al.create({ title: "Plans", visibility: "private", members: ["bo"] });
        const [here, there] = [await al.open(name), await bo.open(name)];
        await here.send("one").sent;
        await there.send("two").sent;
        await until(() => here.window.list.length === 2); // an ack says nothing of what is pushed
        await here.send("three", { replyTo: here.window.list[0].id }).sent;
        await until(() => here.window.list.length === 3 && there.window.list.length === 3);
        return [texts(here), texts(there), here.pending.length,
          there.window.last.reply_to === there.window.first.id,
          here.title, there.about.visibility, here.role, there.role];
        """
    ) == [["one", "two", "three"], ["one", "two", "three"], 0, True, "Plans", "private", "owner", "member"]


async def test_edits_reactions_pins_and_deletions_are_folded_and_found_the_same_when_one_comes_later(
    run_chat: RunChat,
):
    live, later = await run_chat(
        """
        const [al, bo] = [await come("al"), await come("bo")];
        const { room: name } = await al.create({ title: "Fold", visibility: "private", members: ["bo"] });
        const [here, there] = [await al.open(name), await bo.open(name)];
        for (const text of ["first", "second", "third"]) await here.send(text).sent;
        await until(() => there.window.list.length === 3);
        const [first, second, third] = there.window.list.map(({ id }) => id);
        await here.edit(first, "first, **better**");
        await there.react(second, "👍");
        await here.react(second, "👍");
        await here.react(second, "🎉");
        await here.react(second, "🎉", false);
        await here.pin(second);
        await here.remove(third);
        await there.send("in a thread", { thread: second }).sent;
        const told = (room) => room.window.list.map((one) => [one.text, Boolean(one.edited_at), one.deleted,
          one.pinned, one.reactions, one.replies, one.thread === second]);
        await until(() => there.window.last.text === "in a thread" && there.window.get(third).deleted);
        const live = told(there);
        await bo.close(name);
        return [live, told(await bo.open(name))];
        """
    )
    assert live == [
        ["first, **better**", True, False, False, {}, 0, False],
        ["second", False, False, True, {"👍": {"count": 2, "mine": True}}, 1, False],
        ["", False, True, False, {}, 0, False],
        ["in a thread", False, False, False, {}, 0, True],
    ]
    assert later == live


async def test_history_is_paged_and_a_message_is_shown_among_those_around_it(run_chat: RunChat):
    first, whole, around, down, end = await run_chat(
        """
        const al = await come("al", { page: 10, windowLimit: 30 });
        const writing = await al.open("chat:long");
        const ids = [];
        for (let number = 0; number < 60; number++) ids.push((await writing.send(`line ${number}`).sent).id);
        await al.close("chat:long");
        const room = await al.open("chat:long");
        const shown = ({ window } = room) => [window.first.text, window.last.text, window.more, window.live];
        const first = shown();
        await room.older();
        await room.older();
        await room.older();
        const whole = shown();
        await room.around(ids[5]);
        const around = [shown(), Boolean(room.window.get(ids[5]))];
        await room.newer();
        const down = shown();
        await room.newest();
        return [first, whole, around, down, shown()];
        """
    )
    assert first == ["line 50", "line 59", True, True]
    assert whole == ["line 20", "line 49", True, False]  # a window of thirty: the newest made room
    assert around == [["line 1", "line 10", True, False], True]
    assert down == ["line 1", "line 20", True, False]
    assert end == ["line 50", "line 59", True, True]


async def test_what_nobody_looks_at_is_unread_until_it_is_read_on_any_device(run_chat: RunChat):
    assert await run_chat(
        """
        const [al, bo] = [await come("al"), await come("bo")];
        const { room: name } = await al.create({ title: "Unread", visibility: "private", members: ["bo"] });
        const [here, there] = [await al.open(name), await bo.open(name)];
        const desk = await come("bo");
        const atDesk = await desk.open(name);
        await here.send("hello").sent;
        await here.send("@bo, are you there?").sent;
        await until(() => there.about.unread === 2 && atDesk.about.unread === 2);
        await until(() => there.window.list.length === 2);
        const counted = [there.about.unread, there.about.mentions];
        there.read(there.window.last.id);
        await until(() => atDesk.about.unread === 0);
        await until(() => here.readersOf(here.window.last).length === 1);
        await bo.refresh();
        return [counted, there.about.unread, bo.mine.get(name).unread, here.readersOf(here.window.last)];
        """
    ) == [[2, 1], 0, 0, ["bo"]]


async def test_what_was_not_acknowledged_is_sent_again_after_a_reload_and_kept_once(
    run_chat: RunChat, keeping
):
    await run_chat("await (await (await come('al')).open('chat:later')).send('before').sent;")
    await restart(keeping, kill=True)
    texts = await run_chat(
        """
        const kept = new Map();
        const storage = {
          getItem: (name) => kept.get(name) ?? null,
          setItem: (name, value) => kept.set(name, value),
          removeItem: (name) => kept.delete(name),
        };
        const outbox = () => new Outbox("al", storage);
        const first = await come("al", { outbox: outbox() });
        const room = await first.open("chat:later");
        const { key } = room.send("kept, and its answer lost");
        const copy = new Map(kept);
        await room.pending[0]?.sent;
        first.client.close();
        for (const [name, value] of copy) kept.set(name, value); // as if the page had ended before the answer
        const second = await come("al", { outbox: outbox() });
        const again = await second.open("chat:later");
        await until(() => again.pending.length === 0);
        const had = [...copy.values()].some((value) => value.includes(key));
        return [texts(again), outbox().entries.length, had];
        """
    )
    assert texts == [["before", "kept, and its answer lost"], 0, True]


async def test_a_private_room_is_closed_to_strangers_in_the_words_of_one_that_there_is_not(run_chat: RunChat):
    hidden, absent = await run_chat(
        """
        const [al, eve] = [await come("al"), await come("eve")];
        const { room: name } = await al.create({ title: "Hidden", visibility: "private" });
        const words = (promise) =>
          promise.then(() => "no failure", (error) => `${error.code}: ${error.message}`);
        const ask = async (room) => [await words(eve.open(room)), await words(eve.ask("chat_room", {}, room)),
          await words(eve.ask("chat_history", {}, room)), await words(eve.ask("chat_members", {}, room))];
        return [await ask(name), await ask("chat:~0123456789abcdef01234567")];
        """
    )
    assert hidden == absent
    assert "no failure" not in hidden


async def test_who_types_is_told_and_told_no_more_when_the_message_is_there(run_chat: RunChat):
    assert await run_chat(
        """
        const [al, bo] = [await come("al"), await come("bo")];
        const [here, there] = [await al.open("chat:typing"), await bo.open("chat:typing")];
        there.type();
        await until(() => here.typists.length === 1);
        const before = here.typists;
        await there.send("there").sent;
        await until(() => here.window.list.length === 1 && here.typists.length === 0);
        return [before, here.typists];
        """
    ) == [["bo"], []]


async def test_invitations_and_direct_rooms(run_chat: RunChat):
    assert await run_chat(
        """
        const [al, bo] = [await come("al"), await come("bo")];
        const { room: name } = await al.create({ title: "By invitation", visibility: "private" });
        const room = await al.open(name);
        await room.invite("bo");
        await until(() => bo.invited.length === 1); // told, not asked
        const [{ title, by }] = bo.invited;
        await bo.accept(name);
        const [one, other] = [await al.direct(["bo"]), await bo.direct(["al"])];
        await bo.refresh();
        const { role } = bo.mine.get(name);
        return [title, by, bo.invited.length, role, one === other, bo.mine.get(one).users.sort()];
        """
    ) == ["By invitation", "al", 0, "member", True, ["al", "bo"]]
