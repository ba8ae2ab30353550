"""Attachments on a real server: asked for by WebSocket, sent by tus, in messages, read by URLs."""

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import os
import urllib.parse
import zlib

import pytest
import pytest_asyncio
from PIL import Image
from tusclient.client import TusClient

from tests.edge.peer import get, metric
from tests.features.chat.uploader import (
    PATCH,
    SECRET,
    TUS,
    begin_patch,
    http_ask,
    offset_of,
    patch,
    peer,
    picture,
    until,
)


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def start(request, serve, tmp_path):
    """Start servers on one store, with a folder of files."""
    settings = {"chat_files_path": str(tmp_path / "files"), "chat_url_secret": SECRET}
    if request.param == "sqlite":
        settings["sqlite_path"] = str(tmp_path / "rooms.sqlite")
    else:
        settings["postgres_url"] = await request.getfixturevalue("postgres").new_database()
    return lambda **more: serve(**settings | more)


@pytest.fixture
def one(serve, tmp_path):
    """Start servers on SQLite, where the store does not matter."""
    settings = {"chat_url_secret": SECRET, "sqlite_path": str(tmp_path / "rooms.sqlite")}
    return lambda **more: serve(**settings | more)


async def test_a_file_goes_from_one_to_the_other(start):
    server = start()
    content = os.urandom(100_000)
    async with peer(server) as alice, peer(server, "bob") as bob:
        id = await alice.upload("../../etc/Bericht März.pdf", content)
        ack = await alice.say("see this", id)
        assert "offset" in ack, ack
        (told,) = (await bob.heard())["attachments"]
        assert told == {
            "id": id,
            "name": "Bericht März.pdf",
            "type": "application/octet-stream",
            "bytes": len(content),
        }
        found = await bob.link(id)
        assert {name: found[name] for name in told} == told
        status, headers, body = await asyncio.to_thread(http_ask, found["url"])
        assert (status, body) == (200, content)
        assert headers["Content-Type"] == "application/octet-stream"
        assert headers["Content-Disposition"] == (
            "attachment; filename=\"Bericht Marz.pdf\"; filename*=UTF-8''Bericht%20M%C3%A4rz.pdf"
        )
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in headers["Content-Security-Policy"]
        assert headers["ETag"] == f'"{hashlib.sha256(content).hexdigest()}"'
        await reads_in_part(found["url"], content, headers["ETag"])
    assert metric(server, "chat_uploads_finished_total") == 1
    assert metric(server, "chat_files_used_total") == 1
    assert metric(server, "chat_files_ok") == 1
    assert json.loads(get(f"{server.url}/ready")[2])["checks"]["files"] == "ok"


