"""Master keys from a setting and from a file: which are taken, and what each mistake is called."""

import base64
import os
from pathlib import Path

import pytest

from realtime.backends.sealing.masters import KeyLost, Masters, read_keys
from realtime.backends.sealing.table import WrappedKey
from realtime.errors import SettingsError
from realtime.ids import TenantId
from tests.sealing.stage import master, masters

SECRET = os.urandom(32)
KEY = WrappedKey(TenantId("acme"), 1, b"8 bytes!", "", 0)


def text(*names: str) -> str:
    return ",".join(f"{name}:{base64.b64encode(master(name)).decode()}" for name in names)


async def test_the_first_one_wraps_and_all_of_them_unwrap():
    wrapped = KEY._replace(wrapped=await masters("old").wrap(KEY, SECRET))
    both = masters("new", "old")
    assert await both.unwrap(wrapped) == SECRET
    assert both.is_stale(wrapped)
    again = wrapped._replace(wrapped=await both.rewrap(wrapped))
    assert again.wrapped.startswith("local:new:")
    assert not both.is_stale(again)
    assert await masters("new").unwrap(again) == SECRET


async def test_a_key_that_is_missing_is_named_with_the_tenant():
    wrapped = KEY._replace(wrapped=await masters("old").wrap(KEY, SECRET))
    with pytest.raises(KeyLost) as caught:
        await masters("new").unwrap(wrapped)
    assert caught.value.message == (
        f"data key {KEY.name} of tenant acme needs master key old, which is not configured"
    )


async def test_another_key_of_the_same_name_opens_nothing():
    wrapped = KEY._replace(wrapped=await masters("m1").wrap(KEY, SECRET))
    with pytest.raises(KeyLost, match="is not opened by master key m1: it is another one of that name"):
        await Masters({"m1": os.urandom(32)}).unwrap(wrapped)


@pytest.mark.parametrize(
    "moved", [KEY._replace(tenant=TenantId("other")), KEY._replace(id=b"another!")], ids=["tenant", "id"]
)
async def test_a_wrapped_key_opens_for_its_tenant_and_id_alone(moved):
    wrapped = await masters().wrap(KEY, SECRET)
    with pytest.raises(KeyLost, match="is not opened by"):
        await masters().unwrap(moved._replace(wrapped=wrapped))


@pytest.mark.parametrize("wrapped", ["", "local:m1:", "local:m1:!!", "local:m1:AAAA", "other:m1:AAAA"])
async def test_what_is_no_wrapped_key_is_lost_and_no_crash(wrapped):
    with pytest.raises(KeyLost, match=f"data key {KEY.name} of tenant acme"):
        await masters().unwrap(KEY._replace(wrapped=wrapped))


def test_keys_are_read_in_order_the_settings_before_the_files(tmp_path: Path):
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{text('m2')}  # of last year\n\n{text('m3')}\n")
    path.chmod(0o600)
    assert list(read_keys(text("m1"), path)) == ["m1", "m2", "m3"]
    assert read_keys(text("m1"), path)["m2"] == master("m2")
    assert read_keys("", None) == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("noname", "key 1 is not name:base64"),
        (f"{text('m1')},a b:AAAA", "key 2 is not name:base64"),
        ("m1:AAAA", "key m1 is not 32 bytes in base64"),
        ("m1:!!!!", "key m1 is not 32 bytes in base64"),
        (f"{text('m1')},{text('m1')}", "key m1 is given twice"),
    ],
)
def test_what_is_no_key_is_named_and_not_shown(given: str, said: str):
    with pytest.raises(SettingsError, match=said) as caught:
        read_keys(given, None)
    assert base64.b64encode(master("m1")).decode() not in caught.value.message


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o620])
def test_a_file_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int):
    path = tmp_path / "keys"
    path.write_text(text("m1"))
    path.chmod(mode)
    with pytest.raises(SettingsError, match=rf"may be read by others \(mode {mode:04o}\): chmod 600"):
        read_keys("", path)


def test_a_file_that_is_none_is_named(tmp_path: Path):
    with pytest.raises(SettingsError, match="nothing: No such file"):
        read_keys("", tmp_path / "nothing")
    binary = tmp_path / "binary"
    binary.write_bytes(os.urandom(32) + b"\xff")
    binary.chmod(0o600)
    with pytest.raises(SettingsError, match="is no text"):
        read_keys("", binary)


def test_a_repr_has_no_key():
    assert repr(masters("m1", "m2")) == "Masters(master key m1, master key m2)"
