"""The contract of what keeps files, held against a folder and a server of S3's protocol."""

import asyncio
import os

import pytest
import pytest_asyncio

from realtime.backends.blobs_directory import NEW, DirectoryBlobs
from realtime.backends.blobs_s3 import PART_BYTES, S3Blobs
from realtime.core.blobs import checked_key
from realtime.errors import Unavailable
from tests.features.chat.uploader import S3Server, pieces


@pytest.fixture(scope="module")
def s3():
    server = S3Server()
    yield server
    server.stop()


def s3_blobs(settings):
    return S3Blobs(
        settings["s3_endpoint"],
        settings["s3_bucket"],
        region="us-east-1",
        access_key=settings["s3_access_key"],
        secret_key=settings["s3_secret_key"],
    )


@pytest_asyncio.fixture(params=["directory", "s3"])
async def blobs(request, tmp_path):
    if request.param == "directory":
        opened = DirectoryBlobs(tmp_path / "files")
    else:
        opened = s3_blobs(request.getfixturevalue("s3").settings)
    yield opened
    await opened.close()


async def content(blobs, key, *span):
    return b"".join([piece async for piece in blobs.read(key, *span)])


async def keys(blobs, *asked):
    return [blob.key async for blob in blobs.list(*asked)]


async def test_what_is_put_is_read_whole_and_in_part(blobs):
    assert await blobs.put("a/b/c", pieces(b"hello ", b"", b"world")) == 11
    assert await content(blobs, "a/b/c") == b"hello world"
    assert await content(blobs, "a/b/c", 6) == b"world"
    assert await content(blobs, "a/b/c", 2, 5) == b"llo"
    assert await content(blobs, "a/b/c", 4, 4) == b""
    assert await content(blobs, "a/b/c", 9, 400) == b"ld"
    assert await content(blobs, "a/b/c", 400) == b""
    stat = await blobs.stat("a/b/c")
    assert (stat.key, stat.bytes) == ("a/b/c", 11)
    assert blobs.ok


async def test_an_empty_file_is_a_file(blobs):
    assert await blobs.put("empty", pieces()) == 0
    assert await content(blobs, "empty") == b""
    assert (await blobs.stat("empty")).bytes == 0


async def test_what_is_there_stays_as_it_is(blobs):
    await blobs.put("key", pieces(b"first"))
    assert await blobs.put("key", pieces(b"another one")) == 5
    assert await content(blobs, "key") == b"first"


async def test_of_two_at_once_one_is_kept_whole_and_both_are_told_which(blobs):
    both_began = asyncio.Barrier(2)

    async def slowly(byte):
        yield byte * 10
        await both_began.wait()
        yield byte * (10 if byte == b"a" else 20)

    lengths = await asyncio.gather(*(blobs.put("key", slowly(each)) for each in (b"a", b"b")))
    kept = await content(blobs, "key")
    assert kept in (b"a" * 20, b"b" * 30)
    assert lengths == [len(kept)] * 2


async def test_what_breaks_off_is_not_kept_and_its_error_comes_out(blobs):
    async def breaking():
        yield b"x" * (PART_BYTES + 5)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await blobs.put("key", breaking())
    assert await blobs.stat("key") is None
    assert await keys(blobs) == []
    assert await blobs.tidy("", 2**53) == 0


async def test_a_large_file_goes_up_in_parts(blobs):
    block = os.urandom(1024 * 1024)
    count = 2 * PART_BYTES // len(block) + 1
    assert await blobs.put("large", pieces(*[block] * count)) == count * len(block)
    assert await content(blobs, "large", PART_BYTES - 3, PART_BYTES + 3) == block[-3:] + block[:3]
    assert (await blobs.stat("large")).bytes == count * len(block)


async def test_what_is_not_there_is_said_to_be_absent(blobs):
    assert await blobs.stat("none") is None
    assert await blobs.touch("none") is None
    await blobs.delete("none")
    with pytest.raises(KeyError):
        await content(blobs, "none")
    with pytest.raises(KeyError):
        await content(blobs, "none", 3, 3)


async def test_what_is_deleted_is_gone_and_its_key_is_free(blobs):
    await blobs.put("a/b", pieces(b"1"))
    await blobs.put("a/c", pieces(b"2"))
    await blobs.delete("a/b")
    assert await blobs.stat("a/b") is None
    assert await keys(blobs) == ["a/c"]
    await blobs.put("a/b", pieces(b"33"))
    assert await content(blobs, "a/b") == b"33"