async def reads_in_part(url, content, etag):
    for asked, status, span in [
        ("bytes=0-9", 206, (0, 10)),
        ("bytes=99990-", 206, (99_990, 100_000)),
        ("bytes=-5", 206, (99_995, 100_000)),
        ("bytes=-200000", 200, (0, 100_000)),
        ("bytes=5-200000", 206, (5, 100_000)),
        ("bytes=0-1,5-6", 200, (0, 100_000)),
        ("bytes=9-5", 200, (0, 100_000)),
        ("items=0-5", 200, (0, 100_000)),
        ("bytes=-", 200, (0, 100_000)),
    ]:
        found, headers, body = await asyncio.to_thread(http_ask, url, headers={"Range": asked})
        assert (found, body) == (status, content[slice(*span)]), asked
        if status == 206:
            assert headers["Content-Range"] == f"bytes {span[0]}-{span[1] - 1}/100000"
    for asked in ("bytes=100000-", "bytes=-0", "bytes=99999999999-"):
        found, headers, _ = await asyncio.to_thread(http_ask, url, headers={"Range": asked})
        assert (found, headers["Content-Range"]) == (416, "bytes */100000"), asked
    part = {"Range": "bytes=0-3"}
    for condition, status in [(etag, 206), (f"W/{etag}", 200), ('"other"', 200)]:
        answer = await asyncio.to_thread(http_ask, url, headers=part | {"If-Range": condition})
        assert answer[0] == status, condition
    for condition in (etag, f'"x", W/{etag}', "*"):
        status, headers, body = await asyncio.to_thread(http_ask, url, headers={"If-None-Match": condition})
        assert (status, body) == (304, b"")
    status, headers, body = await asyncio.to_thread(http_ask, url, "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "100000", b"")


async def test_an_upload_goes_on_after_kill_9(start):
    server = start()
    content = os.urandom(10 * 1024 * 1024)  # more than a piece
    async with peer(server) as alice:
        id, url = await alice.begin("large.bin", content)
        with begin_patch(url, 0, len(content), content[: 9 * 1024 * 1024]):
            await until(lambda: pieces_of(server) >= 1)
            server.kill()
    server.start()
    offset = await asyncio.to_thread(offset_of, url)
    assert offset == 8 * 1024 * 1024  # the piece that was whole
    status, headers, _ = await asyncio.to_thread(patch, url, offset, content[offset:])
    assert (status, headers["Upload-Offset"]) == (204, str(len(content)))
    async with peer(server) as alice:
        assert "offset" in await alice.say("after all", id)
        found = await alice.link(id)
        assert (await asyncio.to_thread(http_ask, found["url"]))[2] == content


def pieces_of(server):
    """How many pieces of uploads lie there."""
    folder = os.path.join(server.settings["chat_files_path"], "uploads")
    return sum(len(names) for _, _, names in os.walk(folder))


async def test_what_came_before_a_cut_is_kept_and_tuspy_goes_on(one, tmp_path):
    server = one()
    content = os.urandom(700_000)
    file = tmp_path / "film.bin"
    file.write_bytes(content)
    async with peer(server) as alice:
        id, url = await alice.begin("film.bin", content)
        with begin_patch(url, 0, len(content), content[:300_000]):
            await until(lambda: metric(server, "chat_upload_bytes_total") > 200_000)
        await until(lambda: not metric(server, "chat_uploads_running"))
        offset = await asyncio.to_thread(offset_of, url)
        assert 200_000 < offset <= 300_000
        uploader = TusClient(server.url).uploader(str(file), url=url, chunk_size=50_000)
        assert uploader.offset == offset
        await asyncio.to_thread(uploader.upload)
        assert uploader.offset == len(content)
        assert "offset" in await alice.say("here", id)
        assert (await asyncio.to_thread(http_ask, (await alice.link(id))["url"]))[2] == content


async def test_tuspy_checks_each_chunk(one, tmp_path):
    server = one()
    async with peer(server) as alice:
        id, url = await alice.begin("a.bin", b"x" * 5000)
        file = io.BytesIO(b"x" * 5000)
        client = TusClient(server.url)
        uploader = client.uploader(file_stream=file, url=url, chunk_size=999, upload_checksum=True)
        await asyncio.to_thread(uploader.upload)
        assert "offset" in await alice.say("here", id)


async def test_a_newer_connection_takes_an_upload_over(one):
    server = one()
    content = os.urandom(400_000)
    async with peer(server) as alice:
        id, url = await alice.begin("a.bin", content)
        with begin_patch(url, 0, len(content), content[:100_000]) as hanging:
            await until(lambda: metric(server, "chat_uploads_running"))
            offset = await asyncio.to_thread(offset_of, url)
            status, _, _ = await asyncio.to_thread(patch, url, offset, content[offset:])
            assert status == 204
            assert await asyncio.to_thread(hanging.recv, 12) == b"HTTP/1.1 503"
        assert "offset" in await alice.say("here", id)
        assert (await asyncio.to_thread(http_ask, (await alice.link(id))["url"]))[2] == content


async def test_tus_is_spoken_as_it_is_written(one):
    server = one()
    async with peer(server) as alice:
        id, url = await alice.begin("a.bin", b"0123456789")

        def said(method, body=None, **headers):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return http_ask(url, method, body, named)

        def turns():
            status, headers, _ = said("OPTIONS")
            assert (status, headers["Tus-Version"]) == (204, "1.0.0")
            assert "checksum" in headers["Tus-Extension"]
            assert said("HEAD")[0] == 412
            status, headers, _ = said("POST", **TUS, Upload_Length="10")
            assert status == 201
            assert urllib.parse.urljoin(url, headers["Location"]) == url
            assert said("POST", **TUS, Upload_Length="11")[0] == 400
            assert said("PUT", **TUS)[0] == 405
            assert said("PATCH", b"012", **TUS, Upload_Offset="0")[0] == 415
            assert said("PATCH", b"012", **PATCH)[0] == 400
            for lie in ("1", "10", "11"):
                assert patch(url, lie, b"012")[0] == 409
            for nonsense in ("-1", "x", "1e3", "٣"):
                with contextlib.suppress(UnicodeEncodeError):
                    assert patch(url, nonsense, b"012")[0] == 400
            assert patch(url, 0, b"01234567890")[0] == 413
            assert offset_of(url) == 0
            wrong = "sha1 " + base64.b64encode(b"x" * 20).decode()
            assert patch(url, 0, b"012", Upload_Checksum=wrong)[0] == 460
            assert patch(url, 0, b"012", Upload_Checksum="crc32 abcd")[0] == 400
            assert offset_of(url) == 0
            right = "sha256 " + base64.b64encode(hashlib.sha256(b"012").digest()).decode()
            status, headers, _ = patch(url, 0, b"012", Upload_Checksum=right)
            assert (status, headers["Upload-Offset"]) == (204, "3")
            assert "Upload-Expires" in headers
            status, headers, _ = said(
                "POST", b"345", **PATCH, Upload_Offset="3", X_HTTP_Method_Override="PATCH"
            )
            assert (status, headers["Upload-Offset"]) == (204, "6")
            assert patch(url, 6, b"")[0] == 204
            assert patch(url, 6, b"6789")[0] == 204
            assert patch(url, 10, b"")[0] == 204
            assert patch(url, 10, b"!")[0] == 413
            assert offset_of(url) == 10

        await asyncio.to_thread(turns)
        assert "offset" in await alice.say("here", id)
        id, url = await alice.begin("b.bin", b"0123456789")
        assert (await asyncio.to_thread(said, "DELETE", **TUS))[0] == 204
        assert (await asyncio.to_thread(said, "HEAD", **TUS))[0] == 410
        assert (await asyncio.to_thread(patch, url, 0, b"0123456789"))[0] == 410
        assert "not whole" in (await alice.say("here", id))["content"]["message"]


async def test_more_than_was_declared_is_not_kept_however_it_comes(one):
    server = one()
    async with peer(server) as alice:
        _, url = await alice.begin("a.bin", b"0123456789")
        chunked = PATCH | {"Upload-Offset": "0"}
        body = iter([b"01234567", b"89", b"and more"])
        assert (await asyncio.to_thread(http_ask, url, "PATCH", body, chunked))[0] == 413
        assert await asyncio.to_thread(offset_of, url) == 0
        digest = base64.b64encode(hashlib.sha1(b"0123456789").digest()).decode()
        body = iter([b"01234567", b"89", b"and more"])
        sums = chunked | {"Upload-Checksum": f"sha1 {digest}"}
        assert (await asyncio.to_thread(http_ask, url, "PATCH", body, sums))[0] == 413
        assert await asyncio.to_thread(offset_of, url) == 0


async def test_bytes_that_are_not_what_was_said_are_refused_for_good(one):
    server = one()
    async with peer(server) as alice:
        sha256 = hashlib.sha256(b"hello").hexdigest()
        assert await alice.upload("a.txt", b"hello", sha256=sha256)
        id, url = await alice.begin("a.txt", b"hullo", sha256=sha256)
        status, _, body = await asyncio.to_thread(patch, url, 0, b"hullo")
        assert (status, b"SHA-256" in body) == (422, True)
        assert (await asyncio.to_thread(patch, url, 0, b"hello"))[0] == 410
        assert "not whole" in (await alice.say("x", id))["content"]["message"]


@pytest.mark.parametrize(
    ("form", "type"), [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")]
)
async def test_images_lose_where_they_were_taken_and_stand_upright(one, form, type):
    server = one()
    content = picture(form, (64, 48), orientation=6)
    assert b"SECRETCAMERA" in content
    assert Image.open(io.BytesIO(content)).getexif().get_ifd(0x8825)
    async with peer(server) as alice:
        id = await alice.upload("holiday.exe", content + b"<script>alert(1)</script>", type="text/html")
        assert "offset" in await alice.say("look", id)
        found = await alice.link(id)
        assert (found["type"], found["width"], found["height"]) == (type, 48, 64)
        _, headers, body = await asyncio.to_thread(http_ask, found["url"])
        assert (headers["Content-Type"], len(body)) == (type, found["bytes"])
        assert headers["Content-Disposition"].startswith("inline; ")
        shown = Image.open(io.BytesIO(body))
        assert (shown.size, dict(shown.getexif())) == ((48, 64), {})
        for secret in (b"SECRETCAMERA", b"Exif", b"script"):
            assert secret not in body
        red, green, blue = shown.convert("RGB").getpixel((10, 10))  # what was on the left is on top
        assert blue > 200 > red, (red, green, blue)
        _, headers, body = await asyncio.to_thread(http_ask, found["thumbnail"])
        small = Image.open(io.BytesIO(body))
        assert (headers["Content-Type"], small.size, small.format) == ("image/webp", (48, 64), "WEBP")
        assert b"SECRETCAMERA" not in body


@pytest.mark.parametrize(
    ("content", "type"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "image/svg+xml"),
        (b"<?xml version='1.0'?>\n<svg onload='alert(1)'/>", "image/svg+xml"),
        (b"<!DOCTYPE html><script>alert(1)</script>", "text/html"),
        (b"\xef\xbb\xbf  <html><body onload=alert(1)>", "text/html"),
        (b"GIF89 <script>alert(1)</script>", "text/html"),
        (b"%PDF-1.7\n%\xe2\xe3", "application/pdf"),
        (b"hello there", "text/plain"),
        (b"\0\1\2\3", "application/octet-stream"),
        (b"PK\3\4" + bytes(60), "application/zip"),
    ],
)
async def test_what_could_run_is_only_ever_saved(one, content, type):
    server = one()
    async with peer(server) as alice:
        id = await alice.upload("cat.png", content, type="image/png")
        assert "offset" in await alice.say("look", id)
        found = await alice.link(id)
        assert found["type"] == type
        status, headers, body = await asyncio.to_thread(http_ask, found["url"])
        assert (status, body) == (200, content)
        assert headers["Content-Type"] == "application/octet-stream"
        assert headers["Content-Disposition"].startswith("attachment; ")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in headers["Content-Security-Policy"]


def png_bomb(width, height):
    """A small PNG of many pixels."""

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    rows = zlib.compress(bytes((width + 1) * min(height, 3000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def gif_bomb():
    """Few bytes, many frames."""
    frames = [Image.new("RGB", (500, 500), (4 * index, 0, 0)) for index in range(60)]
    written = io.BytesIO()
    frames[0].save(written, "GIF", save_all=True, append_images=frames[1:])
    return written.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (png_bomb(60_000, 60_000), b"pixels"),
        (gif_bomb(), b"frames"),
        (picture("PNG")[:-40], b"cannot be read"),
        (b"\xff\xd8\xff\xe0 no image at all", b"cannot be read"),
        (b"\x89PNG\r\n\x1a\n<script>", b"cannot be read"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"where it was taken"),
        (b"II*\0" + bytes(100), b"where it was taken"),
    ],
    ids=["png bomb", "gif bomb", "cut png", "no jpeg", "png in name only", "heic", "tiff"],
)
async def test_images_that_cannot_be_made_anew_are_refused(one, content, why):
    server = one(chat_image_pixels=1_000_000)
    async with peer(server) as alice:
        id, url = await alice.begin("cat.png", content)
        status, _, body = await asyncio.to_thread(patch, url, 0, content)
        assert (status, why in body) == (422, True), (status, body)
        assert "not whole" in (await alice.say("look", id))["content"]["message"]
    assert metric(server, "chat_uploads_refused_total") == 1


async def test_animations_stay_animations(one):
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "green", "blue")]
    written = io.BytesIO()
    frames[0].save(written, "GIF", save_all=True, append_images=frames[1:], duration=70, comment=b"SECRET")
    server = one()
    async with peer(server) as alice:
        id = await alice.upload("a.gif", written.getvalue())
        assert "offset" in await alice.say("look", id)
        body = (await asyncio.to_thread(http_ask, (await alice.link(id))["url"]))[2]
        shown = Image.open(io.BytesIO(body))
        assert (shown.n_frames, shown.info["duration"], b"SECRET" in body) == (3, 70, False)


