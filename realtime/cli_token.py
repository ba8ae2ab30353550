"""`realtime token make` and `realtime token check`: make tokens, and say what is wrong with one."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realtime.core.auth import ROOM_ACTIONS
from realtime.errors import BadMessage, RealtimeError, SettingsError, TokenExpired, Unauthorized
from realtime.policy import Policy, load_policy
from realtime.settings import Settings

if TYPE_CHECKING:
    from realtime.backends.auth.compact import Parsed
    from realtime.backends.auth.issuer import Judge

Read = Callable[[argparse.Namespace], Settings]
"""Returns the settings that a command line, a file and the environment say."""
AddConfig = Callable[[argparse.ArgumentParser], None]

TTL_S_MAX = 10 * 365 * 86_400
KEY_BYTES_MAX = 64 * 1024
TOKEN_CHARS_MAX = 64 * 1024
SHOWN_CHARS_MAX = 200


def add_commands(commands: Any, add_config: AddConfig, read: Read) -> None:
    """Add `token` to the parser's `commands`."""
    token = commands.add_parser(
        "token", help="make a token, or check one", description="Make tokens for clients, and check them."
    )
    verbs = token.add_subparsers(title="verbs", metavar="VERB", required=True)
    for add, run in ((_add_make, _make), (_add_check, _check)):
        parser = add(verbs)
        add_config(parser)
        parser.set_defaults(run=lambda parsed, run=run: run(parsed, read(parsed)))


# ---------------------------------------------------------------- make


def _add_make(verbs: Any) -> argparse.ArgumentParser:
    make: argparse.ArgumentParser = verbs.add_parser(
        "make",
        help="sign a token",
        description="Sign a token and print it: with jwt_secret (REALTIME_JWT_SECRET or the config file), or "
        "with a private key by RS256, ES256, ES384, ES512 or EdDSA, as the key is.",
    )
    make.add_argument("--sub", required=True, metavar="USER", help="user id the token speaks for")
    make.add_argument("--tenant", default="default", help="tenant of the user (default: default)")
    make.add_argument(
        "--roles", default=[], type=_names, metavar="A,B", help="roles, separated by commas (default: none)"
    )
    make.add_argument(
        "--ttl", type=_seconds, default=3600.0, metavar="SECONDS", help="how long it holds (default: 3600)"
    )
    make.add_argument("--jti", default="", help="id of the token itself (default: none)")
    make.add_argument("--room", default="", help="make a room token, which lets into this private room")
    make.add_argument(
        "--can",
        default=[],
        type=_names,
        metavar="A,B",
        help=f"what a room token allows there, of {', '.join(ROOM_ACTIONS)} (default: all)",
    )
    make.add_argument("--iss", default="", metavar="ISSUER", help="who issues it (default: not said)")
    make.add_argument(
        "--aud", default=[], type=_names, metavar="A,B", help="for whom it is (default: not said)"
    )
    make.add_argument("--scope", default="", help="scopes, separated by spaces (default: none)")
    make.add_argument(
        "--key", type=Path, metavar="FILE", help="private key in PEM form (default: jwt_secret)"
    )
    make.add_argument("--kid", default="", help="id of that key (default: not said)")
    make.add_argument(
        "--alg", default="", help="algorithm (default: the key's, or the first of jwt_algorithms)"
    )
    return make


def _make(parsed: argparse.Namespace, settings: Settings) -> int:
    from realtime.backends.auth.minting import algorithm_of, make_token

    key: str | bytes
    if parsed.key is not None:
        key = _read_key(parsed.key)
        algorithm = parsed.alg or algorithm_of(key)
        if algorithm.startswith("HS"):
            raise BadMessage("--alg: HS algorithms sign with jwt_secret, not with a file")
    elif settings.jwt_secret:
        key, algorithm = settings.jwt_secret, parsed.alg or settings.jwt_algorithms[0]
        if algorithm not in settings.jwt_algorithms:
            raise BadMessage(f"--alg: jwt_algorithms has {', '.join(settings.jwt_algorithms)} alone")
    else:
        raise SettingsError(
            "no key to sign with: set REALTIME_JWT_SECRET, or jwt_secret in the config file, or give --key"
        )
    aud = parsed.aud[0] if len(parsed.aud) == 1 else parsed.aud
    more = {"iss": parsed.iss, "aud": aud, "scope": parsed.scope}
    print(
        make_token(
            key,
            user=parsed.sub,
            ttl_s=parsed.ttl,
            tenant=parsed.tenant,
            roles=parsed.roles,
            token_id=parsed.jti,
            algorithm=algorithm,
            key_id=parsed.kid,
            room=parsed.room,
            can=parsed.can,
            more={name: value for name, value in more.items() if value},
        )
    )
    return 0


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(KEY_BYTES_MAX)
    except OSError as error:
        raise BadMessage(f"--key {path}: {error.strerror}") from error


