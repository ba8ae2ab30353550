"""Keys, and what they seal and open: the same bytes as before and as in JavaScript; nothing opens that was
changed or moved, and nothing that comes makes it fail."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from realtime.client import CannotSeal, Key, Keyring, Unreadable
from realtime.client.seal import MESSAGES_MAX, Place, bound

VECTORS = json.loads((Path(__file__).parent.parent / "data" / "e2e" / "vectors.json").read_text())
PLACE = Place("acme", "chat:secret", "alice", "chat_message")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
names = st.text(min_size=1)
places = st.builds(Place, names, names, st.none() | names, names)


@pytest.fixture
def keys() -> Keyring:
    return Keyring([Key.generate("k1")])


@given(json_values, places)
def test_what_is_sealed_opens_to_the_same(content, place):
    keys = Keyring([Key.generate("k")])
    assert keys.open(keys.seal(content, place), place) == content


@given(places, places)
def test_it_opens_in_its_own_place_alone(place, other):
    keys = Keyring([Key.generate("k")])
    opened = keys.open(keys.seal("words", place), other)
    same = place._replace(sender=place.sender or "") == other._replace(sender=other.sender or "")
    assert (opened == "words") == same


@given(st.lists(st.text(), min_size=5, max_size=5), st.lists(st.text(), min_size=5, max_size=5))
def test_no_two_places_are_bound_alike(one, other):
    def bytes_of(texts):
        return bound(Place(*texts[:4]), texts[4])

    assert (bytes_of(one) == bytes_of(other)) == (one == other)


@pytest.mark.parametrize(
    "vector", VECTORS["sealed"], ids=lambda vector: f"{vector['what']} by {vector['by']}"
)
def test_what_was_sealed_before_or_elsewhere_opens(vector):
    keys = Keyring([Key.from_jwk(jwk) for jwk in VECTORS["keys"]])
    assert keys.open(vector["content"], Place(**vector["place"])) == vector["plain"]


def test_the_bytes_are_those_that_the_page_says():
    """Made of nothing but AES-GCM and the rules of the docs: what somebody else would write."""
    vector = VECTORS["sealed"][0]
    place, sealed = vector["place"], vector["content"]["sealed"]
    parts = ["realtime end-to-end", "1", *(place[name] for name in ("tenant", "room", "sender", "type"))]
    texts = [part.encode() for part in [*parts, sealed["kid"]]]
    data = b"".join(len(text).to_bytes(4, "big") + text for text in texts)
    key, nonce, ciphertext = (
        base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        for text in (VECTORS["keys"][0]["k"], sealed["nonce"], sealed["ct"])
    )
    assert json.loads(AESGCM(key).decrypt(nonce, ciphertext, data)) == vector["plain"]


def test_a_passphrase_gives_the_key_that_it_gives_elsewhere():
    derived = VECTORS["passphrase"]
    key = Key.from_passphrase("p", derived["words"], salt=derived["salt"], iterations=derived["iterations"])
    assert key.to_text() == derived["k"]


@pytest.mark.parametrize("name", ["nonce", "ct"])
@pytest.mark.parametrize("at", [0, 7, -1])
def test_one_bit_that_was_changed_is_found(keys: Keyring, name: str, at: int):
    content = keys.seal({"text": "words"}, PLACE)
    raw = bytearray(base64.urlsafe_b64decode(content["sealed"][name] + "=="))
    raw[at] ^= 1
    content["sealed"][name] = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    assert keys.open(content, PLACE) == Unreadable("broken", "k1", content)


def test_a_key_of_the_same_id_that_is_another_opens_nothing(keys: Keyring):
    content = Keyring([Key.generate("k1")]).seal("words", PLACE)
    assert keys.open(content, PLACE).why == "broken"


def test_plain_words_are_said_to_be_plain(keys: Keyring):
    for content in ("words", {"text": "words"}, None, {**keys.seal("x", PLACE), "text": "words"}):
        assert keys.open(content, PLACE) == Unreadable("not_sealed", None, content)


nearly_sealed = st.fixed_dictionaries(
    {"v": st.just(1), "kid": st.just("k1") | json_values, "nonce": json_values, "ct": json_values}
)


@given(json_values | st.fixed_dictionaries({"sealed": json_values | nearly_sealed}))
def test_whatever_comes_it_does_not_fail(content):
    opened = Keyring([Key.generate("k1")]).open(content, PLACE)
    assert isinstance(opened, Unreadable)
    assert opened.content == content


def test_the_newest_key_seals_and_all_open():
    old, new = Key.generate("old"), Key.generate("new")
    keys = Keyring([old])
    before = keys.seal("before", PLACE)
    keys.add(new)
    after = keys.seal("after", PLACE)
    assert (before["sealed"]["kid"], after["sealed"]["kid"]) == ("old", "new")
    assert [keys.open(each, PLACE) for each in (before, after)] == ["before", "after"]
    keys.forget("old")
    assert keys.open(before, PLACE) == Unreadable("unknown_key", "old", before)
    with pytest.raises(ValueError, match="add the next one first"):
        keys.forget("new")


def test_no_nonce_comes_twice(keys: Keyring):
    nonces = {keys.seal("x", PLACE)["sealed"]["nonce"] for _ in range(1000)}
    assert len(nonces) == 1000


def test_a_key_that_is_used_up_seals_no_more_and_is_warned_of_before(keys: Keyring, caplog):
    key = keys.newest
    key.used = MESSAGES_MAX // 2 - 1
    keys.seal("x", PLACE)
    assert "half of its uses" in caplog.text
    key.used = MESSAGES_MAX - 1
    last = keys.seal("x", PLACE)
    with pytest.raises(CannotSeal, match="used up"):
        keys.seal("x", PLACE)
    assert keys.open(last, PLACE) == "x"


def test_what_others_seal_wears_a_key_too(keys: Keyring):
    content = keys.seal("x", PLACE)
    keys.open(content, PLACE)
    keys.open(content, PLACE._replace(sender="bob"))  # that was not sealed so
    assert keys.newest.used == 2


def test_a_key_comes_back_from_text_and_jwk():
    key = Key.generate("k1")
    content = Keyring([key]).seal("words", PLACE)
    for same in (Key.from_text("k1", key.to_text()), Key.from_jwk(key.to_jwk())):
        assert Keyring([same]).open(content, PLACE) == "words"


def test_the_secret_shows_nowhere():
    key = Key.generate("k1")
    shown = f"{key!r} {key!s} {Keyring([key])!r}"
    assert key.to_text() not in shown
    assert "k1" in shown


@pytest.mark.parametrize(
    "make",
    [
        lambda: Key("", bytes(32)),
        lambda: Key("a b", bytes(32)),
        lambda: Key("k" * 65, bytes(32)),
        lambda: Key("k", bytes(16)),
        lambda: Key.from_text("k", "not base64url!"),
        lambda: Key.from_text("k", "A" * 41),
        lambda: Key.from_text("k", "A" * 43 + "="),
        lambda: Key.from_jwk({"kty": "RSA", "kid": "k", "k": "A" * 43}),
        lambda: Key.from_jwk({"kty": "oct", "k": "A" * 43}),
        lambda: Key.from_passphrase("k", "words", salt="short"),
        lambda: Key.from_passphrase("k", "words", salt="long enough", iterations=1000),
    ],
)
def test_what_is_no_key_is_refused(make):
    with pytest.raises(ValueError, match=r"."):
        make()


def test_without_a_key_nothing_is_sealed():
    with pytest.raises(CannotSeal, match="no key"):
        Keyring().seal("x", PLACE)
    with pytest.raises(CannotSeal, match="nothing that JSON can say"):
        Keyring([Key.generate("k")]).seal(object(), PLACE)
