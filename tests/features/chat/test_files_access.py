"""Who may have attachments, and what is tried against their URLs and bytes."""

import asyncio
import base64
import contextlib
import io
import os
import socket
import time
import urllib.parse
import zipfile

import msgspec
import pytest
import pytest_asyncio

from realtime.features.chat.files import tickets
from realtime.features.chat.files.names import clean_name, disposition
from realtime.features.chat.files.sniffing import HEAD_BYTES, sniff
from realtime.features.chat.files.tickets import FileTicket, Tickets, UploadTicket
from tests.edge.peer import PATIENCE_S, metric
from tests.features.chat.rooming import Person
from tests.features.chat.uploader import (
    PATCH,
    SECRET,
    TUS,
    begin_patch,
    http_ask,
    offset_of,
    patch,
    peer,
    until,
)

NO_ID = "5" * 19


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def start(request, serve, tmp_path):
    settings = {"chat_files_path": str(tmp_path / "files"), "chat_url_secret": SECRET}
    if request.param == "sqlite":
        settings["sqlite_path"] = str(tmp_path / "rooms.sqlite")
    else:
        settings["postgres_url"] = await request.getfixturevalue("postgres").new_database()
    return lambda **more: serve(**settings | more)


@pytest.fixture
def one(serve, tmp_path):
    settings = {"chat_url_secret": SECRET, "sqlite_path": str(tmp_path / "rooms.sqlite")}
    return lambda **more: serve(**settings | more)


async def private_file(server, alice):
    """A private room of alice's with an attachment; return (room, id)."""
    room = (await alice.do("chat_room_create", title="Secret plans", visibility="private"))["room"]
    await alice.do("join", room)
    begun = await alice.do("chat_upload", room, name="plan.txt", bytes=5)
    url = urllib.parse.urljoin(server.url, begun["url"])
    assert (await asyncio.to_thread(patch, url, 0, b"plans"))[0] == 204
    await alice.do("chat_message", room, text="the plan", attachments=[begun["id"]])
    return room, begun["id"]


async def test_who_is_not_in_a_room_learns_nothing_of_its_files(start):
    server = start()
    alice = await Person.come(server, "alice")
    mallory = await Person.come(server, "mallory")
    room, id = await private_file(server, alice)
    absent = room[:-6] + "000000"
    assert (await alice.do("chat_attachment", id=id))["bytes"] == 5
    answers = {
        await mallory.fail("chat_attachment", place, id=each)
        for each in (id, NO_ID)
        for place in (room, absent, None)
    }
    assert answers == {("forbidden", "there is no such attachment, or none that you may read")}
    answers = {await mallory.fail("chat_upload", place, name="a", bytes=1) for place in (room, absent)}
    answers |= {await mallory.fail("chat_upload", place, id=id) for place in (room, absent)}
    assert len(answers) == 1, answers
    # Somebody who comes in may read, and whoever is put out may not any more.
    await alice.do("chat_invite", room, user="bob")
    bob = await Person.come(server, "bob")
    assert await bob.fail("chat_attachment", id=id) in answers | {
        ("forbidden", "there is no such attachment, or none that you may read")
    }
    await bob.do("chat_accept", room)
    found = await bob.do("chat_attachment", id=id)
    url = urllib.parse.urljoin(server.url, found["url"])
    assert (await asyncio.to_thread(http_ask, url))[2] == b"plans"
    await alice.do("chat_remove", room, user="bob")
    assert (await bob.fail("chat_attachment", id=id))[0] == "forbidden"
    assert (await bob.fail("chat_upload", room, name="a", bytes=1))[0] == "forbidden"
    for person in (alice, mallory, bob):
        await person.close()


