"""The store that the settings name, with the tables of every feature."""

import sqlite3
from pathlib import Path

import pytest

from realtime.backends.store_postgres import PostgresStore
from realtime.backends.store_sqlite import SqliteStore
from realtime.core.clock import SystemClock
from realtime.core.feature import Feature
from realtime.edge import store
from realtime.errors import StartupError
from realtime.settings import Settings


@pytest.fixture
def playlist(tmp_path: Path) -> Feature:
    """A feature with a table, in both dialects."""
    for dialect in ("sqlite", "postgres"):
        folder = tmp_path / "migrations" / dialect
        folder.mkdir(parents=True)
        (folder / "001_songs.sql").write_text("CREATE TABLE songs (title TEXT);\n")
    return Feature(name="playlist", migrations=tmp_path / "migrations")


async def test_no_store_is_none():
    assert await store.open_store(Settings(sqlite_path=""), SystemClock(), []) is None


async def test_a_file_is_opened_with_the_tables_of_every_feature(tmp_path, playlist):
    path = tmp_path / "s.sqlite"
    opened = await store.open_store(
        Settings(sqlite_path=str(path)), SystemClock(), [Feature(name="bare"), playlist]
    )
    assert isinstance(opened, SqliteStore)
    await opened.close()
    db = sqlite3.connect(path)
    assert db.execute("SELECT feature, name FROM migrations").fetchall() == [
        ("core", "001_publications.sql"),
        ("playlist", "001_songs.sql"),
        ("sealing", "001_data_keys.sql"),
    ]
    assert db.execute("SELECT * FROM songs").fetchall() == []
    db.close()


async def test_postgres_goes_before_a_file(tmp_path, playlist, postgres):
    path = tmp_path / "s.sqlite"
    settings = Settings(sqlite_path=str(path), postgres_url=await postgres.new_database())
    opened = await store.open_store(settings, SystemClock(), [playlist])
    assert isinstance(opened, PostgresStore)
    await opened.close()
    assert not path.exists()


async def test_a_feature_that_cannot_be_migrated_leaves_the_store_free(tmp_path, playlist):
    broken = tmp_path / "migrations" / "sqlite" / "002_broken.sql"
    broken.write_text("CREATE TABLE;\n")
    settings = Settings(sqlite_path=str(tmp_path / "s.sqlite"))
    with pytest.raises(StartupError, match=r"playlist: 002_broken\.sql failed"):
        await store.open_store(settings, SystemClock(), [playlist])
    broken.unlink()
    opened = await store.open_store(settings, SystemClock(), [playlist])
    await opened.close()


def test_what_is_due_is_applied_and_returned_once(tmp_path, playlist):
    settings = Settings(sqlite_path=str(tmp_path / "s.sqlite"))
    assert [(row.feature, row.name) for row in store.migrate(settings, [playlist])] == [
        ("core", "001_publications.sql"),
        ("playlist", "001_songs.sql"),
        ("sealing", "001_data_keys.sql"),
    ]
    assert store.migrate(settings, [playlist]) == []
    (tmp_path / "migrations" / "sqlite" / "002_artists.sql").write_text("CREATE TABLE artists (name TEXT);")
    states = [line.split() for line in store.status(settings, [playlist])]
    assert [(words[0], words[1], words[2]) for words in states] == [
        ("core", "001_publications.sql", "applied"),
        ("sealing", "001_data_keys.sql", "applied"),
        ("playlist", "001_songs.sql", "applied"),
        ("playlist", "002_artists.sql", "due"),
    ]
    assert [row.name for row in store.migrate(settings, [playlist])] == ["002_artists.sql"]


def test_postgres_is_migrated_and_listed_too(playlist, postgres, new_database):
    settings = Settings(postgres_url=new_database)
    states = [line.split()[-1] for line in store.status(settings, [playlist])]
    assert set(states) == {"due"}
    assert len(store.migrate(settings, [playlist])) == len(states)
    assert store.migrate(settings, [playlist]) == []
    assert store.finding(settings, [playlist]).endswith(" opens")


@pytest.fixture
async def new_database(postgres) -> str:
    return await postgres.new_database()


def test_status_names_a_migration_that_changed(tmp_path, playlist):
    settings = Settings(sqlite_path=str(tmp_path / "s.sqlite"))
    store.migrate(settings, [playlist])
    (tmp_path / "migrations" / "sqlite" / "001_songs.sql").write_text("CREATE TABLE songs (other TEXT);")
    with pytest.raises(StartupError, match=r"001_songs\.sql has changed"):
        list(store.status(settings, [playlist]))
