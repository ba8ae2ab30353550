-- What rooms of the chat are, and who is what in them. `room` is rooms.id. A room that nobody has created has a
-- row (created_ms 0) as soon as anything is kept of it. `version` names the last change: whoever changes a room
-- says which one it knows, so that a worker that does not own the room any more changes nothing. `given`: by its
-- name it is there only if it was created. `found` is what is searched: title and topic, folded. `members` is
-- counted by triggers.
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
    hold        bigint NOT NULL DEFAULT 0,
    version     text NOT NULL DEFAULT '0',
    given       int NOT NULL DEFAULT 0,
    found       text NOT NULL DEFAULT '',
    members     bigint NOT NULL DEFAULT 0,
    erased_ms   bigint NOT NULL DEFAULT 0
);
CREATE INDEX chat_rooms_by ON chat_rooms (created_by) WHERE created_by <> '';
CREATE INDEX chat_rooms_given ON chat_rooms (room) WHERE given = 1 AND visibility = 'public';
-- Nearly all whose names are given are hidden: without this the planner takes them for many.
CREATE STATISTICS chat_rooms_shown (mcv) ON given, visibility FROM chat_rooms;
CREATE INDEX chat_rooms_deleted ON chat_rooms (room) WHERE visibility = 'deleted' AND erased_ms = 0;

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

CREATE TABLE chat_invites (
    room    bigint NOT NULL,
    user_id text NOT NULL,
    by_user text NOT NULL,
    role    int NOT NULL,
    at_ms   bigint NOT NULL,
    PRIMARY KEY (user_id, room)
);
CREATE INDEX chat_invites_to ON chat_invites (room);

-- What a change has to say in the room's log, and whose sessions are to be looked at again: kept with the change,
-- and gone when it is done. `review` is JSON: user ids, null for all.
CREATE TABLE chat_notices (
    room    bigint NOT NULL,
    version text NOT NULL,
    n       int NOT NULL,
    at_ms   bigint NOT NULL,
    content text NOT NULL,
    review  text NOT NULL,
    PRIMARY KEY (room, version, n)
);

-- The names of rooms that are there for everybody, in their order: a list of them does not walk over all others.
CREATE INDEX chat_names ON rooms (tenant, name) WHERE name LIKE 'chat:%' AND name NOT LIKE 'chat:~%';

CREATE FUNCTION chat_count_members() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    more int := 0;
    number bigint := CASE WHEN TG_OP = 'DELETE' THEN OLD.room ELSE NEW.room END;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        more := more - (OLD.role > 0)::int;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        more := more + (NEW.role > 0)::int;
    END IF;
    IF more <> 0 THEN
        UPDATE chat_rooms SET members = members + more WHERE room = number;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER chat_members_counted AFTER INSERT OR DELETE OR UPDATE OF role ON chat_members
    FOR EACH ROW EXECUTE FUNCTION chat_count_members();
