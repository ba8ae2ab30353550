-- Messages as members see them now. `id` is what clients know, as a number: it sorts by time (ids.py). `content` is the
-- content of the push, as it stands after edits.
CREATE TABLE chat_messages (
    id         bigint NOT NULL,
    room       bigint NOT NULL,
    "offset"   bigint NOT NULL,
    epoch      text NOT NULL,
    sender     text,
    text       text NOT NULL,
    lang       text NOT NULL DEFAULT '',
    thread     bigint,
    content    text NOT NULL,
    edited_ms  bigint NOT NULL DEFAULT 0,
    deleted_ms bigint NOT NULL DEFAULT 0,
    hidden_ms  bigint NOT NULL DEFAULT 0,
    expires_ms bigint,
    PRIMARY KEY (room, id)
);
CREATE INDEX chat_messages_by_offset ON chat_messages (room, "offset");

-- What is published as JSON; what is sealed begins otherwise, and is not seen here.
CREATE FUNCTION chat_follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chat_messages (id, room, "offset", epoch, sender, text, lang, thread, content)
    SELECT (c ->> 'id')::bigint, room, place, epoch, p ->> 'from', coalesce(c ->> 'text', ''),
        coalesce(c ->> 'lang', ''), (c ->> 'thread')::bigint, c::text
    FROM (
        SELECT read.room, read.place, read.epoch, read.p, read.p -> 'content' AS c
        FROM (
            SELECT a.room, a."offset" AS place, a.epoch, convert_from(a.push, 'UTF8')::json AS p
            FROM added a JOIN rooms r ON r.id = a.room
            WHERE get_byte(a.push, 0) = 123 AND r.name LIKE 'chat:%'
        ) AS read
        WHERE read.p ->> 'type' = 'chat_message'
    ) AS said
    WHERE c ->> 'id' IS NOT NULL
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

CREATE TRIGGER chat_follows AFTER INSERT ON publications REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION chat_follow();
