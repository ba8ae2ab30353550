-- The data keys of tenants, each sealed by a master key that is not in here. The highest number is the one that
-- seals; all others are kept for what they have sealed. `used` is how many uses of it have been given out.
CREATE TABLE data_keys (
    tenant  text NOT NULL,
    number  bigint NOT NULL,
    id      bytea NOT NULL,
    wrapped text NOT NULL,
    made_at bigint NOT NULL,
    used    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, number)
);
