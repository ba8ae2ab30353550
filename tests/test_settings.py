"""Settings: every knob is described, bounded and reachable; sources win in order; mistakes are named."""

from pathlib import Path

import pytest

from realtime.errors import SettingsError
from realtime.loading import load
from realtime.settings import KNOBS, Settings, as_text, describe, mask

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "realtime.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("knob", describe(), ids=lambda knob: knob.name)
def test_a_knob_says_what_it_does_and_in_which_unit(knob):
    assert knob.unit
    assert knob.description.endswith(".")
    assert len(knob.description) >= 15


@pytest.mark.parametrize("knob", describe(), ids=lambda knob: knob.name)
def test_a_default_passes_its_own_bounds_as_text_too(knob):
    settings = load(environ={knob.variable: as_text(knob.default)}).settings
    assert getattr(settings, knob.name) == knob.default


@pytest.mark.parametrize(
    "knob",
    [knob for knob in describe() if knob.unit not in {"text", "url", "true|false"}],
    ids=lambda k: k.name,
)
def test_a_number_has_bounds_and_just_outside_is_refused(knob):
    low, high = knob.bounds.removeprefix("above ").replace(",", "").split(" to ")
    for outside in (float(low) - 1, float(high) + 1):
        text = f"{outside:.0f}"
        with pytest.raises(SettingsError, match=knob.variable):
            load(environ={knob.variable: text})


@pytest.mark.parametrize(
    ("variable", "name", "default"),
    [
        ("MAX_WS_CONNECTIONS_PER_USER", "max_connections_per_user", 5),
        ("WS_HEARTBEAT_INTERVAL", "heartbeat_interval_s", 30),
        ("MESSAGE_BATCH_SIZE", "messages_per_frame", 100),
        ("NOTIFICATION_QUEUE_SIZE", "notification_queue_size", 10_000),
        ("REDIS_URL", "redis_url", ""),
        ("POSTGRES_URL", "postgres_url", ""),
    ],
)
def test_the_users_variables_keep_their_names_and_defaults(variable, name, default):
    assert KNOBS[name].variable == variable
    assert getattr(load(environ={}).settings, name) == default


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_default(toml):
    path = toml("port = 1001\nbacklog = 11\naccept_batch = 21\n")
    environ = {"REALTIME_PORT": "1002", "REALTIME_BACKLOG": "12"}
    loaded = load(config=path, environ=environ, options={"port": "1003"})
    settings = loaded.settings
    assert (settings.port, settings.backlog, settings.accept_batch) == (1003, 12, 21)
    assert loaded.sources["port"] == "--port"
    assert loaded.sources["backlog"] == "REALTIME_BACKLOG"
    assert loaded.sources["accept_batch"] == f"{path}: accept_batch"
    assert loaded.sources["host"] == "default"


def test_the_file_may_be_named_by_the_environment_and_the_option_wins(toml, tmp_path):
    path = toml("port = 1001\n")
    other = tmp_path / "other.toml"
    other.write_text("port = 2001\n")
    environ = {"REALTIME_CONFIG": str(path)}
    assert load(environ=environ).settings.port == 1001
    assert load(environ=environ, config=other).settings.port == 2001


def test_an_empty_variable_counts_as_unset():
    assert load(environ={"REALTIME_PORT": ""}).settings.port == 8000


def test_an_empty_variable_turns_off_what_is_on_by_default(toml):
    path = toml('jwt_secret = "0123456789abcdef0123456789abcdef"')
    settings = load(config=path, environ={"REALTIME_SQLITE_PATH": "", "REALTIME_JWT_SECRET": ""}).settings
    assert settings.sqlite_path == ""
    assert not settings.open_mode  # no more than that


def test_an_unknown_variable_is_an_error_that_names_the_nearest():
    with pytest.raises(
        SettingsError, match=r"REALTIME_MAX_CONECTIONS.*did you mean REALTIME_MAX_CONNECTIONS\?"
    ):
        load(environ={"REALTIME_MAX_CONECTIONS": "1"})


def test_an_unknown_key_of_the_file_is_an_error_that_names_the_nearest(toml):
    with pytest.raises(SettingsError, match=r"'prot'.*did you mean port\?"):
        load(config=toml("prot = 1\n"), environ={})