async def test_a_message_has_what_its_sender_uploaded_for_its_room_once(start):
    server = start()
    async with (
        peer(server) as alice,
        peer(server, "bob") as bob,
        peer(server, "alice", "chat:other") as there,
    ):
        id = await alice.upload("a.txt", b"hello")
        missing = "1" * 19
        for who, attachment in [(bob, id), (there, id), (alice, missing)]:
            answer = await who.say("mine", attachment)
            expected = f"you have uploaded no attachment {attachment} for this room"
            assert answer["content"]["message"] == expected
        for nonsense in ("x", "../../etc/passwd", "9" * 19, "-" * 19, "٣" * 19):
            assert (await alice.say("x", nonsense))["type"] == "error"
        assert (await alice.say("x", id, id))["content"]["name"] == "bad_message"
        await alice.say("mine", id, key="k1")
        assert "part of another message" in (await alice.say("again", id))["content"]["message"]
        assert "part of another message" in (await alice.say("again", id, key="k2"))["content"]["message"]
        unfinished, _ = await alice.begin("b.txt", b"hello")
        assert "not whole" in (await alice.say("x", unfinished))["content"]["message"]


async def test_a_resent_message_is_one_message(start):
    server = start()
    async with peer(server) as alice:
        id = await alice.upload("a.txt", b"hello")
        first = await alice.say("mine", id, key="k1")
        again = await alice.say("mine", id, key="k1")
        assert (again["offset"], again["duplicate"]) == (first["offset"], True)


