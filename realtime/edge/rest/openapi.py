"""The OpenAPI 3.1 document of the API, from the types that its requests are decoded into."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from realtime import __version__
from realtime.edge.rest.operations import OPERATIONS, Operation
from realtime.edge.rest.problems import MEDIA_TYPE
from realtime.protocol.admin import Problem

JSON: Final = "application/json"
REFS: Final = "#/components/schemas/{name}"
ABOUT: Final = """\
The server API of `realtime`: what a back-end or an operator does without a WebSocket.

Every request has a key of the policy, or a token with powers, as `Authorization: Bearer`. Errors are
RFC 9457's problems with the names that the wire has.
"""
PROBLEMS: Final = {
    400: "The request is not what this page says.",
    401: "No key and no token, or one that is none of ours.",
    403: "The key or the token does not have this power here.",
    413: "The body is larger than what is taken.",
    429: "Too many requests: wait `Retry-After` seconds.",
    500: "The server failed; its log says over what.",
    503: "Workers, or what they stand on, give no answer: whether it was done, a repeat with its key tells.",
}
_RETRY: Final = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}


def document() -> dict[str, Any]:
    """Return the whole document."""
    types: dict[type, None] = dict.fromkeys(type for each in OPERATIONS for type in (each.asked, each.answer))
    schemas, components = msgspec.json.schema_components([*types, Problem], ref_template=REFS)
    by_type: dict[type, Any] = dict(zip([*types, Problem], schemas, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {"title": "realtime", "version": __version__, "description": ABOUT, "license": _LICENSE},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [{"name": group} for group in dict.fromkeys(each.group for each in OPERATIONS)],
        "paths": {each.path: {each.method.lower(): _operation(each, by_type)} for each in OPERATIONS},
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


_LICENSE: Final = {"name": "MIT", "identifier": "MIT"}


def _operation(each: Operation, by_type: Mapping[type, Any]) -> dict[str, Any]:
    said = inspect.cleandoc(each.act.__doc__ or "").partition("\n")[0]
    needs = f"Needs the power `{each.power}`." if each.power else "Each command needs its own power."
    taken: dict[str, Any] = {}
    if each.method == "GET":
        parameters = _parameters(each.asked)
        taken = {"parameters": parameters} if parameters else {}
    else:
        content = {JSON: {"schema": by_type[each.asked]}}
        taken = {"requestBody": {"required": True, "content": content}}
        if "key" in each.asked.__struct_fields__:
            taken["parameters"] = [_IDEMPOTENCY]
    answers = {"200": {"description": "Done.", "content": {JSON: {"schema": by_type[each.answer]}}}}
    known = {**PROBLEMS, **({} if each.method == "GET" else _BODY_PROBLEMS)}
    for status, description in sorted(known.items()):
        answers[str(status)] = {
            "description": description,
            "content": {MEDIA_TYPE: {"schema": by_type[Problem]}},
            **({"headers": {"Retry-After": _RETRY}} if status == 429 else {}),
        }
    return {
        "operationId": each.name,
        "tags": [each.group],
        "summary": said,
        "description": f"{inspect.cleandoc(each.asked.__doc__ or '')} {needs}",
        **taken,
        "responses": answers,
    }


_BODY_PROBLEMS: Final = {
    404: "Rooms of this kind, or the type, are not known.",
    409: "Someone else changed it first.",
    415: "The body is not application/json.",
    422: "A limit of rooms is met.",
    507: "The tenant keeps as much as it may.",
}
_IDEMPOTENCY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same as `key` in the body.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[!-~]+$"},
}


def _parameters(asked: type[msgspec.Struct]) -> list[dict[str, Any]]:
    """What stands in a query: the fields of a struct, whose absence is their default."""
    _, components = msgspec.json.schema_components([asked], ref_template=REFS)
    schema = components[asked.__name__]
    required = set(schema.get("required", ()))
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "description": _described(field),
            "schema": _present(field),
        }
        for name, field in schema["properties"].items()
    ]


def _present(field: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that is given: no query says null."""
    options = [each for each in field.get("anyOf", ()) if each != {"type": "null"}]
    found = dict(options[0]) if len(options) == 1 else dict(field)
    if found.get("default", 0) is None:
        del found["default"]
    return found


def _described(field: Mapping[str, Any]) -> str:
    said = field.get("description") or _present(field).get("description", "")
    return str(said)
