-- What rooms of the chat are, and who is what in them. `room` is rooms.id.
CREATE TABLE chat_rooms (
    room        bigint PRIMARY KEY,
    visibility  text NOT NULL DEFAULT 'public',
    title       text NOT NULL DEFAULT '',
    topic       text NOT NULL DEFAULT '',
    created_ms  bigint NOT NULL DEFAULT 0,
    created_by  text NOT NULL DEFAULT '',
    archived_ms bigint NOT NULL DEFAULT 0,
    slow_s      int NOT NULL DEFAULT 0,
    retention_s bigint NOT NULL DEFAULT 0,
    hold        bigint NOT NULL DEFAULT 0
);

-- Roles as rooms.state.Role; a ban outlives membership, so its row may have role 0.
CREATE TABLE chat_members (
    room            bigint NOT NULL,
    user_id         text NOT NULL,
    role            int NOT NULL DEFAULT 0,
    since_ms        bigint NOT NULL DEFAULT 0,
    banned_until_ms bigint NOT NULL DEFAULT 0,
    muted_until_ms  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (room, user_id)
);
CREATE INDEX chat_members_of ON chat_members (user_id, room);