# ---------------------------------------------------------------- check


def _add_check(verbs: Any) -> argparse.ArgumentParser:
    check: argparse.ArgumentParser = verbs.add_parser(
        "check",
        help="say whether a token would be taken, or why not",
        description="Judge a token as the server would, by its settings and policy (keys behind URLs are "
        "fetched), and print what it says. Exit code 0 for one that is good, 1 for any other. Revocations "
        "are the workers' to know and not looked at.",
    )
    check.add_argument("token", metavar="TOKEN", help="the token; - reads it from standard input")
    return check


def _check(parsed: argparse.Namespace, settings: Settings) -> int:
    text = sys.stdin.read(TOKEN_CHARS_MAX).strip() if parsed.token == "-" else parsed.token
    policy = load_policy(Path(settings.policy_path)) if settings.policy_path else Policy()
    good, lines = asyncio.run(_judged(text, settings, policy))
    for line in lines:
        print(line)
    return 0 if good else 1


async def _judged(text: str, settings: Settings, policy: Policy) -> tuple[bool, list[str]]:
    """Whether a token would be taken, and what there is to say about it, line by line."""
    from realtime.backends.auth.authenticator import authenticator_of
    from realtime.backends.auth.compact import parse

    secrets = (settings.jwt_secret, *settings.jwt_previous_secrets) if settings.jwt_secret else ()
    if not secrets and not policy.issuers:
        raise SettingsError("no token would be taken: there is no jwt_secret, and no issuer in the policy")
    authenticator = authenticator_of(
        secrets,
        settings.jwt_algorithms,
        policy.issuers,
        audiences=settings.jwt_audiences,
        leeway_s=settings.jwt_leeway_s,
        cache_tokens=0,
    )
    try:
        parsed = parse(text)
    except Unauthorized as error:
        return False, [f"not valid: {error.message}"]
    lines = _described(parsed, time.time())
    try:
        judge = authenticator.judge(parsed)
        lines.insert(0, f"issuer:    {judge.terms.issuer or 'jwt_secret of the settings'}")
        lines.insert(1, f"key:       {await _key(judge, parsed)}")
        is_grant = "room" in parsed.claims
        outcome = authenticator.grant(text) if is_grant else authenticator.authenticate(text)
        if isinstance(outcome, Awaitable):
            await outcome
    except TokenExpired as error:
        return False, [*lines, f"not valid: {error.message}"]
    except RealtimeError as error:
        return False, [*lines, f"not valid: {error.message}"]
    finally:
        authenticator.close()
    return True, [*lines, "valid" if not is_grant else "valid: a room token"]


async def _key(judge: Judge, parsed: Parsed) -> str:
    """Which key the token has to be of."""
    found = judge.key_of(parsed)
    key = await found if isinstance(found, Awaitable) else found
    return f"{key.id or 'without an id'}, for {'/'.join(sorted(key.algorithms))}"


def _described(parsed: Parsed, now: float) -> list[str]:
    """What a token says of itself; nothing of it is proven by that."""
    lines = [f"algorithm: {parsed.algorithm[:SHOWN_CHARS_MAX]!s}"]
    if parsed.key_id is not None:
        lines.append(f"kid:       {parsed.key_id}")
    for name in sorted(parsed.claims):
        if name.isprintable() and len(name) <= 64:
            lines.append(f"claim {name}: {_shown(parsed.claims, name, now)}")
    return lines


def _shown(claims: Mapping[str, Any], name: str, now: float) -> str:
    value = claims[name]
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else value
    text = text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}…"
    if name in ("exp", "iat", "nbf") and isinstance(value, int | float) and 0 <= value < 1e11:
        when = datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")
        return f"{text} ({when}, {_apart(value - now)})"
    return text


def _apart(seconds: float) -> str:
    """A span in words: `in 5 min`, `2.0 h ago`."""
    size = abs(seconds)
    for unit, length in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if size >= length or unit == "s":
            said = f"{size / length:.0f} {unit}" if unit == "s" else f"{size / length:.1f} {unit}"
            return f"in {said}" if seconds >= 0 else f"{said} ago"
    raise AssertionError("seconds are left")


def _names(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name]


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= TTL_S_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, to ten years")
    return value
