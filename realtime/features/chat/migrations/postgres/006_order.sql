-- What is waiting for moderators, and what they decided. `kind`: report (by a member), filter, classifier (flagged by
-- the server, reporter ''), appeal (by the author of what is hidden). `state`: open, or the verdict.
CREATE TABLE chat_reports (
    id         bigint PRIMARY KEY,
    room       bigint NOT NULL,
    message    bigint NOT NULL,
    kind       text NOT NULL,
    reporter   text NOT NULL,
    reason     text NOT NULL,
    at_ms      bigint NOT NULL,
    state      text NOT NULL DEFAULT 'open',
    decided_by text NOT NULL DEFAULT '',
    decided_ms bigint NOT NULL DEFAULT 0,
    UNIQUE (room, message, kind, reporter)
);
CREATE INDEX chat_reports_by_state ON chat_reports (room, state, id);
CREATE INDEX chat_reports_by_reporter ON chat_reports (reporter, state);

-- What a hidden message said: for moderators alone. Everywhere else it is blank.
CREATE TABLE chat_hidden (
    room      bigint NOT NULL,
    id        bigint NOT NULL,
    sender    text,
    content   text NOT NULL,
    hidden_by text NOT NULL,
    at_ms     bigint NOT NULL,
    PRIMARY KEY (room, id)
);
CREATE INDEX chat_hidden_of ON chat_hidden (sender);

-- Legal holds: of a room (user_id ''), or of a user (room 0). What they hold is not deleted.
CREATE TABLE chat_holds (
    id      bigint PRIMARY KEY,
    tenant  text NOT NULL,
    room    bigint NOT NULL DEFAULT 0,
    user_id text NOT NULL DEFAULT '',
    reason  text NOT NULL,
    by_user text NOT NULL,
    at_ms   bigint NOT NULL,
    UNIQUE (tenant, room, user_id)
);

-- What was said under a hold and then changed or deleted, as it was.
CREATE TABLE chat_held (
    n       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    room    bigint NOT NULL,
    id      bigint NOT NULL,
    sender  text,
    content text NOT NULL
);
CREATE INDEX chat_held_of ON chat_held (room, id);