def test_foreign_variables_are_no_business_of_ours():
    assert load(environ={"PATH": "/bin", "MY_REALTIME_PORT": "x"}).settings == Settings()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("port = ", "is not TOML"),
        ('port = "x"', "int"),
        ("port = 8000.5", "int"),
        ("port = true", "int"),
        ("compression = 1", "bool"),
        ("host = 1", "str"),
        ("port = 70000", "65535"),
        ("allowed_origins = [1]", "str"),
        ("[server]\nport = 1", "unknown setting 'server'"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(toml, text, reason):
    with pytest.raises(SettingsError, match=reason):
        load(config=toml(text), environ={})


def test_an_absent_file_and_one_that_is_not_text_are_refused_by_name(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.toml: No such file"):
        load(config=tmp_path / "nowhere.toml", environ={})
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"binary\.toml is not TOML"):
        load(config=binary, environ={})


def test_lists_are_comma_separated_in_text_and_arrays_in_the_file(toml):
    path = toml('allowed_origins = ["https://a.example", "http://b.example:8080"]\n')
    expected = ("https://a.example", "http://b.example:8080")
    assert load(config=path, environ={}).settings.allowed_origins == expected
    text = "https://a.example, http://b.example:8080"
    assert load(environ={"REALTIME_ALLOWED_ORIGINS": text}).settings.allowed_origins == expected


@pytest.mark.parametrize("origin", ["example.com", "https://a.example/", "https://a.example/x", "*"])
def test_an_origin_that_no_browser_would_send_is_refused(origin):
    with pytest.raises(SettingsError, match="allowed_origins"):
        load(environ={"REALTIME_ALLOWED_ORIGINS": origin})


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"REALTIME_RECONNECT_MIN_MS": "20000"}, "above reconnect_max_ms"),
        ({"REALTIME_ECHO_PATH": "/ws"}, "both /ws"),
        ({"REALTIME_ANSWER_BYTES": str(1 << 20)}, "answer_bytes 1048576 is not below unicast_limit_bytes"),
        ({"REALTIME_UNICAST_LIMIT_BYTES": "65536"}, "answer_bytes 524288 is not below"),
        ({"REALTIME_RING_BEAT_S": "0.6"}, "ring_ttl_s 1.5 is below three times ring_beat_s 0.6"),
        ({"REALTIME_WS_PATH": "ws"}, "REALTIME_WS_PATH"),
        ({"REALTIME_WS_PATH": "/"}, "REALTIME_WS_PATH"),
        ({"REALTIME_JWT_ALGORITHMS": "none"}, "none"),
        ({"REALTIME_JWT_ALGORITHMS": ","}, "length >= 1"),
    ],
)
def test_values_that_contradict_each_other_or_make_no_sense_are_refused(environ, reason):
    with pytest.raises(SettingsError, match=reason):
        load(environ=environ)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_open_mode_and_short_keys_stay_on_loopback(host):
    with pytest.raises(SettingsError, match="REALTIME_JWT_SECRET"):
        load(environ={"REALTIME_HOST": host})
    with pytest.raises(SettingsError, match="32 bytes"):
        load(environ={"REALTIME_HOST": host, "REALTIME_JWT_SECRET": KEY[:31]})
    assert load(environ={"REALTIME_HOST": host, "REALTIME_JWT_SECRET": KEY}).warnings == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_open_mode_and_short_keys_warn_on_loopback(host):
    (warning,) = load(environ={"REALTIME_HOST": host}).warnings
    assert "OPEN MODE" in warning
    (warning,) = load(environ={"REALTIME_HOST": host, "REALTIME_JWT_SECRET": "short"}).warnings
    assert "32 bytes" in warning


def test_a_secret_is_never_printed():
    environ = {
        "REALTIME_JWT_SECRET": KEY,
        "REDIS_URL": "redis://user:hunter2@redis.example:6379/0",
        "POSTGRES_URL": "postgresql://db.example/app?user=u&password=hunter2",
    }
    settings = load(environ=environ).settings
    for text in (repr(settings), str(settings), *(knob.show(settings) for knob in describe())):
        assert KEY not in text
        assert "hunter2" not in text
    assert KNOBS["redis_url"].show(settings) == "redis://***@redis.example:6379/0"


def test_an_error_about_a_secret_does_not_show_it():
    with pytest.raises(SettingsError) as caught:
        load(environ={"REDIS_URL": "hunter2@redis"})
    assert "hunter2" not in str(caught.value)


def test_mask_says_that_something_is_set():
    assert mask("") == ""
    assert mask("hunter2") == "(set)"


def test_a_queue_is_never_smaller_than_two_of_the_largest_messages():
    settings = Settings(max_message_bytes=16 * 1024 * 1024)
    assert settings.queue_bytes(1024) == 32 * 1024 * 1024
    assert Settings().queue_bytes(4 * 1024 * 1024) == 4 * 1024 * 1024
