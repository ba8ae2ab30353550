"""The gate: which handshakes are let in, as whom, and in which protocol. No I/O; the hub acts on the answer.

A reconnect storm is made of these decisions, so the common case (our path, no list of origins, no extension)
is a handful of lookups, and what is not needed to decide is left for the connection's first message.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import Final, Protocol
from urllib.parse import parse_qs, unquote

from realtime.core.audit import NO_AUDITOR, Auditor
from realtime.core.auth import Authenticator, Identity
from realtime.core.router import error_reason
from realtime.core.session import Session
from realtime.edge.expiry import SilentTokens
from realtime.edge.welcome import Welcome
from realtime.errors import BadMessage, ConnectionLimit, Forbidden, RealtimeError, TokenExpired, Unavailable
from realtime.ids import UserId, parse_user
from realtime.native.encode import json_string
from realtime.native.hub import Accept, Refuse
from realtime.protocol import deflate, subprotocols
from realtime.protocol.origins import OriginRules
from realtime.protocol.subprotocols import JSON, MSGPACK, Choice
from realtime.settings import Settings

NOT_FOUND: Final = Refuse(404, "no WebSocket endpoint here\n")
BAD_ORIGIN: Final = Refuse(403, "this Origin may not connect\n")
RESTARTING: Final = Refuse(503, "this server is restarting\n", "Retry-After: 1\r\n")
# What nearly every client offers; anything else is parsed.
KNOWN_OFFERS: Final = {JSON: Choice(JSON), MSGPACK: Choice(MSGPACK, True), None: Choice()}

negotiate = lru_cache(maxsize=64)(deflate.negotiate)  # a handful of clients make all the offers there are


class Guest:
    """The state of an open-mode connection that named no user and has not said anything yet."""

    __slots__ = ()


class Echo:
    """The state of a connection to the echo path: the hub answers it by itself."""

    __slots__ = ()


class Pending:
    """The state of a connection that has to send its token: `user` is the one its path names, if any."""

    __slots__ = ("user",)

    def __init__(self, user: UserId | None) -> None:
        self.user = user


State = Guest | Echo | Pending | Identity | Session
"""What a connection is to the edge. An idle one holds no object of its own: Guest and Echo are shared, an
Identity belongs to its token."""

GUEST: Final = Guest()
ECHO: Final = Echo()


class Request(Protocol):
    """What is looked at of a handshake, whoever received it."""

    @property
    def connection_id(self) -> int: ...
    @property
    def address(self) -> str: ...
    @property
    def query(self) -> str: ...
    def header(self, name: str) -> str | None: ...


class Directed(Request, Protocol):
    """A handshake by the path that it asks for."""

    @property
    def path(self) -> str: ...


class Admissions(Protocol):
    """Who may have one connection more, and the key that it then belongs to; the core."""

    def admit(self, identity: Identity, number: int) -> int: ...


class Gate:
    """Answers handshakes, from `open` on; once `draining` is set it lets nobody in any more."""

    _admissions: Admissions
    _silent: SilentTokens
    _welcome: Welcome

    def __init__(
        self, settings: Settings, authenticator: Authenticator | None, audit: Auditor = NO_AUDITOR
    ) -> None:
        self.draining = False
        self.refusals: Counter[str] = Counter()  # of handshakes over a limit, by its name
        self._authenticator = authenticator
        self._audit = audit
        self._path = settings.ws_path
        self._prefix = settings.ws_path + "/"
        self._echo_path = settings.echo_path
        self._origins = OriginRules()
        self._compression = settings.compression
        self._query_token = settings.allow_query_token

    def open(self, admissions: Admissions, welcome: Welcome, silent: SilentTokens) -> None:
        """Begin to let clients in. Not in the constructor: the hub, which these stand on, needs a gate."""
        self._admissions = admissions
        self._welcome = welcome
        self._silent = silent

    def allow_origins(self, origins: OriginRules) -> None:
        """Let browsers connect from the pages of these; an empty list is of all pages."""
        self._origins = origins

    def on_handshake(self, handshake: Directed) -> Accept | Refuse:
        """Let a client in or not, by the path that it asks for."""
        barred = self._barred(handshake)
        if barred is not None:
            return barred
        path = handshake.path
        user: UserId | None = None
        try:
            if path != self._path:
                if not path.startswith(self._prefix):
                    return self._echo(handshake) if path == self._echo_path else NOT_FOUND
                user = _user(path[len(self._prefix) :])
        except (BadMessage, ValueError) as error:
            return Refuse(400, f"{error}\n")
        return self._judge(handshake, user)

    def on_request(self, request: Request, user: str | None) -> Accept | Refuse:
        """Let a client in or not whom somebody else's routes lead here, to be `user` where that is given."""
        barred = self._barred(request)
        if barred is not None:
            return barred
        try:
            return self._judge(request, None if user is None else parse_user(user))
        except BadMessage as error:
            return Refuse(400, f"{error}\n")

    def _barred(self, handshake: Request) -> Refuse | None:
        """The refusal of whoever may not come in, whoever it is."""
        if self.draining:
            return RESTARTING
        if self._origins and not self._origins.allow(handshake.header("origin")):
            return BAD_ORIGIN
        return None

    def _judge(self, handshake: Request, user: UserId | None) -> Accept | Refuse:
        offers = handshake.header("sec-websocket-protocol")
        try:
            choice = KNOWN_OFFERS.get(offers) or subprotocols.choose(offers)
            extensions, bits = self._deflate(handshake) if self._compression else (None, 0)
        except (BadMessage, ValueError) as error:
            return Refuse(400, f"{error}\n")
        if self._authenticator is None:
            return self._open(handshake.connection_id, user, choice, extensions, bits)
        return self._locked(handshake, user, choice, extensions, bits)

    def _open(
        self, number: int, user: UserId | None, choice: Choice, extensions: str | None, bits: int
    ) -> Accept:
        """Let anybody in, as whom they say."""
        if user is None:
            welcome = self._welcome.guest(number)
            state: State = GUEST
            key = 0
        else:
            state = Identity(user)
            try:
                key = self._admissions.admit(state, number)
            except RealtimeError as error:
                self._count(error)
                return _accept_to_close(error, choice)
            welcome = self._welcome.json(number, json_string(user))
        return self._accept(state, choice, extensions, bits, welcome, key)

    def _locked(
        self, handshake: Request, user: UserId | None, choice: Choice, extensions: str | None, bits: int
    ) -> Accept | Refuse:
        """Let in whom a token speaks for; who brings none has to send it as the first message."""
        header = _bearer(handshake.header("authorization"))
        token = header if header is not None else choice.token
        if token is None and self._query_token:
            token = _query_token(handshake.query)
        state: State = Pending(user)
        welcome = None
        key = 0
        if token is not None:
            try:
                state = self._authenticate(token, user)
                key = self._admissions.admit(state, handshake.connection_id)
            except RealtimeError as error:
                self._count(error)
                seen = header is not None and not isinstance(error, ConnectionLimit)
                return _refuse(error) if seen else _accept_to_close(error, choice)
            self._silent.add(state)
            welcome = self._welcome.json(handshake.connection_id, json_string(state.user), state.tenant)
        return self._accept(state, choice, extensions, bits, welcome, key)

    def _accept(
        self,
        state: State,
        choice: Choice,
        extensions: str | None,
        bits: int,
        welcome: bytes | None,
        user_key: int,
    ) -> Accept:
        """Let in; to whom nothing is said yet, the handshake deadline goes on until it has authenticated."""
        if welcome is not None and choice.binary:
            welcome = self._welcome.packed(welcome)
        return Accept(
            state,
            subprotocol=choice.subprotocol,
            extensions=extensions,
            binary=choice.binary,
            deflate_bits=bits,
            pending=welcome is None,
            welcome=welcome,
            user_key=user_key,
        )

    def _count(self, error: RealtimeError) -> None:
        if error.limit is not None:
            self.refusals[error.limit] += 1

    def _authenticate(self, token: str, user: UserId | None) -> Identity:
        assert self._authenticator is not None
        identity = self._authenticator.authenticate(token)
        if not isinstance(identity, Identity):
            raise Unavailable("this token cannot be judged at once; send it in a `connect` message")
        if user is not None and user != identity.user:
            raise Forbidden("the token is another user's than the path names")
        return identity

    def _echo(self, handshake: Request) -> Accept:
        """Let anybody in to be echoed. Suites test compression here, whatever the setting says."""
        extensions, bits = self._deflate(handshake)
        return Accept(ECHO, extensions=extensions, deflate_bits=bits, echo=True)

    def _deflate(self, handshake: Request) -> tuple[str | None, int]:
        """(header, window bits) of the compression agreed on.

        Raises:
            ValueError: the client's header is malformed.
        """
        offers = handshake.header("sec-websocket-extensions")
        agreement = negotiate(offers) if offers else None
        return (None, 0) if agreement is None else (agreement.header, agreement.window_bits)


