"""What every `Database` promises: tables of features' own, beside what the store does for rooms."""

import asyncio
import math

import pytest
import pytest_asyncio

from realtime.core.database import Statement
from realtime.errors import BadMessage, Unavailable
from tests.contract.stores import Owner, a_row

STORES = ["sqlite", "postgres"]
EDGES = [
    None, 0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), 0.0, -0.5, 1e300, 5e-324, "", "a'b\"c\\", "naïve 日本 🎉",
    "a\x01\x1f\x7f\u2028", "$1 ?1 %s {x}", "x" * 100_000,
]  # fmt: skip


@pytest_asyncio.fixture(params=STORES)
async def place(request, tmp_path):
    from tests.contract.conftest import place_of

    return await place_of(request.param, request, tmp_path)


@pytest_asyncio.fixture
async def store(place, tmp_path):
    folder = tmp_path / "migrations" / place.dialect
    folder.mkdir(parents=True)
    kind = {"sqlite": ("INTEGER", "REAL"), "postgres": ("bigint", "double precision")}[place.dialect]
    (folder / "001_things.sql").write_text(
        f"CREATE TABLE things (id {kind[0]} PRIMARY KEY, number {kind[0]}, part {kind[1]}, said TEXT);"
    )
    opened = await place.open()
    await opened.migrate("things", folder.parent)
    yield opened
    await opened.close()


@pytest.fixture
def database(store):
    return store.tables


def put(id, said="x", **more):
    values = {"number": None, "part": None} | more
    return Statement(
        "INSERT INTO things (id, number, part, said) VALUES ($1, $2, $3, $4)",
        (id, values["number"], values["part"], said),
    )


async def ids(database):
    return [id for (id,) in await database.read("SELECT id FROM things ORDER BY id LIMIT 1000")]


async def test_it_says_which_sql_it_speaks(place, database):
    assert database.dialect == place.dialect


async def test_a_read_gives_rows_in_the_order_that_was_asked_for(database):
    await database.write(*(put(id, said=str(id % 3)) for id in range(10)))
    asked = "SELECT id AS a, said AS b FROM things WHERE id >= $1 ORDER BY said DESC, id LIMIT $2"
    assert await database.read(asked, 4, 4) == [(5, "2"), (8, "2"), (4, "1"), (7, "1")]
    assert await database.read("SELECT id FROM things WHERE id = $1", 99) == []
    assert await database.read("SELECT $2 AS b, $1 AS a, $2 AS again", "x", "y") == [("y", "x", "y")]


@pytest.mark.parametrize("value", EDGES, ids=lambda value: repr(value)[:30])
async def test_a_value_comes_back_as_it_was(database, value):
    column = "number" if isinstance(value, int) else "part" if isinstance(value, float) else "said"
    values = {"said": None} | {column: value}
    await database.write(put(1, **values))
    ((found,),) = await database.read(f"SELECT {column} FROM things WHERE id = $1", 1)
    assert (found, type(found)) == (value, type(value))
    ((returned,),) = (
        await database.write(Statement(f"UPDATE things SET id = 2 WHERE id = 1 RETURNING {column}"))
    )[0]
    assert returned == value  # of a whole float SQLite returns an integer from where it is written


async def test_a_column_may_have_any_name(database):
    await database.write(put(1))
    asked = 'SELECT id AS "a ""b"" c", count(*) AS "n" FROM things GROUP BY id LIMIT 5'
    assert await database.read(asked) == [(1, 1)]


async def test_a_read_may_end_in_a_comment(database):
    assert await database.read("SELECT count(*) AS n FROM things -- all of them") == [(0,)]


async def test_a_write_gives_what_each_statement_returns(database):
    found = await database.write(
        put(1),
        Statement("INSERT INTO things (id) VALUES ($1), ($2) RETURNING id", (2, 3)),
        Statement("UPDATE things SET said = $1 WHERE id > $2", ("new", 1)),
        Statement("DELETE FROM things WHERE id = $1 RETURNING said", (3,)),
    )
    assert found == [[], [(2,), (3,)], [], [("new",)]]


async def test_a_transaction_is_undone_by_its_last_statement(database):
    await database.write(put(1))
    with pytest.raises(Unavailable):
        await database.write(put(2), Statement("UPDATE things SET said = 'gone'"), put(1))
    assert await database.read("SELECT id, said FROM things LIMIT 5") == [(1, "x")]
    await database.write(put(2))
    assert await ids(database) == [1, 2]


