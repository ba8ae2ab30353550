"""`realtime api-key`, and what `realtime api` says where it cannot be of use."""

import hashlib
import tomllib

import pytest

from realtime import cli
from realtime.policy.loading import read_policy


def test_a_key_is_printed_once_and_the_policy_gets_its_hash_alone(capsys):
    arguments = ["--name", "shop", "--powers", "admin:publish,admin:presence", "--tenants", "acme,acme-*"]
    assert cli.main(["api-key", *arguments, "--rooms", "chat:order-*"]) == 0
    said = capsys.readouterr()
    key = said.out.strip()
    assert key.startswith("rtk.shop.")
    assert key not in said.err
    (told,) = read_policy(tomllib.loads(said.err), "test").api.keys
    assert told.hash == f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    assert (told.name, told.powers) == ("shop", ("admin:publish", "admin:presence"))
    assert (told.tenants, told.rooms) == (("acme", "acme-*"), ("chat:order-*",))


def test_two_keys_of_one_name_differ(capsys):
    keys = set()
    for _ in range(2):
        assert cli.main(["api-key", "--name", "shop"]) == 0
        keys.add(capsys.readouterr().out)
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "a b"], "name"),
        (["--name", "shop", "--powers", "admin:fly"], "no power is called 'admin:fly'"),
        (["--name", "shop", "--powers", ","], "powers"),
    ],
)
def test_a_key_that_no_policy_would_take_is_not_made(capsys, arguments, said):
    assert cli.main(["api-key", *arguments]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert len(told.err.splitlines()) == 1
