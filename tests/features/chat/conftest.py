"""What tests of the chat share."""

import pytest
import pytest_asyncio

from tests.features.chat.ordered import Place


@pytest.fixture(params=["sqlite", "postgres"])
def order_store(request) -> str:
    return request.param


@pytest_asyncio.fixture
async def place(serve, tmp_path, order_store, request):
    url = None
    if order_store == "postgres":
        url = await request.getfixturevalue("postgres").new_database()
    place = Place(serve, tmp_path, url)
    yield place
    await place.close()