def _user(segment: str) -> UserId:
    """The user that the path names.

    Raises:
        BadMessage: it is no user id.
        ValueError: it is no UTF-8 when decoded.
    """
    if "/" in segment:
        raise BadMessage("the path names more than a user id")
    return parse_user(unquote(segment, errors="strict") if "%" in segment else segment)


def _bearer(authorization: str | None) -> str | None:
    """The token of an Authorization header; None for another scheme, which may be meant for a proxy."""
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _query_token(query: str) -> str | None:
    try:
        return parse_qs(query, max_num_fields=32)["token"][0]
    except (KeyError, ValueError):  # none, or too many fields to look through
        return None


def _refuse(error: RealtimeError) -> Refuse:
    """Refuse by an HTTP status, for a client that set a header and so will see it."""
    headers = 'WWW-Authenticate: Bearer error="invalid_token"\r\n' if error.number == 401 else ""
    if error.retry_after_s is not None:
        headers += f"Retry-After: {math.ceil(error.retry_after_s)}\r\n"
    limit = "" if error.limit is None else f"{error.limit}: "
    blameless = isinstance(error, TokenExpired)  # so it was a good one
    return Refuse(error.number, f"{limit}{error.message}\n", headers, blameless=blameless)


def _accept_to_close(error: RealtimeError, choice: Choice) -> Accept:
    """Refuse by a close code, for a browser: it shows its page no HTTP status, and so would try for ever."""
    return Accept(
        ECHO,
        subprotocol=choice.subprotocol,
        binary=choice.binary,
        close_code=error.close_code,
        close_reason=error_reason(error),
    )
