-- What the store knows of itself: its epoch, and how its last writer ended.
CREATE TABLE store (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE rooms (
    id     INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    name   TEXT NOT NULL,
    UNIQUE (tenant, name)
);

-- A room's publications lie together, by offset: a page of them is one walk along the tree.
CREATE TABLE publications (
    room     INTEGER NOT NULL REFERENCES rooms (id),
    "offset" INTEGER NOT NULL,
    epoch    TEXT NOT NULL,
    push     BLOB NOT NULL,
    sender   BLOB,
    key      BLOB,
    at_ms    INTEGER NOT NULL,
    PRIMARY KEY (room, "offset", epoch)
) WITHOUT ROWID;

-- Most publications have no key, and keys are asked for by age.
CREATE INDEX publications_keys ON publications (room, at_ms) WHERE key IS NOT NULL;