-- What a push hides or shows; `id` is null where it cannot be told.
CREATE FUNCTION chat_hide_of(push bytea, OUT id bigint, OUT hidden boolean, OUT by_user text)
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    p json;
BEGIN
    p := convert_from(push, 'UTF8')::json;
    by_user := coalesce(p ->> 'from', '');
    hidden := coalesce(p #>> '{content,hidden}' = 'true', false);
    IF p #>> '{content,id}' ~ '^[0-9]{19}$' THEN
        id := (p #>> '{content,id}')::bigint;
    END IF;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    id := NULL;
END
$$;

CREATE FUNCTION chat_hide() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    asked record;
BEGIN
    FOR asked IN
        SELECT a.room, a.at_ms, said.id, said.hidden, said.by_user
        FROM added a JOIN rooms r ON r.id = a.room, LATERAL chat_hide_of(a.push) AS said
        WHERE substr(a.push, 1, 19) = '{"type":"chat_hide"'::bytea AND r.name LIKE 'chat:%'
            AND said.id IS NOT NULL
        ORDER BY a.room, a."offset"
    LOOP
        IF asked.hidden THEN
            INSERT INTO chat_hidden (room, id, sender, content, hidden_by, at_ms)
                SELECT m.room, m.id, m.sender, m.content, asked.by_user, asked.at_ms FROM chat_messages m
                WHERE m.room = asked.room AND m.id = asked.id AND m.hidden_ms = 0 AND m.deleted_ms = 0
                ON CONFLICT DO NOTHING;
            UPDATE chat_messages SET hidden_ms = asked.at_ms, text = '',
                content = format('{"id":"%s","hidden":true}', lpad(asked.id::text, 19, '0'))
                WHERE room = asked.room AND id = asked.id AND hidden_ms = 0 AND deleted_ms = 0;
        ELSE
            UPDATE chat_messages m SET hidden_ms = 0, content = h.content,
                text = coalesce(h.content::json ->> 'text', '')
                FROM chat_hidden h WHERE h.room = asked.room AND h.id = asked.id
                AND m.room = asked.room AND m.id = asked.id AND m.hidden_ms > 0;
            DELETE FROM chat_hidden WHERE room = asked.room AND id = asked.id;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- By its name after `chat_follows`, which makes the message.
CREATE TRIGGER chat_hides AFTER INSERT ON publications REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION chat_hide();

-- Returns a push that says `content` in place of what it said.
CREATE FUNCTION chat_saying(push bytea, content text) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    p json := convert_from(push, 'UTF8')::json;
BEGIN
    RETURN convert_to(format(
        '{"type":%s,"room":%s%s,"offset":%s,"epoch":%s,"content":%s,"timestamp":%s}', p -> 'type', p -> 'room',
        ',"from":' || (p -> 'from')::text, p -> 'offset', p -> 'epoch', content, p -> 'timestamp'
    ), 'UTF8');
END
$$;

-- What is handed out again to who comes back (history, recovery) says no more than the message does. Its edits stay
-- blank when it is shown again: it says then what it said last.
CREATE FUNCTION chat_hide_push() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE publications SET push = chat_saying(push, NEW.content)
        WHERE room = NEW.room AND "offset" = NEW."offset" AND epoch = NEW.epoch AND get_byte(push, 0) = 123;
    IF NEW.hidden_ms > 0 THEN
        UPDATE publications p SET push = chat_saying(p.push, NEW.content) FROM chat_edits e
            WHERE e.room = NEW.room AND e.message = NEW.id
                AND p.room = NEW.room AND p."offset" = e."offset" AND p.epoch = e.epoch AND get_byte(p.push, 0) = 123;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER chat_hidden_push AFTER UPDATE OF hidden_ms ON chat_messages
    FOR EACH ROW WHEN (NEW.hidden_ms <> OLD.hidden_ms) EXECUTE FUNCTION chat_hide_push();

-- What is deleted has no text for moderators either.
CREATE FUNCTION chat_unhide_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM chat_hidden WHERE room = OLD.room AND id = OLD.id;
    IF TG_OP = 'DELETE' THEN
        DELETE FROM chat_reports WHERE room = OLD.room AND message = OLD.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER chat_hidden_deleted AFTER UPDATE OF deleted_ms ON chat_messages
    FOR EACH ROW WHEN (NEW.deleted_ms > 0) EXECUTE FUNCTION chat_unhide_deleted();
CREATE TRIGGER chat_hidden_gone AFTER DELETE ON chat_messages
    FOR EACH ROW EXECUTE FUNCTION chat_unhide_deleted();

CREATE FUNCTION chat_hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM chat_holds h JOIN rooms r ON r.tenant = h.tenant AND r.id = OLD.room
        WHERE h.room = OLD.room OR (h.room = 0 AND h.user_id = OLD.sender)
    ) THEN
        INSERT INTO chat_held (room, id, sender, content) VALUES (OLD.room, OLD.id, OLD.sender, OLD.content);
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END
$$;
CREATE TRIGGER chat_held_changed BEFORE UPDATE OF text ON chat_messages
    FOR EACH ROW WHEN (OLD.text <> NEW.text AND OLD.text <> '') EXECUTE FUNCTION chat_hold();
CREATE TRIGGER chat_held_deleted BEFORE DELETE ON chat_messages
    FOR EACH ROW WHEN (OLD.text <> '') EXECUTE FUNCTION chat_hold();
CREATE TRIGGER chat_held_hidden BEFORE DELETE ON chat_hidden
    FOR EACH ROW EXECUTE FUNCTION chat_hold();
