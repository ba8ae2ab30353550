-- The epochs of a cluster's rooms. What workers still have in flight of an earlier epoch is kept below "first" and
-- refused from it on: Redis has lost it, and the keys that its repeats would be known by, and its offset may be given
-- again. What is kept already stays. `opener` names the Redis master that
-- the epoch was opened at: workers that open the same epoch at once get the same one.
CREATE TABLE epochs (
    room    bigint NOT NULL,
    epoch   bigint NOT NULL,
    "first" bigint NOT NULL,
    opener  text NOT NULL,
    PRIMARY KEY (room, epoch)
);

-- Keeps publications of many writers; returns which of them, counted from 1, are refused. Rows are inserted under
-- shared locks and epochs are opened under exclusive ones, of 32 that rooms share: a lock a room could be more than
-- the server has. Each statement sees what was committed before it, so the locks come first.
CREATE FUNCTION keep(
    rooms bigint[], offsets bigint[], numbers bigint[], names text[], pushes bytea[], senders bytea[], keys bytea[],
    times bigint[]
) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    refused bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(29300, bucket)
        FROM (SELECT DISTINCT 256 + (r % 32)::int AS bucket FROM unnest(rooms) AS r ORDER BY 1) AS buckets;
    refused := ARRAY(
        SELECT g.n FROM unnest(rooms, offsets, numbers) WITH ORDINALITY AS g (room, place, number, n)
        WHERE EXISTS (
            SELECT FROM epochs e WHERE e.room = g.room AND e.epoch > g.number AND e."first" <= g.place
        ) AND NOT EXISTS (
            SELECT FROM publications p JOIN unnest(names) WITH ORDINALITY AS own (epoch, n) ON own.n = g.n
            WHERE p.room = g.room AND p."offset" = g.place AND p.epoch = own.epoch
        )
    );
    INSERT INTO publications (room, "offset", epoch, push, sender, key, at_ms)
        SELECT g.room, g.place, g.name, g.push, g.sender, g.key, g.at_ms
        FROM unnest(rooms, offsets, names, pushes, senders, keys, times) WITH ORDINALITY
            AS g (room, place, name, push, sender, key, at_ms, n)
        WHERE g.n <> ALL (refused)
        ON CONFLICT DO NOTHING;
    RETURN QUERY SELECT unnest(refused);
END
$$;

-- Opens a new epoch in each of `rooms`: at least `numbers`, after the last offset kept or `known` to Redis. Returns
-- both. An epoch that the same opener was given in these 10 seconds is the same one: numbers are microseconds.
CREATE FUNCTION claim(rooms bigint[], numbers bigint[], known bigint[], openers text[])
RETURNS TABLE (n bigint, last bigint, epoch bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock(29300, bucket)
        FROM (SELECT DISTINCT 256 + (r % 32)::int AS bucket FROM unnest(rooms) AS r ORDER BY 1) AS buckets;
    RETURN QUERY
    WITH given AS (
        SELECT g.n, g.room, g.number, g.opener, g.known + 1 AS "first",
            greatest(g.known, (SELECT max(p."offset") FROM publications p WHERE p.room = g.room), 0) AS last
        FROM unnest(rooms, numbers, known, openers) WITH ORDINALITY AS g (room, number, known, opener, n)
    ), latest AS (
        SELECT DISTINCT ON (e.room) e.room, e.epoch, e.opener FROM epochs e
        WHERE e.room = ANY (rooms) ORDER BY e.room, e.epoch DESC
    ), chosen AS (
        SELECT g.n, g.room, g.last, g.opener, g."first",
            CASE WHEN l.opener = g.opener AND g.number < l.epoch + 10000000 THEN l.epoch
                ELSE greatest(g.number, l.epoch + 1) END AS epoch
        FROM given g LEFT JOIN latest l ON l.room = g.room
    ), passed AS (
        DELETE FROM epochs e USING chosen c WHERE e.room = c.room AND e.epoch < c.epoch AND e."first" >= c."first"
    ), opened AS (
        INSERT INTO epochs (room, epoch, "first", opener)
            SELECT c.room, c.epoch, c."first", c.opener FROM chosen c ON CONFLICT DO NOTHING
    )
    SELECT c.n, c.last, c.epoch FROM chosen c;
END
$$;
