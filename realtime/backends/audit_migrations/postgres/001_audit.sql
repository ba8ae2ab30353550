-- The end of each tenant's chain: what the next entry follows on, and the seal over it where there is a key. Its row
-- is locked by whoever appends, so that workers take turns.
CREATE TABLE audit_chains (
    tenant text NOT NULL PRIMARY KEY,
    seq    bigint NOT NULL,
    hash   bytea NOT NULL,
    seal   bytea
);

-- Times are Unix microseconds. actor, source, target and detail are NULL once they are erased; `proofs` has their
-- salts, or then their commitments, and `erased` the seqs of the entries that tell of it.
CREATE TABLE audit_entries (
    tenant   text NOT NULL,
    seq      bigint NOT NULL,
    at_us    bigint NOT NULL,
    until_us bigint NOT NULL,
    events   bigint NOT NULL,
    action   text NOT NULL,
    outcome  text NOT NULL,
    actor    text,
    source   text,
    target   text,
    detail   text,
    proofs   bytea NOT NULL,
    erased   text,
    prev     bytea NOT NULL,
    hash     bytea NOT NULL,
    PRIMARY KEY (tenant, seq)
);

-- The last group that each writer has committed: one whose connection broke finds here whether its group is in.
CREATE TABLE audit_writers (
    writer    text NOT NULL PRIMARY KEY,
    "group"   bigint NOT NULL,
    at_us     bigint NOT NULL
);

-- Keeps accidents out: the owner of the table may do away with it, which is what the hashes are for.
CREATE FUNCTION audit_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    permit text := coalesce(current_setting('realtime.audit', true), '');
BEGIN
    IF TG_OP = 'DELETE' AND permit = 'retention' THEN
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND permit = 'erase' THEN
        IF (NEW.tenant, NEW.seq, NEW.at_us, NEW.until_us, NEW.events, NEW.action, NEW.outcome, NEW.prev, NEW.hash)
            = (OLD.tenant, OLD.seq, OLD.at_us, OLD.until_us, OLD.events, OLD.action, OLD.outcome, OLD.prev, OLD.hash)
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only';
END
$$;

CREATE TRIGGER audit_entries_stay BEFORE UPDATE OR DELETE ON audit_entries
    FOR EACH ROW EXECUTE FUNCTION audit_guard();

CREATE TRIGGER audit_entries_hold BEFORE TRUNCATE ON audit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION audit_guard();
