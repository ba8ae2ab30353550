-- Messages as members see them now. `id` is what clients know, as a number: it sorts by time (ids.py). `content` is the
-- content of the push, as it stands after edits.
CREATE TABLE chat_messages (
    id         INTEGER PRIMARY KEY,
    room       INTEGER NOT NULL,
    "offset"   INTEGER NOT NULL,
    epoch      TEXT NOT NULL,
    sender     TEXT,
    text       TEXT NOT NULL,
    lang       TEXT NOT NULL DEFAULT '',
    thread     INTEGER,
    content    TEXT NOT NULL,
    edited_ms  INTEGER NOT NULL DEFAULT 0,
    deleted_ms INTEGER NOT NULL DEFAULT 0,
    hidden_ms  INTEGER NOT NULL DEFAULT 0,
    expires_ms INTEGER
);
CREATE INDEX chat_messages_by_offset ON chat_messages (room, "offset");

-- What is published as JSON; what is sealed begins otherwise, and is not seen here.
CREATE TRIGGER chat_message_sent AFTER INSERT ON publications
WHEN substr(NEW.push, 1, 1) = X'7B' AND json_extract(CAST(NEW.push AS TEXT), '$.type') = 'chat_message'
    AND json_extract(CAST(NEW.push AS TEXT), '$.content.id') IS NOT NULL
    AND (SELECT name FROM rooms WHERE id = NEW.room) GLOB 'chat:*'
BEGIN
    INSERT INTO chat_messages (id, room, "offset", epoch, sender, text, lang, thread, content)
    SELECT CAST(json_extract(c, '$.id') AS INTEGER), NEW.room, NEW."offset", NEW.epoch, json_extract(p, '$.from'),
        coalesce(json_extract(c, '$.text'), ''), coalesce(json_extract(c, '$.lang'), ''),
        CAST(json_extract(c, '$.thread') AS INTEGER), c
    FROM (SELECT p, json_extract(p, '$.content') AS c FROM (SELECT CAST(NEW.push AS TEXT) AS p));
END;
