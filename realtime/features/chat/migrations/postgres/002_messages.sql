-- Messages as members see them now. `id` is what clients know, as a number: it sorts by time (ids.py). `content` is the
-- content of the push, as it stands after edits. Whoever sets `deleted_ms` has all of it gone: the text, what hangs on
-- it, and what is stored of it in `publications`.
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
    -- With all that unread messages are counted by: of 200 rooms with 1,000 each 100 ms, and 1,000 where rows are read.
    PRIMARY KEY (room, id) INCLUDE (sender, deleted_ms, hidden_ms)
);
CREATE INDEX chat_messages_by_offset ON chat_messages (room, "offset");
CREATE INDEX chat_messages_of_thread ON chat_messages (room, thread, id) WHERE thread IS NOT NULL;
CREATE INDEX chat_messages_expiring ON chat_messages (expires_ms) WHERE expires_ms IS NOT NULL AND deleted_ms = 0;

-- What a message said before an edit, by the place of that edit; `at_ms` is when it was written so.
CREATE TABLE chat_edits (
    room     bigint NOT NULL,
    message  bigint NOT NULL,
    "offset" bigint NOT NULL,
    epoch    text NOT NULL,
    text     text NOT NULL,
    at_ms    bigint NOT NULL,
    PRIMARY KEY (room, message, "offset", epoch)
);

CREATE TABLE chat_reactions (
    room    bigint NOT NULL,
    message bigint NOT NULL,
    emoji   text NOT NULL,
    user_id text NOT NULL,
    at_ms   bigint NOT NULL,
    PRIMARY KEY (room, message, emoji, user_id)
);

CREATE TABLE chat_pins (
    room    bigint NOT NULL,
    message bigint NOT NULL,
    at_ms   bigint NOT NULL,
    PRIMARY KEY (room, message)
);

-- Who is named in a message; '' stands for all, of @here.
CREATE TABLE chat_mentions (
    room    bigint NOT NULL,
    user_id text NOT NULL,
    message bigint NOT NULL,
    PRIMARY KEY (room, user_id, message)
);
CREATE INDEX chat_mentions_in ON chat_mentions (room, message);

-- What is to be sent later, by the owner of the room. It goes in the transaction that keeps the message: each is sent
-- once. `draft` is JSON; `error` says why it was not sent.
CREATE TABLE chat_scheduled (
    id      bigint PRIMARY KEY,
    tenant  text NOT NULL,
    room    text NOT NULL,
    user_id text NOT NULL,
    at_ms   bigint NOT NULL,
    draft   text NOT NULL,
    error   text NOT NULL DEFAULT ''
);
CREATE INDEX chat_scheduled_due ON chat_scheduled (at_ms) WHERE error = '';
CREATE INDEX chat_scheduled_of ON chat_scheduled (tenant, user_id, at_ms);

-- One publication of the chat: `said` is its push.
CREATE TYPE chat_said AS (room bigint, "offset" bigint, epoch text, at_ms bigint, said bytea);

-- Returns a publication's push as JSON, or null where it is none.
CREATE FUNCTION chat_json(push bytea) RETURNS json LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN convert_from(push, 'UTF8')::json;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;

