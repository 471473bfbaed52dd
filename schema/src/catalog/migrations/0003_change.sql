-- The change log: what routers must learn of, in the order in which it was committed.
--
-- Rows are written by triggers inside the writer's transaction, without a number. The number is taken at commit, by
-- a deferred constraint trigger, from a counter row whose lock lasts until that commit is visible. Hence:
--   * numbers have no gaps: a rollback takes its number back;
--   * who sees number n sees all numbers below it;
--   * an open transaction delays nobody: it holds the counter only while it commits.
-- A number that is NULL is never visible to another transaction.

CREATE TABLE tenantry.change_counter (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    last_seq  bigint  NOT NULL
) WITH (fillfactor = 50);
INSERT INTO tenantry.change_counter (last_seq) VALUES (0);

CREATE TABLE tenantry.change (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seq         bigint      UNIQUE,
    group_last  bigint,
    xid         xid8        NOT NULL DEFAULT pg_current_xact_id(),
    kind        text        NOT NULL
                CHECK (kind IN ('tenant', 'tenant_removed', 'hostname', 'hostname_removed', 'pin', 'pin_removed',
                                'bulk_pins', 'shard', 'shard_removed', 'ring', 'role', 'role_removed', 'reload')),
    key         text        NOT NULL,
    payload     jsonb       NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX change_unnumbered ON tenantry.change (xid) WHERE seq IS NULL;
COMMENT ON COLUMN tenantry.change.group_last IS 'The last number of the transaction this row belongs to.';
COMMENT ON COLUMN tenantry.change.payload IS 'What schema::change::ChangeBody of this kind holds, as JSON.';

-- One row per transaction that has unnumbered changes; empty whenever nobody writes.
CREATE TABLE tenantry.change_open (
    xid  xid8 PRIMARY KEY
);

CREATE FUNCTION tenantry.open_change_group() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO tenantry.change_open (xid) VALUES (pg_current_xact_id()) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER change_opens_group AFTER INSERT ON tenantry.change
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.open_change_group();

-- Sequential scans are off because the plan is kept for the session's life and may be made while the log is empty; JIT is
-- off because it would compile for longer than everything else here takes, with the counter locked.
-- Above READ COMMITTED a commit that has to wait for the counter fails with 40001, as any lost race there does.
CREATE FUNCTION tenantry.number_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    mine     CONSTANT xid8 := pg_current_xact_id();
    pending  bigint;
    last     bigint;
BEGIN
    -- Gone first, so that a write after SET CONSTRAINTS … IMMEDIATE opens a group of its own.
    DELETE FROM tenantry.change_open o WHERE o.xid = mine;
    SELECT count(*) INTO pending FROM tenantry.change c WHERE c.xid = mine AND c.seq IS NULL;
    IF pending = 0 THEN
        RETURN NULL;
    END IF;
    -- Followers may not see what a crash can take back: the number would be given out again for something else.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    UPDATE tenantry.change_counter SET last_seq = last_seq + pending WHERE only_row RETURNING last_seq INTO last;
    UPDATE tenantry.change c
       SET seq = last - pending + o.position, group_last = last
      FROM (SELECT u.id, row_number() OVER (ORDER BY u.id) AS position
              FROM tenantry.change u
             WHERE u.xid = mine AND u.seq IS NULL) o
     WHERE c.id = o.id;
    PERFORM pg_notify('tenantry_change', last::text);
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER change_is_numbered AFTER INSERT ON tenantry.change_open
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tenantry.number_changes();

-- Beyond this many rows in one statement a reload is cheaper for everyone than the rows one by one.
CREATE FUNCTION tenantry.bulk_rows() RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 10000 $$;

CREATE FUNCTION tenantry.record_reload(cause text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO tenantry.change (kind, key, payload) VALUES ('reload', cause, '{}')
$$;

CREATE FUNCTION tenantry.truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tenantry.record_reload('truncate ' || TG_TABLE_NAME);
    RETURN NULL;
END $$;

-- Tenants -----------------------------------------------------------------------------------------------------

-- The row without what no router reads.
CREATE FUNCTION tenantry.tenant_payload(tenant anyelement) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_jsonb(tenant) - '{settings,created_at,activated_at}'::text[]
$$;

CREATE FUNCTION tenantry.tenant_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    touched bigint;
BEGIN
    IF TG_OP = 'DELETE' THEN
        SELECT count(*) INTO touched FROM old_rows;
    ELSE
        SELECT count(*) INTO touched FROM new_rows;
    END IF;
    IF touched > tenantry.bulk_rows() THEN
        PERFORM tenantry.record_reload('tenant');
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO tenantry.change (kind, key, payload)
        SELECT 'tenant', n.id::text, tenantry.tenant_payload(n) FROM new_rows n ORDER BY n.id;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO tenantry.change (kind, key, payload)
        SELECT 'tenant', n.id::text, tenantry.tenant_payload(n)
          FROM new_rows n JOIN old_rows o USING (id)
         WHERE tenantry.tenant_payload(n) IS DISTINCT FROM tenantry.tenant_payload(o)
         ORDER BY n.id;
    ELSE
        INSERT INTO tenantry.change (kind, key, payload)
        SELECT 'tenant_removed', o.id::text, jsonb_build_object('id', o.id) FROM old_rows o ORDER BY o.id;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER tenant_inserted AFTER INSERT ON tenantry.tenant REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.tenant_changed();
CREATE TRIGGER tenant_updated AFTER UPDATE ON tenantry.tenant REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.tenant_changed();
CREATE TRIGGER tenant_deleted AFTER DELETE ON tenantry.tenant REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.tenant_changed();
CREATE TRIGGER tenant_truncated AFTER TRUNCATE ON tenantry.tenant
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.truncated();

-- Hostnames: only verified ones exist for a router ------------------------------------------------------------

CREATE FUNCTION tenantry.hostname_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    touched bigint;
BEGIN
    IF TG_OP = 'DELETE' THEN
        SELECT count(*) INTO touched FROM old_rows;
    ELSE
        SELECT count(*) INTO touched FROM new_rows;
    END IF;
    IF touched > tenantry.bulk_rows() THEN
        PERFORM tenantry.record_reload('hostname');
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO tenantry.change (kind, key, payload)
        SELECT 'hostname', n.name, jsonb_build_object('name', n.name, 'tenant', n.tenant)
          FROM new_rows n WHERE n.verified_at IS NOT NULL ORDER BY n.name;
    ELSIF TG_OP = 'UPDATE' THEN
        -- Names that are gone before names that came: a name may pass from one tenant to another in one statement.
        INSERT INTO tenantry.change (kind, key, payload)
        SELECT 'hostname_removed', o.name, jsonb_build_object('name', o.name)
          FROM old_rows o
         WHERE o.verified_at IS NOT NULL
           AND NOT EXISTS (SELECT FROM new_rows n WHERE n.name = o.name AND n.verified_at IS NOT NULL)
         ORDER BY o.name;
        INSERT INTO tenantry.change (kind, key, payload)
        SELECT 'hostname', n.name, jsonb_build_object('name', n.name, 'tenant', n.tenant)
          FROM new_rows n
         WHERE n.verified_at IS NOT NULL
           AND NOT EXISTS (SELECT FROM old_rows o
                            WHERE o.name = n.name AND o.tenant = n.tenant AND o.verified_at IS NOT NULL)
         ORDER BY n.name;
    ELSE
        INSERT INTO tenantry.change (kind, key, payload)
        SELECT 'hostname_removed', o.name, jsonb_build_object('name', o.name)
          FROM old_rows o WHERE o.verified_at IS NOT NULL ORDER BY o.name;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER hostname_inserted AFTER INSERT ON tenantry.hostname REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.hostname_changed();
CREATE TRIGGER hostname_updated AFTER UPDATE ON tenantry.hostname REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.hostname_changed();
CREATE TRIGGER hostname_deleted AFTER DELETE ON tenantry.hostname REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.hostname_changed();
CREATE TRIGGER hostname_truncated AFTER TRUNCATE ON tenantry.hostname
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.truncated();

-- Pins: many at once are one change, because a ring change pins a large part of the fleet ---------------------

CREATE FUNCTION tenantry.pin_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        IF (SELECT count(*) FROM old_rows) > tenantry.bulk_rows() THEN
            PERFORM tenantry.record_reload('pin');
            RETURN NULL;
        END IF;
        IF TG_OP = 'DELETE' THEN
            INSERT INTO tenantry.change (kind, key, payload)
            SELECT 'pin_removed', o.tenant::text, jsonb_build_object('tenant', o.tenant)
              FROM old_rows o ORDER BY o.tenant;
        ELSE
            INSERT INTO tenantry.change (kind, key, payload)
            SELECT 'pin_removed', o.tenant::text, jsonb_build_object('tenant', o.tenant)
              FROM old_rows o WHERE NOT EXISTS (SELECT FROM new_rows n WHERE n.tenant = o.tenant)
             ORDER BY o.tenant;
            INSERT INTO tenantry.change (kind, key, payload)
            SELECT 'pin', n.tenant::text, jsonb_build_object('tenant', n.tenant, 'shard', n.shard)
              FROM new_rows n
             WHERE NOT EXISTS (SELECT FROM old_rows o WHERE o.tenant = n.tenant AND o.shard = n.shard)
             ORDER BY n.tenant;
        END IF;
    ELSIF (SELECT count(*) FROM (SELECT FROM new_rows LIMIT 2) few) < 2 THEN
        INSERT INTO tenantry.change (kind, key, payload)
        SELECT 'pin', n.tenant::text, jsonb_build_object('tenant', n.tenant, 'shard', n.shard) FROM new_rows n;
    ELSE
        INSERT INTO tenantry.change (kind, key, payload)
        SELECT 'bulk_pins', count(*)::text,
               jsonb_build_object('pins', jsonb_agg(jsonb_build_object('shard', s.shard, 'tenants', s.tenants)))
          FROM (SELECT n.shard, jsonb_agg(n.tenant ORDER BY n.tenant) AS tenants
                  FROM new_rows n GROUP BY n.shard) s;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER pin_inserted AFTER INSERT ON tenantry.pin REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.pin_changed();
CREATE TRIGGER pin_updated AFTER UPDATE ON tenantry.pin REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.pin_changed();
CREATE TRIGGER pin_deleted AFTER DELETE ON tenantry.pin REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.pin_changed();
CREATE TRIGGER pin_truncated AFTER TRUNCATE ON tenantry.pin
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.truncated();

-- Shards, ring, roles: small tables, so one row at a time -----------------------------------------------------

CREATE FUNCTION tenantry.shard_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO tenantry.change (kind, key, payload)
        VALUES ('shard_removed', OLD.id::text, jsonb_build_object('id', OLD.id));
    ELSIF TG_OP = 'INSERT' OR to_jsonb(NEW) IS DISTINCT FROM to_jsonb(OLD) THEN
        INSERT INTO tenantry.change (kind, key, payload)
        VALUES ('shard', NEW.id::text,
                jsonb_build_object('id', NEW.id, 'name', NEW.name, 'kind', NEW.kind, 'state', NEW.state,
                                   'weight', NEW.weight, 'zone', NEW.zone, 'replicas', NEW.replicas,
                                   'address', jsonb_build_object('host', NEW.host, 'port', NEW.port,
                                                                 'database', NEW.database)));
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER shard_changed AFTER INSERT OR UPDATE OR DELETE ON tenantry.shard
    FOR EACH ROW EXECUTE FUNCTION tenantry.shard_changed();
CREATE TRIGGER shard_truncated AFTER TRUNCATE ON tenantry.shard
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.truncated();

CREATE FUNCTION tenantry.ring_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO tenantry.change (kind, key, payload)
    SELECT 'ring', r.version::text,
           jsonb_build_object('members', coalesce(jsonb_agg(to_jsonb(m) ORDER BY m.shard) FILTER (WHERE m IS NOT NULL), '[]'))
      FROM tenantry.ring r LEFT JOIN tenantry.ring_member m ON true
     GROUP BY r.version;
    RETURN NULL;
END $$;

CREATE TRIGGER ring_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tenantry.ring_member
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.ring_changed();

CREATE FUNCTION tenantry.role_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND NEW.name <> OLD.name) THEN
        INSERT INTO tenantry.change (kind, key, payload)
        VALUES ('role_removed', OLD.name, jsonb_build_object('name', OLD.name));
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND to_jsonb(NEW) IS DISTINCT FROM to_jsonb(OLD)) THEN
        INSERT INTO tenantry.change (kind, key, payload)
        VALUES ('role', NEW.name, to_jsonb(NEW) - 'created_at');
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER role_changed AFTER INSERT OR UPDATE OR DELETE ON tenantry.role
    FOR EACH ROW EXECUTE FUNCTION tenantry.role_changed();
CREATE TRIGGER role_truncated AFTER TRUNCATE ON tenantry.role
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.truncated();
