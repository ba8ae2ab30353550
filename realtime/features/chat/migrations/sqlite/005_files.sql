-- Attachments, from the asking for an upload to their removal. `about` is what the upload became (JSON, files.uploads.About),
-- `sha256` and `thumbnail` the files it refers to. Awaited: used_ms is 0. In use: by `message`, which a trigger sets with
-- the message, in its transaction. Removed: removed_ms is not 0; the row goes when the file does.
CREATE TABLE chat_files (
    id         INTEGER PRIMARY KEY,
    tenant     TEXT NOT NULL,
    folder     TEXT NOT NULL,
    room       TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    name       TEXT NOT NULL,
    bytes      INTEGER NOT NULL,
    wanted     TEXT NOT NULL DEFAULT '',
    about      TEXT NOT NULL DEFAULT '',
    sha256     TEXT NOT NULL DEFAULT '',
    thumbnail  TEXT NOT NULL DEFAULT '',
    claim_key  TEXT NOT NULL DEFAULT '',
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    used_ms    INTEGER NOT NULL DEFAULT 0,
    message    INTEGER,
    removed_ms INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX chat_files_by_message ON chat_files (message) WHERE message IS NOT NULL;
CREATE INDEX chat_files_by_user ON chat_files (tenant, user_id, used_ms);
CREATE INDEX chat_files_by_hash ON chat_files (folder, sha256) WHERE sha256 <> '';
CREATE INDEX chat_files_by_thumbnail ON chat_files (folder, thumbnail) WHERE thumbnail <> '';
CREATE INDEX chat_files_unsent ON chat_files (expires_ms) WHERE message IS NULL;
CREATE INDEX chat_files_removed ON chat_files (removed_ms) WHERE removed_ms > 0;

-- What is in use among the blobs, by the tenant's folder. A file that is `going` is being deleted: nobody may refer to it.
CREATE TABLE chat_blobs (
    folder     TEXT NOT NULL,
    sha256     TEXT NOT NULL,
    touched_ms INTEGER NOT NULL,
    going      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (folder, sha256)
) WITHOUT ROWID;
CREATE INDEX chat_blobs_by_age ON chat_blobs (touched_ms);

-- How much users keep, and with user_id '' their tenants.
CREATE TABLE chat_files_usage (
    tenant  TEXT NOT NULL,
    user_id TEXT NOT NULL,
    bytes   INTEGER NOT NULL,
    PRIMARY KEY (tenant, user_id)
) WITHOUT ROWID;

CREATE TRIGGER chat_files_added AFTER INSERT ON chat_files BEGIN
    INSERT INTO chat_files_usage (tenant, user_id, bytes) VALUES (NEW.tenant, NEW.user_id, NEW.bytes), (NEW.tenant, '', NEW.bytes)
    ON CONFLICT (tenant, user_id) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER chat_files_changed AFTER UPDATE OF bytes ON chat_files BEGIN
    UPDATE chat_files_usage SET bytes = bytes + NEW.bytes - OLD.bytes
    WHERE tenant = OLD.tenant AND user_id IN (OLD.user_id, '');
END;
CREATE TRIGGER chat_files_dropped AFTER DELETE ON chat_files BEGIN
    UPDATE chat_files_usage SET bytes = bytes - OLD.bytes WHERE tenant = OLD.tenant AND user_id IN (OLD.user_id, '');
END;

CREATE TRIGGER chat_files_sent AFTER INSERT ON chat_messages
WHEN instr(NEW.content, '"attachments"') AND json_valid(NEW.content)
    AND json_type(NEW.content, '$.attachments') = 'array'
BEGIN
    UPDATE chat_files SET message = NEW.id
    WHERE message IS NULL AND used_ms > 0 AND id IN (
        SELECT CAST(CASE WHEN e.type = 'object' THEN json_extract(e.value, '$.id') END AS INTEGER)
        FROM json_each(NEW.content, '$.attachments') e
    ) AND EXISTS (SELECT 1 FROM rooms r WHERE r.id = NEW.room AND r.tenant = chat_files.tenant AND r.name = chat_files.room);
END;
CREATE TRIGGER chat_files_deleted AFTER UPDATE OF deleted_ms ON chat_messages WHEN NEW.deleted_ms > 0 AND OLD.deleted_ms = 0
BEGIN
    UPDATE chat_files SET removed_ms = NEW.deleted_ms WHERE message = NEW.id AND removed_ms = 0
        AND EXISTS (SELECT 1 FROM rooms r WHERE r.id = NEW.room AND r.tenant = chat_files.tenant AND r.name = chat_files.room);
END;
CREATE TRIGGER chat_files_gone AFTER DELETE ON chat_messages BEGIN
    UPDATE chat_files SET removed_ms = 1 WHERE message = OLD.id AND removed_ms = 0
        AND EXISTS (SELECT 1 FROM rooms r WHERE r.id = OLD.room AND r.tenant = chat_files.tenant AND r.name = chat_files.room);
END;