async def test_readers_and_the_muted_upload_nothing(start):
    server = start()
    alice, bob = await Person.come(server, "alice"), await Person.come(server, "bob")
    room = (await alice.do("chat_room_create", title="News", visibility="public"))["room"]
    await bob.do("chat_enter", room)
    await bob.do("chat_upload", room, name="a", bytes=1)
    await alice.do("chat_mute", room, user="bob", for_s=60)
    assert "muted" in (await bob.fail("chat_upload", room, name="a", bytes=1))[1]
    await alice.do("chat_unmute", room, user="bob")
    await alice.do("chat_role", room, user="bob", role="reader")
    assert "only read" in (await bob.fail("chat_upload", room, name="a", bytes=1))[1]
    await alice.do("chat_room_archive", room, archived=True)
    assert "archived" in (await alice.fail("chat_upload", room, name="a", bytes=1))[1]
    await alice.close()
    await bob.close()


async def test_with_its_message_deleted_or_hidden_a_file_is_not_given_any_more(start):
    server = start()
    async with peer(server) as alice:
        id = await alice.upload("a.txt", b"hello")
        said = await alice.say("here", id)
        url = (await alice.link(id))["url"]
        assert (await alice.ask("chat_delete", id=said["id"]))["type"] == "ack"
        assert (await alice.refused("chat_attachment", id=id))["name"] == "forbidden"
        assert "removed" in (await alice.say("again", id))["content"]["message"]
        # What was given goes on until it expires, or the file goes: minutes, as set.
        assert (await asyncio.to_thread(http_ask, url))[0] == 200


def forged(url, **changed):
    """Return a URL with another ticket in place of its own, the signature left as it is."""
    parts = urllib.parse.urlsplit(url)
    text = urllib.parse.parse_qs(parts.query)["ticket"][0]
    payload, _, signature = text.partition(".")
    told = msgspec.msgpack.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    for at, value in changed.items():
        told[int(at.removeprefix("at"))] = value
    made = base64.urlsafe_b64encode(msgspec.msgpack.encode(told)).rstrip(b"=").decode()
    return urllib.parse.urlunsplit(parts._replace(query=f"ticket={made}.{signature}"))


async def test_urls_that_are_not_ours_open_nothing(one):
    server = one()
    now = int(time.time())
    async with peer(server) as alice:
        id, upload = await alice.begin("a.txt", b"hello")
        other = await alice.upload("b.txt", b"other")
        await alice.say("b", other)
        file = (await alice.link(other))["url"]
        ours, theirs = Tickets(SECRET.encode()), Tickets(b"another secret of thirty-two bytes")
        put = UploadTicket("default", id, 5, now + 60)
        get = FileTicket("default", other, "0" * 64, 5, "a", "text/html", True, now + 60)
        expired_put = UploadTicket("default", id, 5, now - 1)
        expired_get = FileTicket("default", other, "0" * 64, 5, "a", "text/html", True, now - 1)
        tries = [
            (403, "HEAD", theirs.url(put)),
            (403, "GET", theirs.url(get)),
            (410, "HEAD", ours.url(expired_put)),
            (410, "GET", ours.url(expired_get)),
            (403, "HEAD", upload.replace(id, other)),
            (403, "GET", file.replace(other, id)),
            (403, "GET", upload.replace("/uploads/", "/files/")),
            (403, "HEAD", file.replace("/files/", "/uploads/")),
            (403, "HEAD", forged(upload, at3=10**9)),
            (403, "GET", forged(file, at1="acme")),
            (403, "GET", forged(file, at6="text/html")),
            (403, "GET", file[:-1] + ("A" if file[-1] != "A" else "B")),
            (403, "GET", file + "A"),
            (403, "GET", file + "&ticket=x"),
            (403, "GET", f"/chat/files/{other}"),
            (403, "GET", f"/chat/files/{other}?ticket="),
            (403, "GET", f"/chat/files/{other}?ticket={'A' * 5000}"),
            (403, "GET", f"/chat/files/{other}?ticket=%00.%00"),
            (404, "GET", "/chat/files/..%2f..%2fetc%2fpasswd"),
            (404, "GET", "/chat/files/"),
            (404, "GET", "/chat/"),
            (404, "GET", "/chat"),
            (404, "GET", f"/chat/files/{'٣' * 19}".encode().decode("latin-1")),
            (404, "GET", ours.url(get)),  # of a file that there is not
            (405, "DELETE", file),
            (405, "POST", file),
            (405, "GET", upload),
        ]

        def ask_all():
            for status, method, url in tries:
                url = urllib.parse.urljoin(
                    server.url, urllib.parse.quote(url, safe="/:?=&%.", encoding="latin-1")
                )
                found = http_ask(url, method, headers=TUS)
                assert found[0] == status, (status, method, url, found)
                assert b"Traceback" not in found[2]

        await asyncio.to_thread(ask_all)
        assert await asyncio.to_thread(offset_of, upload) == 0
        assert (await asyncio.to_thread(http_ask, file))[0] == 200


