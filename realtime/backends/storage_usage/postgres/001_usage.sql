-- How many bytes of publications are kept of each tenant. Triggers keep it: whoever writes, in whatever way, it is
-- committed with the rows that it counts. A tenant has up to 64 parts, by the session that writes: one row would have
-- all sessions wait for each other's commits.
CREATE TABLE usage (
    tenant text NOT NULL,
    part   int NOT NULL,
    bytes  bigint NOT NULL,
    PRIMARY KEY (tenant, part)
);

-- Nothing is written between the count and the triggers.
LOCK TABLE publications IN SHARE ROW EXCLUSIVE MODE;

INSERT INTO usage (tenant, part, bytes)
    SELECT r.tenant, 0, sum(length(p.push) + coalesce(length(p.sender), 0) + coalesce(length(p.key), 0))
    FROM publications p JOIN rooms r ON r.id = p.room GROUP BY r.tenant;

-- In order of the tenants, so that two sessions of one part do not wait for each other.
CREATE FUNCTION count_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO usage AS u (tenant, part, bytes)
            SELECT r.tenant, pg_backend_pid() % 64,
                sum(length(p.push) + coalesce(length(p.sender), 0) + coalesce(length(p.key), 0))
            FROM added p JOIN rooms r ON r.id = p.room GROUP BY r.tenant ORDER BY r.tenant
            ON CONFLICT (tenant, part) DO UPDATE SET bytes = u.bytes + EXCLUDED.bytes;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO usage AS u (tenant, part, bytes)
            SELECT r.tenant, pg_backend_pid() % 64,
                -sum(length(p.push) + coalesce(length(p.sender), 0) + coalesce(length(p.key), 0))
            FROM removed p JOIN rooms r ON r.id = p.room GROUP BY r.tenant ORDER BY r.tenant
            ON CONFLICT (tenant, part) DO UPDATE SET bytes = u.bytes + EXCLUDED.bytes;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER usage_added AFTER INSERT ON publications REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_usage();
CREATE TRIGGER usage_removed AFTER DELETE ON publications REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION count_usage();
CREATE TRIGGER usage_changed AFTER UPDATE ON publications REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_usage();
