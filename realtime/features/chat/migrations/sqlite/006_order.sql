-- What is waiting for moderators, and what they decided. `kind`: report (by a member), filter, classifier (flagged by
-- the server, reporter ''), appeal (by the author of what is hidden). `state`: open, or the verdict.
CREATE TABLE chat_reports (
    id         INTEGER PRIMARY KEY,
    room       INTEGER NOT NULL,
    message    INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    reporter   TEXT NOT NULL,
    reason     TEXT NOT NULL,
    at_ms      INTEGER NOT NULL,
    state      TEXT NOT NULL DEFAULT 'open',
    decided_by TEXT NOT NULL DEFAULT '',
    decided_ms INTEGER NOT NULL DEFAULT 0,
    UNIQUE (room, message, kind, reporter)
);
CREATE INDEX chat_reports_by_state ON chat_reports (room, state, id);
CREATE INDEX chat_reports_by_reporter ON chat_reports (reporter, state);

-- What a hidden message said: for moderators alone. Everywhere else it is blank.
CREATE TABLE chat_hidden (
    room      INTEGER NOT NULL,
    id        INTEGER NOT NULL,
    sender    TEXT,
    content   TEXT NOT NULL,
    hidden_by TEXT NOT NULL,
    at_ms     INTEGER NOT NULL,
    PRIMARY KEY (room, id)
) WITHOUT ROWID;
CREATE INDEX chat_hidden_of ON chat_hidden (sender);

-- Legal holds: of a room (user_id ''), or of a user (room 0). What they hold is not deleted.
CREATE TABLE chat_holds (
    id      INTEGER PRIMARY KEY,
    tenant  TEXT NOT NULL,
    room    INTEGER NOT NULL DEFAULT 0,
    user_id TEXT NOT NULL DEFAULT '',
    reason  TEXT NOT NULL,
    by_user TEXT NOT NULL,
    at_ms   INTEGER NOT NULL,
    UNIQUE (tenant, room, user_id)
);

-- What was said under a hold and then changed or deleted, as it was.
CREATE TABLE chat_held (
    n       INTEGER PRIMARY KEY,
    room    INTEGER NOT NULL,
    id      INTEGER NOT NULL,
    sender  TEXT,
    content TEXT NOT NULL
);
CREATE INDEX chat_held_of ON chat_held (room, id);

