-- What rooms of the chat are, and who is what in them. `room` is rooms.id. A room that nobody has created has a
-- row (created_ms 0) as soon as anything is kept of it. `version` names the last change: whoever changes a room
-- says which one it knows, so that a worker that does not own the room any more changes nothing. `given`: by its
-- name it is there only if it was created. `found` is what is searched: title and topic, folded. `members` is
-- counted by triggers.
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
    hold        INTEGER NOT NULL DEFAULT 0,
    version     TEXT NOT NULL DEFAULT '0',
    given       INTEGER NOT NULL DEFAULT 0,
    found       TEXT NOT NULL DEFAULT '',
    members     INTEGER NOT NULL DEFAULT 0,
    erased_ms   INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX chat_rooms_by ON chat_rooms (created_by) WHERE created_by <> '';
CREATE INDEX chat_rooms_given ON chat_rooms (room) WHERE given = 1 AND visibility = 'public';
CREATE INDEX chat_rooms_deleted ON chat_rooms (room) WHERE visibility = 'deleted' AND erased_ms = 0;

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

CREATE TABLE chat_invites (
    room    INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    by_user TEXT NOT NULL,
    role    INTEGER NOT NULL,
    at_ms   INTEGER NOT NULL,
    PRIMARY KEY (user_id, room)
) WITHOUT ROWID;
CREATE INDEX chat_invites_to ON chat_invites (room);

-- What a change has to say in the room's log, and whose sessions are to be looked at again: kept with the change,
-- and gone when it is done. `review` is JSON: user ids, null for all.
CREATE TABLE chat_notices (
    room    INTEGER NOT NULL,
    version TEXT NOT NULL,
    n       INTEGER NOT NULL,
    at_ms   INTEGER NOT NULL,
    content TEXT NOT NULL,
    review  TEXT NOT NULL,
    PRIMARY KEY (room, version, n)
) WITHOUT ROWID;

-- The names of rooms that are there for everybody, in their order: a list of them does not walk over all others.
CREATE INDEX chat_names ON rooms (tenant, name) WHERE name LIKE 'chat:%' AND name NOT LIKE 'chat:~%';

CREATE TRIGGER chat_member_came AFTER INSERT ON chat_members WHEN NEW.role > 0 BEGIN
    UPDATE chat_rooms SET members = members + 1 WHERE room = NEW.room;
END;
CREATE TRIGGER chat_member_went AFTER DELETE ON chat_members WHEN OLD.role > 0 BEGIN
    UPDATE chat_rooms SET members = members - 1 WHERE room = OLD.room;
END;
CREATE TRIGGER chat_member_changed AFTER UPDATE OF role ON chat_members WHEN (NEW.role > 0) <> (OLD.role > 0)
BEGIN
    UPDATE chat_rooms SET members = members + CASE WHEN NEW.role > 0 THEN 1 ELSE -1 END WHERE room = NEW.room;
END;
