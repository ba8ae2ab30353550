-- The end of each tenant's chain: what the next entry follows on, and the seal over it where there is a key.
CREATE TABLE audit_chains (
    tenant TEXT NOT NULL PRIMARY KEY,
    seq    INTEGER NOT NULL,
    hash   BLOB NOT NULL,
    seal   BLOB
) WITHOUT ROWID;

-- Times are Unix microseconds. actor, source, target and detail are NULL once they are erased; `proofs` has their
-- salts, or then their commitments, and `erased` the seqs of the entries that tell of it.
CREATE TABLE audit_entries (
    tenant   TEXT NOT NULL,
    seq      INTEGER NOT NULL,
    at_us    INTEGER NOT NULL,
    until_us INTEGER NOT NULL,
    events   INTEGER NOT NULL,
    action   TEXT NOT NULL,
    outcome  TEXT NOT NULL,
    actor    TEXT,
    source   TEXT,
    target   TEXT,
    detail   TEXT,
    proofs   BLOB NOT NULL,
    erased   TEXT,
    prev     BLOB NOT NULL,
    hash     BLOB NOT NULL,
    PRIMARY KEY (tenant, seq)
) WITHOUT ROWID;

-- Holds a row within the transactions that may drop or erase, and none outside of them. It keeps accidents out: who
-- may write the file may put one there too, which is what the hashes are for.
CREATE TABLE audit_permit (
    what TEXT NOT NULL
);

CREATE TRIGGER audit_entries_stay BEFORE DELETE ON audit_entries
WHEN NOT EXISTS (SELECT 1 FROM audit_permit WHERE what = 'retention')
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

CREATE TRIGGER audit_entries_hold BEFORE UPDATE ON audit_entries
WHEN NOT EXISTS (SELECT 1 FROM audit_permit WHERE what = 'erase')
    OR (NEW.tenant, NEW.seq, NEW.at_us, NEW.until_us, NEW.events, NEW.action, NEW.outcome, NEW.prev, NEW.hash)
        IS NOT (OLD.tenant, OLD.seq, OLD.at_us, OLD.until_us, OLD.events, OLD.action, OLD.outcome, OLD.prev, OLD.hash)
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