-- Returns a push without what it said.
CREATE FUNCTION chat_blank(push bytea, id bigint) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    p json := chat_json(push);
BEGIN
    IF json_typeof(p #> '{content,text}') IS DISTINCT FROM 'string' THEN
        RETURN push;
    END IF;
    RETURN convert_to(format(
        '{"type":%s,"room":%s%s,"offset":%s,"epoch":%s,"content":{"id":"%s","deleted":true},"timestamp":%s}',
        p -> 'type', p -> 'room', ',"from":' || (p -> 'from')::text, p -> 'offset', p -> 'epoch',
        lpad(id::text, 19, '0'), p -> 'timestamp'
    ), 'UTF8');
END
$$;

CREATE FUNCTION chat_name_mentions(in_room bigint, in_message bigint, content json) RETURNS void LANGUAGE sql AS $$
    INSERT INTO chat_mentions (room, user_id, message)
    SELECT in_room, named #>> '{}', in_message
    FROM json_array_elements(
        CASE json_typeof(content -> 'mentions') WHEN 'array' THEN content -> 'mentions' ELSE '[]' END) AS named
    WHERE json_typeof(named) = 'string'
    UNION ALL SELECT in_room, '', in_message WHERE content ->> 'here' = 'true'
    ON CONFLICT DO NOTHING
$$;

-- What becomes of a message that was published before.
CREATE FUNCTION chat_change(place chat_said, p json) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c json := p -> 'content';
    of bigint := CASE WHEN c ->> 'id' ~ '^[0-9]{19}$' AND c ->> 'id' COLLATE "C" <= '9223372036854775807'
        THEN (c ->> 'id')::bigint END;
    m chat_messages;
BEGIN
    SELECT * INTO m FROM chat_messages s
        WHERE s.room = place.room AND s.id = of AND s."offset" < place."offset" AND s.deleted_ms = 0 FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    CASE p ->> 'type'
        WHEN 'chat_edit' THEN
            IF json_typeof(c -> 'text') = 'string' THEN
                INSERT INTO chat_edits (room, message, "offset", epoch, text, at_ms) VALUES (m.room, m.id,
                    place."offset", place.epoch, m.text, CASE m.edited_ms WHEN 0 THEN m.id >> 21 ELSE m.edited_ms END)
                    ON CONFLICT DO NOTHING;
                UPDATE chat_messages SET text = c ->> 'text', lang = coalesce(c ->> 'lang', ''), content = c::text,
                    edited_ms = place.at_ms WHERE room = m.room AND id = m.id;
                DELETE FROM chat_mentions WHERE room = m.room AND message = m.id;
                PERFORM chat_name_mentions(m.room, m.id, c);
            END IF;
        WHEN 'chat_delete' THEN
            UPDATE chat_messages SET deleted_ms = greatest(1, place.at_ms) WHERE room = m.room AND id = m.id;
        WHEN 'chat_react' THEN
            IF json_typeof(c -> 'emoji') = 'string' AND json_typeof(c -> 'user') = 'string' THEN
                IF (c -> 'remove')::text = 'true' THEN
                    DELETE FROM chat_reactions WHERE room = m.room AND message = m.id AND emoji = c ->> 'emoji'
                        AND user_id = c ->> 'user';
                ELSE
                    INSERT INTO chat_reactions (room, message, emoji, user_id, at_ms)
                        VALUES (m.room, m.id, c ->> 'emoji', c ->> 'user', place.at_ms) ON CONFLICT DO NOTHING;
                END IF;
            END IF;
        WHEN 'chat_pin' THEN
            IF (c -> 'pinned')::text = 'true' THEN
                INSERT INTO chat_pins (room, message, at_ms) VALUES (m.room, m.id, place.at_ms) ON CONFLICT DO NOTHING;
            ELSIF (c -> 'pinned')::text = 'false' THEN
                DELETE FROM chat_pins WHERE room = m.room AND message = m.id;
            END IF;
        ELSE
    END CASE;
END
$$;

-- Takes publications of the chat in their order: first all messages at once, then one by one what became of them.
CREATE FUNCTION chat_take(given chat_said[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    one record;
BEGIN
    WITH read AS MATERIALIZED (
        SELECT g.room, g."offset", g.epoch, convert_from(g.said, 'UTF8')::json AS p
        FROM unnest(given) AS g WHERE substr(g.said, 15, 8) = 'message"'
    ), told AS MATERIALIZED (
        SELECT r.room, r."offset", r.epoch, r.p ->> 'from' AS sender, r.p -> 'content' AS c, x.*
        FROM read r, json_to_record(CASE json_typeof(r.p -> 'content') WHEN 'object' THEN r.p -> 'content' END)
            AS x (id json, text json, lang text, thread text, expires_at text, scheduled text)
        WHERE json_typeof(x.id) = 'string' AND json_typeof(x.text) = 'string'
            AND x.id #>> '{}' ~ '^[0-9]{19}$' AND x.id #>> '{}' COLLATE "C" <= '9223372036854775807'
    ), added AS (
        INSERT INTO chat_messages (id, room, "offset", epoch, sender, text, lang, thread, content, expires_ms)
        SELECT (id #>> '{}')::bigint, room, "offset", epoch, sender, text #>> '{}', coalesce(lang, ''),
            CASE WHEN thread ~ '^[0-9]{19}$' THEN thread::bigint END, c::text,
            CASE WHEN expires_at ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$'
                THEN (extract(epoch FROM expires_at::timestamptz) * 1000)::bigint END
        FROM told ORDER BY room, "offset"
        ON CONFLICT DO NOTHING
        RETURNING room, id, content
    ), named AS (
        SELECT chat_name_mentions(room, id, content::json) FROM added
        WHERE strpos(content, '"mentions"') > 0 OR strpos(content, '"here"') > 0
    ), sent AS (
        DELETE FROM chat_scheduled s USING told t
        WHERE t.scheduled ~ '^[0-9]{19}$' AND s.id = t.scheduled::bigint
    )
    SELECT count(*) INTO one FROM named;
    FOR one IN
        SELECT g AS place, convert_from(g.said, 'UTF8')::json AS p FROM unnest(given) AS g
        WHERE substr(g.said, 15, 5) = 'edit"' OR substr(g.said, 15, 7) = 'delete"' OR substr(g.said, 15, 6) = 'react"'
            OR substr(g.said, 15, 4) = 'pin"'
        ORDER BY g.room, g."offset"
    LOOP
        PERFORM chat_change(one.place, one.p);
    END LOOP;
END
$$;

-- A push is looked at where it begins as the server encodes pushes: what is sealed begins otherwise. What cannot be a
-- message (no JSON, text that PostgreSQL cannot hold: U+0000, lone surrogates) is passed over: nothing here may fail, or
-- what is published would not be kept. Where one of many is such, they are taken one by one.
CREATE FUNCTION chat_follow() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    given chat_said[];
    one chat_said;
BEGIN
    given := ARRAY(
        SELECT ROW (a.room, a."offset", a.epoch, a.at_ms, a.push)::chat_said FROM added a
        WHERE substr(a.push, 1, 14) = '{"type":"chat_'::bytea
            AND EXISTS (SELECT FROM rooms r WHERE r.id = a.room AND r.name LIKE 'chat:%')
        ORDER BY a.room, a."offset"
    );
    IF cardinality(given) = 0 THEN
        RETURN NULL;
    END IF;
    BEGIN
        PERFORM chat_take(given);
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        FOREACH one IN ARRAY given LOOP
            BEGIN
                PERFORM chat_take(ARRAY[one]);
            EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
                NULL;
            END;
        END LOOP;
    END;
    RETURN NULL;
END
$$;

CREATE TRIGGER chat_follows AFTER INSERT ON publications REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION chat_follow();

-- Of a message that is deleted its place is left, and that it was there.
CREATE FUNCTION chat_unsay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE publications p SET push = chat_blank(p.push, OLD.id)
        WHERE p.room = OLD.room AND p."offset" = OLD."offset" AND p.epoch = OLD.epoch;
    UPDATE publications p SET push = chat_blank(p.push, OLD.id) FROM chat_edits e
        WHERE e.room = OLD.room AND e.message = OLD.id
            AND p.room = OLD.room AND p."offset" = e."offset" AND p.epoch = e.epoch;
    IF TG_OP = 'UPDATE' THEN
        UPDATE chat_messages SET text = '', lang = '', expires_ms = NULL,
            content = format('{"id":"%s","deleted":true}', lpad(OLD.id::text, 19, '0'))
            WHERE room = OLD.room AND id = OLD.id;
    END IF;
    DELETE FROM chat_edits WHERE room = OLD.room AND message = OLD.id;
    DELETE FROM chat_reactions WHERE room = OLD.room AND message = OLD.id;
    DELETE FROM chat_pins WHERE room = OLD.room AND message = OLD.id;
    DELETE FROM chat_mentions WHERE room = OLD.room AND message = OLD.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER chat_message_deleted AFTER UPDATE OF deleted_ms ON chat_messages
    FOR EACH ROW WHEN (NEW.deleted_ms <> 0 AND OLD.deleted_ms = 0) EXECUTE FUNCTION chat_unsay();
CREATE TRIGGER chat_message_removed AFTER DELETE ON chat_messages
    FOR EACH ROW EXECUTE FUNCTION chat_unsay();

-- A publication that says nothing any more: its sender was erased (core.personal), or it was deleted above.
CREATE FUNCTION chat_forget() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    was json;
    now json;
    of bigint;
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM chat_messages WHERE room = OLD.room AND "offset" = OLD."offset" AND epoch = OLD.epoch;
        RETURN NULL;
    END IF;
    was := chat_json(OLD.push);
    now := chat_json(NEW.push);
    IF was IS NULL OR now IS NULL OR now #> '{content,id}' IS NOT NULL THEN
        RETURN NULL;
    END IF;
    UPDATE chat_messages SET deleted_ms = greatest(1, NEW.at_ms)
        WHERE room = NEW.room AND "offset" = NEW."offset" AND epoch = NEW.epoch AND deleted_ms = 0;
    UPDATE chat_messages SET sender = now ->> 'from'
        WHERE room = NEW.room AND "offset" = NEW."offset" AND epoch = NEW.epoch;
    IF was #>> '{content,id}' ~ '^[0-9]{19}$' THEN
        of := (was #>> '{content,id}')::bigint;
        IF was ->> 'type' = 'chat_edit' THEN
            UPDATE chat_messages SET deleted_ms = greatest(1, NEW.at_ms)
                WHERE room = NEW.room AND id = of AND deleted_ms = 0;
        ELSIF was ->> 'type' = 'chat_react' THEN
            DELETE FROM chat_reactions WHERE room = NEW.room AND message = of AND emoji = was #>> '{content,emoji}'
                AND user_id = was #>> '{content,user}';
        END IF;
    END IF;
    RETURN NULL;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;

CREATE TRIGGER chat_publication_blanked AFTER UPDATE ON publications FOR EACH ROW
    WHEN (substr(OLD.push, 1, 14) = '{"type":"chat_'::bytea AND NEW.push <> OLD.push) EXECUTE FUNCTION chat_forget();
CREATE TRIGGER chat_publication_removed AFTER DELETE ON publications FOR EACH ROW
    WHEN (substr(OLD.push, 1, 22) = '{"type":"chat_message"'::bytea) EXECUTE FUNCTION chat_forget();