async def test_pages_of_other_origins_get_no_answer_that_they_can_read(one):
    server = one(allowed_origins="https://app.example.com,https://*.example.org")
    url = urllib.parse.urljoin(
        server.url, Tickets(SECRET.encode()).url(UploadTicket("default", NO_ID, 5, 2**33))
    )
    preflight = {"Access-Control-Request-Method": "PATCH"}
    for origin, allowed in [
        ("https://app.example.com", True),
        ("https://a.example.org", True),
        ("https://evil.example", False),
        ("https://app.example.com.evil.example", False),
        ("null", False),
    ]:
        status, headers, _ = await asyncio.to_thread(
            http_ask, url, "OPTIONS", None, {"Origin": origin} | preflight
        )
        assert status == 204
        assert headers["Access-Control-Allow-Origin"] == (origin if allowed else None)
        assert ("PATCH" in (headers["Access-Control-Allow-Methods"] or "")) == allowed
        assert headers["Access-Control-Allow-Credentials"] is None
        _, headers, _ = await asyncio.to_thread(http_ask, url, "HEAD", None, TUS | {"Origin": origin})
        assert headers["Access-Control-Allow-Origin"] == (origin if allowed else None)
        assert headers["Vary"] == "Origin"


async def test_heads_that_are_too_large_or_nonsense_are_refused(one):
    server = one()
    async with peer(server) as alice:
        _, url = await alice.begin("a.txt", b"hello")
        parts = urllib.parse.urlsplit(url)

        def raw(*lines):
            with socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S) as connection:
                head = f"PATCH {parts.path}?{parts.query} HTTP/1.1\r\nHost: a\r\n" + "".join(
                    f"{x}\r\n" for x in lines
                )
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(head.encode() + b"\r\n")
                    return connection.recv(12)
                return b""

        tus = [f"{name}: {value}" for name, value in PATCH.items()]
        assert await asyncio.to_thread(raw, f"X: {'a' * 20_000}") == b"HTTP/1.1 431"
        twice = [*tus, "Upload-Offset: 0", "Upload-Offset: 0", "Content-Length: 0"]
        assert await asyncio.to_thread(raw, *twice) == b"HTTP/1.1 400"
        both = [*tus, "Upload-Offset: 0", "Content-Length: 5", "Transfer-Encoding: chunked"]
        assert (await asyncio.to_thread(raw, *both))[:10] == b"HTTP/1.1 4"
        huge = [*tus, "Upload-Offset: 0", "Content-Length: 99999999999999"]
        assert await asyncio.to_thread(raw, *huge) == b"HTTP/1.1 413"
        assert await asyncio.to_thread(offset_of, url) == 0


async def test_uploads_that_hang_are_bounded_and_others_go_on(one):
    server = one()
    async with peer(server) as alice:
        _, url = await alice.begin("slow.bin", b"x" * 100)
        with begin_patch(url, 0, 100, b"x"):
            await until(lambda: metric(server, "chat_uploads_running"))
            assert await alice.upload("quick.bin", b"quick")
            assert server.stop() == 0  # what hangs does not hold up the end
    server.start()
    assert await asyncio.to_thread(offset_of, url) == 1