async def test_limits_say_what_they_are(start):
    server = start(chat_file_bytes=1000, chat_files_bytes_per_user=2500, chat_uploads_open=3)
    async with peer(server) as alice, peer(server, "bob") as bob:
        over = await alice.refused("chat_upload", name="a", bytes=1001)
        assert (over["name"], over["limit"], over["allowed"]) == ("too_large", "chat_file_bytes", 1000)
        for wrong in (
            {"bytes": 0},
            {"bytes": 1, "name": ""},
            {"bytes": 1, "name": ".."},
            {"bytes": 1, "sha256": "x"},
        ):
            assert (await alice.refused("chat_upload", **{"name": "a"} | wrong))["name"] == "bad_message"
        first = await alice.upload("a", b"x" * 1000)
        await alice.upload("a", b"y" * 1000)
        full = await alice.refused("chat_upload", name="a", bytes=501)
        assert (full["name"], full["limit"]) == ("quota_exceeded", "chat_files_bytes_per_user")
        await alice.begin("a", b"z" * 100)
        many = await alice.refused("chat_upload", name="a", bytes=1)
        assert (many["name"], many["limit"]) == ("quota_exceeded", "chat_uploads_open")
        await bob.upload("b", b"x" * 1000)  # others have their own
        assert "offset" in await alice.say("one", first)
        await alice.begin("a", b"z" * 100)
    server.stop()
    tight = start(chat_files_bytes_per_tenant=3300)
    async with peer(tight, "carol") as carol:
        full = await carol.refused("chat_upload", name="a", bytes=101)
        assert (full["limit"], full["allowed"]) == ("chat_files_bytes_per_tenant", 3300)


