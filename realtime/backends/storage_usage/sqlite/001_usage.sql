-- How many bytes of publications are kept of each tenant. Triggers keep it: whoever writes, in whatever way, it is
-- committed with the rows that it counts.
CREATE TABLE usage (
    tenant TEXT NOT NULL PRIMARY KEY,
    bytes  INTEGER NOT NULL
) WITHOUT ROWID;

INSERT INTO usage (tenant, bytes)
    SELECT r.tenant, coalesce(sum(length(p.push) + coalesce(length(p.sender), 0) + coalesce(length(p.key), 0)), 0)
    FROM rooms r LEFT JOIN publications p ON p.room = r.id GROUP BY r.tenant;

-- With the room, so that rows only ever update: what an INSERT OR IGNORE sets off ignores conflicts too, whatever it
-- says itself.
CREATE TRIGGER usage_of_room AFTER INSERT ON rooms BEGIN
    INSERT OR IGNORE INTO usage (tenant, bytes) VALUES (NEW.tenant, 0);
END;

CREATE TRIGGER usage_added AFTER INSERT ON publications BEGIN
    UPDATE usage SET bytes = bytes + length(NEW.push) + coalesce(length(NEW.sender), 0) + coalesce(length(NEW.key), 0)
        WHERE tenant = (SELECT tenant FROM rooms WHERE id = NEW.room);
END;

CREATE TRIGGER usage_removed AFTER DELETE ON publications BEGIN
    UPDATE usage SET bytes = bytes - length(OLD.push) - coalesce(length(OLD.sender), 0) - coalesce(length(OLD.key), 0)
        WHERE tenant = (SELECT tenant FROM rooms WHERE id = OLD.room);
END;

CREATE TRIGGER usage_changed AFTER UPDATE OF push, sender, key ON publications BEGIN
    UPDATE usage SET bytes = bytes
            + length(NEW.push) + coalesce(length(NEW.sender), 0) + coalesce(length(NEW.key), 0)
            - length(OLD.push) - coalesce(length(OLD.sender), 0) - coalesce(length(OLD.key), 0)
        WHERE tenant = (SELECT tenant FROM rooms WHERE id = NEW.room);
END;
