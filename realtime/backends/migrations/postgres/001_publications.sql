-- What the store knows of itself: its epoch, and the timeline of the server that it was in.
CREATE TABLE store (
    name  text NOT NULL PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE rooms (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    name   text NOT NULL,
    UNIQUE (tenant, name)
);

-- `room` is rooms.id, and not declared so: the check would lock the room's row once for every publication, and
-- rooms are never deleted. `key` is bytes: a key may hold U+0000, which PostgreSQL's text may not.
CREATE TABLE publications (
    room     bigint NOT NULL,
    "offset" bigint NOT NULL,
    epoch    text NOT NULL,
    push     bytea NOT NULL,
    sender   bytea,
    key      bytea,
    at_ms    bigint NOT NULL,
    PRIMARY KEY (room, "offset", epoch)
);

-- Most publications have no key, and keys are asked for by age.
CREATE INDEX publications_keys ON publications (room, at_ms) WHERE key IS NOT NULL;