@pytest.mark.parametrize(
    ("sql", "values"),
    [("SELEKT 1", ()), ("SELECT n FROM nowhere", ()), ("SELECT id FROM things WHERE id = $1", (object(),))],
)
async def test_wrong_sql_is_unavailable_and_breaks_nothing(store, database, sql, values):
    for _ in range(12):  # more than there are connections
        with pytest.raises(Unavailable):
            await database.read(sql, *values)
        with pytest.raises(Unavailable):
            await database.write(put(1), Statement(sql, values))
    await Owner(store).keep([a_row(store, 1)])
    await database.write(put(1))
    assert await ids(database) == [1]
    assert store.ok


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "a\0", "\ud800", math.inf, math.nan], ids=ascii)
async def test_a_value_that_no_database_has_is_the_peers_mistake(database, value):
    """A peer's numbers and texts become values; what one store takes and another does not, none does."""
    with pytest.raises(BadMessage):
        await database.read("SELECT id FROM things WHERE id = $1", value)
    with pytest.raises(BadMessage):
        await database.write(put(1), put(2, said=value))
    assert await ids(database) == []


async def test_reads_go_on_beside_writes_and_see_whole_transactions(database):
    await database.write(*(put(id, number=0) for id in range(2)))
    writing = True

    async def write():
        nonlocal writing
        for number in range(1, 60):
            await database.write(*(Statement("UPDATE things SET number = $1", (number,)) for _ in range(2)))
        writing = False

    async def read():
        seen = 0
        while writing:
            ((low, high),) = await database.read("SELECT min(number) AS a, max(number) AS b FROM things")
            assert low == high
            assert low >= seen, "what was seen once is not undone"
            seen = low
        return seen

    done = await asyncio.gather(write(), *(read() for _ in range(8)))
    assert max(done[1:]) > 0


async def test_what_is_written_is_read_by_whoever_asks_next(database):
    for id in range(50):
        await database.write(put(id))
        assert len(await ids(database)) == id + 1


async def test_rows_of_rooms_are_kept_while_features_write_and_fail(store, database):
    owner = Owner(store)
    rows = [a_row(store, offset) for offset in range(1, 201)]
    keeping = asyncio.ensure_future(owner.keep(rows))
    outcomes = await asyncio.gather(
        *(database.write(put(id % 40)) for id in range(80)), return_exceptions=True
    )
    await keeping
    failed = [each for each in outcomes if isinstance(each, Exception)]
    assert len(failed) == 40
    assert {type(each) for each in failed} == {Unavailable}
    assert len(await ids(database)) == 40
    assert owner.kept() == list(range(1, 201))


async def test_a_trigger_of_a_features_follows_what_is_published_in_its_transaction(
    place, store, database, tmp_path
):
    folder = tmp_path / "follow" / place.dialect
    folder.mkdir(parents=True)
    if place.dialect == "sqlite":
        sql = (
            "CREATE TRIGGER follows AFTER INSERT ON publications BEGIN "
            'INSERT INTO things (id) VALUES (NEW."offset"); END;'
        )
    else:
        sql = (
            "CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO things (id) "
            'SELECT "offset" FROM added; RETURN NULL; END $$; CREATE TRIGGER follows AFTER INSERT ON '
            "publications REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION follow();"
        )
    (folder / "001_follow.sql").write_text(sql)
    await store.migrate("follow", folder.parent)
    owner = Owner(store)
    await owner.keep([a_row(store, offset) for offset in range(1, 21)])
    assert await ids(database) == list(range(1, 21))
    await owner.keep([a_row(store, 20)])  # what is there already sets nothing off
    assert await ids(database) == list(range(1, 21))


async def test_what_is_asked_while_it_closes_is_answered_or_refused(store, database):
    await database.write(*(put(id) for id in range(100)))
    asked = "SELECT count(*) AS n FROM things a, things b, things c"  # a million rows: it takes a while
    reading = [asyncio.ensure_future(database.read(asked)) for _ in range(6)]
    writing = [asyncio.ensure_future(database.write(put(1000 + id))) for id in range(20)]
    await asyncio.sleep(0)
    await store.close()
    outcomes = await asyncio.gather(*reading, *writing, return_exceptions=True)
    assert {type(each) for each in outcomes} <= {list, Unavailable}
    for late in (database.read("SELECT 1 AS n"), database.write(put(1))):
        with pytest.raises(Unavailable):
            await late
