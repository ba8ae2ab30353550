-- How far each user has read in a room, over all their devices: the message and its offset. It only rises. Where the
-- server cannot see messages (rooms that are encrypted) there is the offset alone.
CREATE TABLE chat_reads (
    room     INTEGER NOT NULL,
    user_id  TEXT NOT NULL,
    read_id  INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    at_ms    INTEGER NOT NULL,
    PRIMARY KEY (room, user_id)
) WITHOUT ROWID;
CREATE INDEX chat_reads_of ON chat_reads (user_id, room);

-- What users say of themselves, and when they were last seen; of an invisible one, when they were last visible.
CREATE TABLE chat_presence (
    tenant  TEXT NOT NULL,
    user_id TEXT NOT NULL,
    status  TEXT NOT NULL,
    text    TEXT NOT NULL,
    seen_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, user_id)
) WITHOUT ROWID;
