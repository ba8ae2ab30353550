"""Reading files of the operator's: whole, up to a bound, and with an error that says what was wrong."""

import errno
from pathlib import Path

import pytest

from realtime.backends.auth.keys import KEY_FILE_BYTES_MAX, read_key_file
from realtime.errors import SettingsError
from realtime.files import read_bounded
from realtime.policy import load_policy


def test_a_file_is_read_whole_up_to_its_bound(tmp_path: Path):
    path = tmp_path / "list"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(OSError, match="it is over 4 bytes") as caught:
        read_bounded(path, 4)
    assert (caught.value.errno, caught.value.strerror) == (errno.EFBIG, "it is over 4 bytes")


def test_a_device_that_never_ends_is_no_file_of_keys_nor_a_policy():
    with pytest.raises(ValueError, match=f"/dev/zero: it is over {KEY_FILE_BYTES_MAX} bytes"):
        read_key_file(Path("/dev/zero"))
    with pytest.raises(SettingsError, match="policy file /dev/zero: it is over"):
        load_policy(Path("/dev/zero"))


def test_what_is_not_there_is_said_by_the_system(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none", 10)
    with pytest.raises(ValueError, match="none: No such file"):
        read_key_file(tmp_path / "none")