async def test_the_url_of_an_upload_is_given_again_to_its_owner_alone(one):
    server = one()
    async with peer(server) as alice, peer(server, "bob") as bob:
        id, url = await alice.begin("a.bin", b"0123456789")
        assert (await asyncio.to_thread(patch, url, 0, b"01234"))[0] == 204
        again = (await alice.ask("chat_upload", id=id))["content"]
        assert again["id"] == id
        assert await asyncio.to_thread(offset_of, urllib.parse.urljoin(server.url, again["url"])) == 5
        assert (await bob.refused("chat_upload", id=id))["message"].startswith("you have no such upload")
        assert (await alice.refused("chat_upload", id=id, room="chat:other"))["name"] == "bad_message"


async def test_uploads_that_were_ended_or_refused_take_no_place(start):
    server = start(chat_uploads_open=2)
    async with peer(server) as alice:
        for _ in range(2):
            _, url = await alice.begin("a.png", b"\x89PNG\r\n\x1a\n")
            assert (await asyncio.to_thread(patch, url, 0, b"\x89PNG\r\n\x1a\n"))[0] == 422
        for _ in range(2):
            _, url = await alice.begin("a.txt", b"hello")
        assert (await alice.refused("chat_upload", name="a", bytes=1))["limit"] == "chat_uploads_open"
        assert (await asyncio.to_thread(http_ask, url, "DELETE", None, TUS))[0] == 204
        await alice.begin("a.txt", b"hello")