async def test_a_zip_bomb_stays_shut(one):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("zeros", bytes(20_000_000))
    server = one()
    async with peer(server) as alice:
        id = await alice.upload("bomb.zip", written.getvalue())
        await alice.say("boom", id)
        found = await alice.link(id)
        assert (found["type"], found["bytes"]) == ("application/zip", len(written.getvalue()))


async def test_without_a_place_uploads_are_refused_and_the_rest_works(serve, tmp_path):
    server = serve(sqlite_path=str(tmp_path / "rooms.sqlite"), chat_files_path="")
    async with peer(server) as alice:
        assert "keeps no attachments" in (await alice.refused("chat_upload", name="a", bytes=1))["message"]
        assert "keeps no attachments" in (await alice.refused("chat_attachment", id=NO_ID))["message"]
        assert "offset" in await alice.say("hello")
        assert (await alice.say("hello", NO_ID))["content"]["name"] in ("bad_message", "forbidden")


async def test_sealed_rooms_take_no_attachments(serve, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rooms]]\nrooms = ["chat:sealed"]\nend_to_end = true\n')
    server = serve(sqlite_path=str(tmp_path / "rooms.sqlite"), policy_path=str(policy))
    async with peer(server, room="chat:sealed") as alice:
        assert "sealed" in (await alice.refused("chat_upload", name="a", bytes=1))["message"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.txt", "a.txt"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\x\\..\\y.doc", "y.doc"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("a\r\nSet-Cookie: x=1", "aSet-Cookie: x=1"),
        ("a\0b", "ab"),
        ("  a  ", "a"),
        (".htaccess", ".htaccess"),
        ("e\u0301", "\u00e9"),
        ('x"; filename="evil.html', 'x"; filename="evil.html'),
    ],
)
def test_names_are_kept_without_what_misleads(given, kept):
    assert clean_name(given) == kept
    told = disposition(kept, inline=False)
    assert "\r" not in told
    assert "\n" not in told
    assert told.isascii()
    assert told.count('"') == 2


def test_a_ticket_is_for_one_thing():
    made = Tickets(b"x" * 32)
    ticket = UploadTicket("default", NO_ID, 5, 100)
    url = made.url(ticket, "https://files.example.com")
    assert url.startswith(f"https://files.example.com{tickets.UPLOADS}{NO_ID}?ticket=")
    text = url.partition("=")[2]
    assert made.read_upload(text, NO_ID, 99.0) == ticket
    for read, id, now in [
        (made.read_file, NO_ID, 99.0),
        (made.read_upload, "6" * 19, 99.0),
        (made.read_upload, NO_ID, 100.0),
        (Tickets(b"y" * 32).read_upload, NO_ID, 99.0),
    ]:
        with pytest.raises(tickets.Forbidden):
            read(text, id, now)
    for length in range(0, len(text), 7):
        with pytest.raises(tickets.Forbidden):
            made.read_upload(text[:length] + os.urandom(3).hex() + text[length + 6 :], NO_ID, 99.0)


@pytest.mark.parametrize(
    ("head", "type"),
    [
        (b"\x80\x81 <a > in the middle of bytes", "application/octet-stream"),
        (b"\n<a > \x80\x81 at their beginning", "text/html"),
        (b"well <a href=x>", "text/html"),
        (b"a < b and b > c", "text/plain"),
        ("ü".encode() * 2048, "text/plain"),
        (b"x" + "ü".encode() * 2048, "text/plain"),
        (b"", "text/plain"),
    ],
)
def test_what_has_a_tag_in_it_is_markup_where_it_is_text(head, type):
    assert sniff(head[:HEAD_BYTES]) == type
