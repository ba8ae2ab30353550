-- What rooms of the chat are, and who is what in them. `room` is rooms.id.
CREATE TABLE chat_rooms (
    room        INTEGER PRIMARY KEY,
    visibility  TEXT NOT NULL DEFAULT 'public',
    title       TEXT NOT NULL DEFAULT '',
    topic       TEXT NOT NULL DEFAULT '',
    created_ms  INTEGER NOT NULL DEFAULT 0,
    created_by  TEXT NOT NULL DEFAULT '',
    archived_ms INTEGER NOT NULL DEFAULT 0,
    slow_s      INTEGER NOT NULL DEFAULT 0,
    retention_s INTEGER NOT NULL DEFAULT 0,
    hold        INTEGER NOT NULL DEFAULT 0
);

-- Roles as rooms.state.Role; a ban outlives membership, so its row may have role 0.
CREATE TABLE chat_members (
    room            INTEGER NOT NULL,
    user_id         TEXT NOT NULL,
    role            INTEGER NOT NULL DEFAULT 0,
    since_ms        INTEGER NOT NULL DEFAULT 0,
    banned_until_ms INTEGER NOT NULL DEFAULT 0,
    muted_until_ms  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (room, user_id)
) WITHOUT ROWID;
CREATE INDEX chat_members_of ON chat_members (user_id, room);
