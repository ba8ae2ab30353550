-- The data keys of tenants, each sealed by a master key that is not in here. The highest number is the one that
-- seals; all others are kept for what they have sealed. `used` is how many uses of it have been given out.
CREATE TABLE data_keys (
    tenant  TEXT NOT NULL,
    number  INTEGER NOT NULL,
    id      BLOB NOT NULL,
    wrapped TEXT NOT NULL,
    made_at INTEGER NOT NULL,
    used    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, number)
) WITHOUT ROWID;
