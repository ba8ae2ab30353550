"""The functions in Redis: put together from files, loaded where they are missing, never replaced by older."""

import asyncio

import pytest

from realtime.backends.cluster import library
from realtime.backends.cluster.library import ensure, minor_of, source
from realtime.backends.redis_client.client import RedisClient
from realtime.errors import StartupError
from tests.backends.cluster.stage import until
from tests.tree import ROOT

FOLDER = ROOT / "realtime" / "backends" / "cluster" / "functions"


def of_minor(minor: int) -> bytes:
    ours = minor_of(source())
    return source().replace(b"local MINOR = %d\n" % ours, b"local MINOR = %d\n" % minor)


async def client_of(node, text: bytes | None = None) -> RedisClient:
    client = RedisClient(node.url, on_missing_function=None if text is None else lambda: text)
    await client.start()
    return client


def loads_of(node) -> int:
    return node.ask("INFO", "commandstats")["cmdstat_function|load"]["calls"]


async def minors(client: RedisClient) -> list[int]:
    return await client.ask_all("FCALL_RO", "rt1_version", 0)


def test_the_library_is_its_files_in_order():
    text = source().decode()
    assert text.startswith("#!lua name=realtime_1\n")
    files = sorted(FOLDER.glob("*.lua"))
    assert len(files) >= 2
    places = [text.index(path.read_text(encoding="utf-8")) for path in files]
    assert places == sorted(places)


def test_every_function_has_the_major_version_in_its_name():
    for path in FOLDER.glob("*.lua"):
        text = path.read_text(encoding="utf-8")
        assert text.count("redis.register_function") == text.count("'rt1_"), path.name


def test_a_text_without_a_version_is_none():
    with pytest.raises(ValueError, match="no minor version"):
        minor_of(b"#!lua name=realtime_1\n")


async def test_it_is_loaded_on_every_master_and_once(own_redis_cluster):
    client = await client_of(own_redis_cluster)
    await ensure(client)
    assert await minors(client) == [minor_of(source())] * 3
    before = [loads_of(node) for node in own_redis_cluster.masters()]
    await asyncio.gather(*(ensure(client) for _ in range(5)))
    assert before == [loads_of(node) for node in own_redis_cluster.masters()]
    await client.close()


async def test_a_newer_one_replaces_an_older_and_an_older_never_a_newer(own_redis_node):
    client = await client_of(own_redis_node)
    for text, expected in ((of_minor(3), 3), (of_minor(2), 3), (of_minor(5), 5), (of_minor(3), 5)):
        await ensure(client, text)
        assert await minors(client) == [expected]
    await client.close()


async def test_of_many_that_start_at_once_the_newest_wins(own_redis_node):
    clients = [await client_of(own_redis_node) for _ in range(8)]
    texts = [of_minor(minor) for minor in (4, 9, 2, 7, 9, 1, 8, 3)]
    await asyncio.gather(*(ensure(client, text) for client, text in zip(clients, texts, strict=True)))
    assert await minors(clients[0]) == [9]
    assert await clients[0].ask(0, "EXISTS", library.LOCK) == 0
    for client in clients:
        await client.close()


async def test_a_lock_that_somebody_died_with_ends_by_itself(own_redis_node, monkeypatch):
    monkeypatch.setattr(library, "LOCK_RETRY_S", 0.001)
    client = await client_of(own_redis_node)
    await client.ask(0, "SET", library.LOCK, "dead", "PX", 50)
    await ensure(client)
    assert await minors(client) == [minor_of(source())]
    await client.close()


async def test_a_server_that_came_back_empty_is_given_it_when_it_is_asked(own_redis_node):
    client = await client_of(own_redis_node, source())
    await ensure(client)
    await asyncio.to_thread(own_redis_node.kill)
    await until(lambda: not client.ok)
    await asyncio.to_thread(own_redis_node.start)
    await until(lambda: client.ok)
    assert await client.ask(0, "FCALL_RO", "rt1_version", 0) == minor_of(source())
    await client.close()


async def test_a_user_who_may_not_load_functions_is_told_so(own_redis_node):
    own_redis_node.ask("ACL", "SETUSER", "weak", "on", ">secret", "~*", "&*", "+@all", "-function")
    url = own_redis_node.url.replace("redis://", "redis://weak:secret@")
    client = RedisClient(url)
    await client.start()
    with pytest.raises(StartupError, match=r"7\.0 or later and let us load functions"):
        await ensure(client)
    await client.close()