async def test_files_are_listed_by_key_from_anywhere_on(blobs):
    names = ["a/b/2", "a/b/1", "a-b/3", "a/c", "b", "ab/1", "a/bb/0"]
    for name in names:
        await blobs.put(name, pieces(name.encode()))
    assert await keys(blobs) == sorted(names)
    assert await keys(blobs, "a/") == ["a/b/1", "a/b/2", "a/bb/0", "a/c"]
    assert await keys(blobs, "a/b") == ["a/b/1", "a/b/2", "a/bb/0"]
    assert await keys(blobs, "a/b/") == ["a/b/1", "a/b/2"]
    assert await keys(blobs, "nowhere/") == []
    for after in sorted(names):
        assert await keys(blobs, "", after) == [name for name in sorted(names) if name > after]
        assert await keys(blobs, "a/", after) == [
            n for n in sorted(names) if n.startswith("a/") and n > after
        ]


async def test_a_touched_file_is_a_new_one(blobs):
    await blobs.put("key", pieces(b"1"))
    before = await blobs.stat("key")
    if isinstance(blobs, DirectoryBlobs):
        os.utime(blobs._path("key"), (1, 1))
        before = await blobs.stat("key")
        assert before.at_ms == 1000
    touched = await blobs.touch("key")
    assert touched.at_ms >= before.at_ms
    assert await content(blobs, "key") == b"1"


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "..", "a/../b", ".new/x", "a/.b", "A", "a b", "a\0", "x" * 201]
)
async def test_no_key_leads_elsewhere(blobs, key):
    with pytest.raises(ValueError, match="no key"):
        checked_key(key)
    for ask in (blobs.stat(key), blobs.put(key, pieces(b"1")), blobs.delete(key), blobs.touch(key)):
        with pytest.raises(ValueError, match="no key"):
            await ask
    with pytest.raises(ValueError, match="no key"):
        await content(blobs, key)


async def test_a_server_that_is_away_is_unavailable_and_found_again(s3):
    settings = s3.settings
    blobs = s3_blobs(settings | {"s3_endpoint": "http://127.0.0.1:9"})
    with pytest.raises(Unavailable):
        await blobs.stat("key")
    assert not blobs.ok
    await blobs.close()
    refused = s3_blobs(settings | {"s3_bucket": "no-such-bucket"})
    with pytest.raises((Unavailable, KeyError)):
        await refused.put("key", pieces(b"1"))
    await refused.close()


async def test_a_disk_that_fails_is_unavailable_and_nothing_is_left(tmp_path):
    blobs = DirectoryBlobs(tmp_path / "files")
    await blobs.put("a/b", pieces(b"1"))
    os.chmod(tmp_path / "files" / "a", 0o500)
    (tmp_path / "files" / "c").write_bytes(b"")  # a file where a folder would have to be
    with pytest.raises(Unavailable):
        await blobs.put("c/d", pieces(b"1"))
    assert not blobs.ok
    assert os.listdir(tmp_path / "files" / NEW) == []
    assert await content(blobs, "a/b") == b"1"
    assert blobs.ok
    os.chmod(tmp_path / "files" / "a", 0o700)
    await blobs.close()


async def test_what_killed_processes_have_left_is_tidied_away(tmp_path, s3):
    folder = DirectoryBlobs(tmp_path / "files")
    await folder.put("a", pieces(b"1"))
    (tmp_path / "files" / NEW / "left").write_bytes(b"half of a file")
    assert await folder.tidy("", 0) == 0
    assert await folder.tidy("", 2**53) == 1
    assert await keys(folder) == ["a"]
    await folder.close()
    bucket = s3_blobs(s3.settings)
    await bucket._begin("half")
    assert await bucket.tidy("", 0) == 0
    assert await bucket.tidy("", 2**53) == 1
    assert await bucket.tidy("", 2**53) == 0
    await bucket.close()


async def test_unfinished_uploads_of_others_in_the_same_bucket_are_left_alone(s3):
    bucket = s3_blobs(s3.settings)
    others = ("backups/whole", "file", "uploads-of-others/x")
    for key in (*others, "files/aa/half", "uploads/bb/half"):
        await bucket._begin(key)
    assert await bucket.tidy("files/", 2**53) == 1
    assert await bucket.tidy("uploads/", 2**53) == 1
    left = await bucket._ask("list_multipart_uploads")
    assert sorted(each["Key"] for each in left["Uploads"]) == sorted(others)
    assert await bucket.tidy("", 2**53) == len(others)
    await bucket.close()
