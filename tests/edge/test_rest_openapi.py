"""Whether the API is what its OpenAPI document says: hypothesis makes requests of it, schemathesis judges."""

import asyncio
import json

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from realtime.core.powers import POWERS
from realtime.edge.rest.openapi import document
from realtime.edge.rest.operations import OPERATIONS
from tests.edge.rest import Keys, ask_now, staged

EXAMPLES = 25
# That no key, or a wrong one, opens nothing is held by test_rest_api.py: who guesses so often gets 429 here.
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
)
NAMES = [each.name for each in OPERATIONS]
# They would end what the other examples ask.
ENDING = ("drain",)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    keys = Keys().add("ops", ["admin:*"], ["default", "*"], rate=100_000)
    made = staged(tmp_path_factory.mktemp("fuzzed"), keys, audit_path="")
    yield made
    made.finish()


@pytest.fixture(scope="module")
def schema(stage):
    return schemathesis.openapi.from_url(f"{stage.url}/openapi.json")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ENDING])
def test_whatever_is_asked_is_answered_as_the_document_says(stage, schema, name):
    operation = schema.find_operation_by_id(name)
    headers = {"Authorization": f"Bearer {stage.keys.given['ops']}"}

    @hypothesis.seed(7)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    @hypothesis.given(data=hypothesis.strategies.data())
    def played(data):
        for mode in schemathesis.GenerationMode:
            case = data.draw(operation.as_strategy(generation_mode=mode))
            response = case.call(headers=headers)
            case.validate_response(response, checks=CHECKS, headers=headers)

    played()


def test_the_document_names_every_operation_with_its_power(stage):
    served = ask_now(stage.url, "/openapi.json").body
    assert served == json.loads(json.dumps(document()))
    assert served["openapi"] == "3.1.0"
    found = {
        each["operationId"]: each["description"]
        for path in served["paths"].values()
        for each in path.values()
    }
    assert found.keys() == set(NAMES)
    for operation in OPERATIONS:
        if operation.power:
            assert operation.power in POWERS
            assert f"`{operation.power}`" in found[operation.name]


def test_every_power_is_some_routes_or_widens_all_of_them():
    used = {operation.power for operation in OPERATIONS}
    assert set(POWERS) - used == {"admin:tenants"}


async def test_pages_need_nothing_of_others(stage):
    for path in ("/docs", "/dashboard"):
        page = await asyncio.to_thread(ask_now, stage.url, path)
        assert page.status == 200
        assert b"http://" not in page.body.replace(b"http://www.w3.org/", b"")
        assert b"https://" not in page.body
        assert "default-src 'none'" in page.headers["content-security-policy"]
        tag = page.headers["etag"]
        again = await asyncio.to_thread(ask_now, stage.url, path, headers={"If-None-Match": tag})
        assert (again.status, again.body) == (304, b"")
