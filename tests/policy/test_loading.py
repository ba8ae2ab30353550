"""The policy file: what it may say, and the one line about what it may not."""

from pathlib import Path

import pytest

from realtime.errors import SettingsError
from realtime.policy import Policy, load_policy


def read(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return load_policy(path)


def test_an_empty_file_is_the_policy_of_no_file(tmp_path: Path):
    assert read(tmp_path, "") == Policy()


def test_every_section_is_read(tmp_path: Path):
    policy = read(
        tmp_path,
        """
        [access]
        default = "deny"
        [[access.rules]]
        roles = ["member"]
        actions = ["join", "publish"]
        rooms = ["chat:*"]
        [[rooms]]
        rooms = ["chat:secret-*"]
        private = true
        [tenants.acme]
        [tenants."*"]
        """,
    )
    assert policy.access.default == "deny"
    assert policy.access.rules[0].rooms == ("chat:*",)
    assert policy.rooms[0].private
    assert set(policy.tenants) == {"acme", "*"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[acces]\n", "unknown field `acces`; did you mean access?"),
        ('[[rooms]]\nrooms = ["a:*"]\nprivat = true\n', "did you mean private?"),
        ("[[rooms]]\nrooms = []\n", "$.rooms[0].rooms"),
        ("[[rooms]]\n", "missing required field `rooms`"),
        ('[access]\ndefault = "maybe"\n', "$.access.default"),
        ('[tenants."a b"]\n', "tenants: tenant 'a b' must match"),
        ("[tenants.acme]\nconnection = 5\n", "did you mean connections?"),
        ("[tenants.acme]\nrooms = -1\n", "$.tenants[...].rooms"),
        ("[tenants.acme]\nburst_s = 0\n", "burst_s"),
        (
            "[tenants.acme]\nmessages_per_second = 1e-9\n",
            'tenants."acme": messages_per_second is 1e-09; it is 0',
        ),
        ("[access\n", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, said: str):
    with pytest.raises(SettingsError, match=r"policy\.toml") as caught:
        read(tmp_path, text)
    assert said in caught.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"nothing\.toml: No such file"):
        load_policy(tmp_path / "nothing.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "policy.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not TOML"):
        load_policy(path)