CREATE TRIGGER chat_hide_follows INSTEAD OF INSERT ON chat_taken
WHEN substr(NEW.push, 1, 33) = X'7B2274797065223A22636861745F68696465222C22726F6F6D223A22636861743A' -- {"type":"chat_hide","room":"chat:
    AND json_valid(CAST(NEW.push AS TEXT)) AND json_type(CAST(NEW.push AS TEXT), '$.content.id') = 'text'
BEGIN
    INSERT INTO chat_hidden (room, id, sender, content, hidden_by, at_ms)
    SELECT m.room, m.id, m.sender, m.content, coalesce(json_extract(CAST(NEW.push AS TEXT), '$.from'), ''), NEW.at_ms
    FROM chat_messages m
    WHERE m.id = CAST(json_extract(CAST(NEW.push AS TEXT), '$.content.id') AS INTEGER) AND m.room = NEW.room
        AND m.hidden_ms = 0 AND m.deleted_ms = 0 AND json_extract(CAST(NEW.push AS TEXT), '$.content.hidden') = 1;
    UPDATE chat_messages SET hidden_ms = NEW.at_ms, text = '',
        content = json_object('id', json_extract(CAST(NEW.push AS TEXT), '$.content.id'), 'hidden', json('true'))
    WHERE id = CAST(json_extract(CAST(NEW.push AS TEXT), '$.content.id') AS INTEGER) AND room = NEW.room
        AND hidden_ms = 0 AND deleted_ms = 0 AND json_extract(CAST(NEW.push AS TEXT), '$.content.hidden') = 1;
    UPDATE chat_messages SET hidden_ms = 0, (text, content) = (
        SELECT coalesce(json_extract(h.content, '$.text'), ''), h.content FROM chat_hidden h
        WHERE h.room = chat_messages.room AND h.id = chat_messages.id
    )
    WHERE id = CAST(json_extract(CAST(NEW.push AS TEXT), '$.content.id') AS INTEGER) AND room = NEW.room
        AND hidden_ms > 0 AND json_extract(CAST(NEW.push AS TEXT), '$.content.hidden') = 0
        AND EXISTS (SELECT 1 FROM chat_hidden h WHERE h.room = chat_messages.room AND h.id = chat_messages.id);
    DELETE FROM chat_hidden
    WHERE room = NEW.room AND id = CAST(json_extract(CAST(NEW.push AS TEXT), '$.content.id') AS INTEGER)
        AND json_extract(CAST(NEW.push AS TEXT), '$.content.hidden') = 0;
END;

-- What is handed out again to who comes back (history, recovery) says no more than the message does. Its edits stay
-- blank when it is shown again: it says then what it said last.
CREATE TRIGGER chat_hidden_push AFTER UPDATE OF hidden_ms ON chat_messages WHEN NEW.hidden_ms <> OLD.hidden_ms BEGIN
    UPDATE publications SET push = CAST(json_set(CAST(push AS TEXT), '$.content', json(NEW.content)) AS BLOB)
    WHERE room = NEW.room AND "offset" = NEW."offset" AND epoch = NEW.epoch AND json_valid(CAST(push AS TEXT));
    UPDATE publications SET push = CAST(json_set(CAST(push AS TEXT), '$.content',
        json_object('id', printf('%019d', NEW.id), 'hidden', json('true'))) AS BLOB)
    WHERE NEW.hidden_ms > 0 AND room = NEW.room AND json_valid(CAST(push AS TEXT)) AND ("offset", epoch) IN (
        SELECT e."offset", e.epoch FROM chat_edits e WHERE e.room = NEW.room AND e.message = NEW.id);
END;

-- What is deleted has no text for moderators either.
CREATE TRIGGER chat_hidden_deleted AFTER UPDATE OF deleted_ms ON chat_messages WHEN NEW.deleted_ms > 0 BEGIN
    DELETE FROM chat_hidden WHERE room = NEW.room AND id = NEW.id;
END;
CREATE TRIGGER chat_hidden_gone AFTER DELETE ON chat_messages BEGIN
    DELETE FROM chat_hidden WHERE room = OLD.room AND id = OLD.id;
    DELETE FROM chat_reports WHERE room = OLD.room AND message = OLD.id;
END;

CREATE TRIGGER chat_held_changed BEFORE UPDATE OF text ON chat_messages
WHEN OLD.text <> NEW.text AND OLD.text <> '' AND EXISTS (SELECT 1 FROM chat_holds) AND EXISTS (
    SELECT 1 FROM chat_holds h JOIN rooms r ON r.tenant = h.tenant AND r.id = OLD.room
    WHERE h.room = OLD.room OR (h.room = 0 AND h.user_id = OLD.sender)
)
BEGIN
    INSERT INTO chat_held (room, id, sender, content) VALUES (OLD.room, OLD.id, OLD.sender, OLD.content);
END;
CREATE TRIGGER chat_held_deleted BEFORE DELETE ON chat_messages
WHEN OLD.text <> '' AND EXISTS (SELECT 1 FROM chat_holds) AND EXISTS (
    SELECT 1 FROM chat_holds h JOIN rooms r ON r.tenant = h.tenant AND r.id = OLD.room
    WHERE h.room = OLD.room OR (h.room = 0 AND h.user_id = OLD.sender)
)
BEGIN
    INSERT INTO chat_held (room, id, sender, content) VALUES (OLD.room, OLD.id, OLD.sender, OLD.content);
END;
CREATE TRIGGER chat_held_hidden BEFORE DELETE ON chat_hidden
WHEN EXISTS (SELECT 1 FROM chat_holds) AND EXISTS (
    SELECT 1 FROM chat_holds h JOIN rooms r ON r.tenant = h.tenant AND r.id = OLD.room
    WHERE h.room = OLD.room OR (h.room = 0 AND h.user_id = OLD.sender)
)
BEGIN
    INSERT INTO chat_held (room, id, sender, content) VALUES (OLD.room, OLD.id, OLD.sender, OLD.content);
END;
