-- Attachments, from the asking for an upload to their removal. `about` is what the upload became (JSON, files.uploads.About),
-- `sha256` and `thumbnail` the files it refers to. Awaited: used_ms is 0. In use: by `message`, which a trigger sets with
-- the message, in its transaction. Removed: removed_ms is not 0; the row goes when the file does.
CREATE TABLE chat_files (
    id         bigint PRIMARY KEY,
    tenant     text NOT NULL,
    folder     text NOT NULL,
    room       text NOT NULL,
    user_id    text NOT NULL,
    name       text NOT NULL,
    bytes      bigint NOT NULL,
    wanted     text NOT NULL DEFAULT '',
    about      text NOT NULL DEFAULT '',
    sha256     text NOT NULL DEFAULT '',
    thumbnail  text NOT NULL DEFAULT '',
    claim_key  text NOT NULL DEFAULT '',
    created_ms bigint NOT NULL,
    expires_ms bigint NOT NULL,
    used_ms    bigint NOT NULL DEFAULT 0,
    message    bigint,
    removed_ms bigint NOT NULL DEFAULT 0
);
CREATE INDEX chat_files_by_message ON chat_files (message) WHERE message IS NOT NULL;
CREATE INDEX chat_files_by_user ON chat_files (tenant, user_id, used_ms);
CREATE INDEX chat_files_by_hash ON chat_files (folder, sha256) WHERE sha256 <> '';
CREATE INDEX chat_files_by_thumbnail ON chat_files (folder, thumbnail) WHERE thumbnail <> '';
CREATE INDEX chat_files_unsent ON chat_files (expires_ms) WHERE message IS NULL;
CREATE INDEX chat_files_removed ON chat_files (removed_ms) WHERE removed_ms > 0;

-- What is in use among the blobs, by the tenant's folder. A file that is `going` is being deleted: nobody may refer to it.
CREATE TABLE chat_blobs (
    folder     text NOT NULL,
    sha256     text NOT NULL,
    touched_ms bigint NOT NULL,
    going      int NOT NULL DEFAULT 0,
    PRIMARY KEY (folder, sha256)
);
CREATE INDEX chat_blobs_by_age ON chat_blobs (touched_ms);

-- How much users keep, and with user_id '' their tenants.
CREATE TABLE chat_files_usage (
    tenant  text NOT NULL,
    user_id text NOT NULL,
    bytes   bigint NOT NULL,
    PRIMARY KEY (tenant, user_id)
);

CREATE FUNCTION chat_files_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO chat_files_usage AS u (tenant, user_id, bytes)
        VALUES (NEW.tenant, NEW.user_id, NEW.bytes), (NEW.tenant, '', NEW.bytes)
        ON CONFLICT (tenant, user_id) DO UPDATE SET bytes = u.bytes + excluded.bytes;
    ELSIF TG_OP = 'UPDATE' THEN
        UPDATE chat_files_usage SET bytes = bytes + NEW.bytes - OLD.bytes
        WHERE tenant = OLD.tenant AND user_id IN (OLD.user_id, '');
    ELSE
        UPDATE chat_files_usage SET bytes = bytes - OLD.bytes
        WHERE tenant = OLD.tenant AND user_id IN (OLD.user_id, '');
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER chat_files_added AFTER INSERT OR DELETE ON chat_files FOR EACH ROW EXECUTE FUNCTION chat_files_count();
CREATE TRIGGER chat_files_changed AFTER UPDATE ON chat_files FOR EACH ROW WHEN (NEW.bytes <> OLD.bytes)
    EXECUTE FUNCTION chat_files_count();

-- Few messages have attachments: a row's WHEN costs the others less than a look at all that were added.
CREATE FUNCTION chat_files_send() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE chat_files f SET message = NEW.id
    FROM rooms r
    WHERE r.id = NEW.room AND r.tenant = f.tenant AND r.name = f.room AND f.message IS NULL AND f.used_ms > 0
        AND f.id IN (
            SELECT CASE WHEN e ->> 'id' ~ '^[0-9]{19}$' AND e ->> 'id' <= '9223372036854775807'
                THEN (e ->> 'id')::bigint END
            FROM json_array_elements(CASE WHEN json_typeof(NEW.content::json -> 'attachments') = 'array'
                THEN NEW.content::json -> 'attachments' ELSE '[]' END) e
        );
    RETURN NULL;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;
CREATE TRIGGER chat_files_sent AFTER INSERT ON chat_messages FOR EACH ROW WHEN (NEW.content LIKE '%"attachments"%')
    EXECUTE FUNCTION chat_files_send();

CREATE FUNCTION chat_files_remove() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE chat_files f SET removed_ms = CASE TG_OP WHEN 'UPDATE' THEN NEW.deleted_ms ELSE 1 END
    FROM rooms r
    WHERE f.message = OLD.id AND f.removed_ms = 0 AND r.id = OLD.room AND r.tenant = f.tenant AND r.name = f.room;
    RETURN NULL;
END
$$;
CREATE TRIGGER chat_files_deleted AFTER UPDATE ON chat_messages FOR EACH ROW
    WHEN (NEW.deleted_ms > 0 AND OLD.deleted_ms = 0) EXECUTE FUNCTION chat_files_remove();
CREATE TRIGGER chat_files_gone AFTER DELETE ON chat_messages FOR EACH ROW EXECUTE FUNCTION chat_files_remove();
