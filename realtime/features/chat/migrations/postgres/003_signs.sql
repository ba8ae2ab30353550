-- How far each user has read in a room, over all their devices: the message and its offset. It only rises. Where the
-- server cannot see messages (rooms that are encrypted) there is the offset alone.
CREATE TABLE chat_reads (
    room     bigint NOT NULL,
    user_id  text NOT NULL,
    read_id  bigint NOT NULL,
    "offset" bigint NOT NULL,
    at_ms    bigint NOT NULL,
    PRIMARY KEY (room, user_id)
);
CREATE INDEX chat_reads_of ON chat_reads (user_id, room);

-- What users say of themselves, and when they were last seen; of an invisible one, when they were last visible.
CREATE TABLE chat_presence (
    tenant  text NOT NULL,
    user_id text NOT NULL,
    status  text NOT NULL,
    text    text NOT NULL,
    seen_ms bigint NOT NULL,
    PRIMARY KEY (tenant, user_id)
);
