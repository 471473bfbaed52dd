-- Limits of plans and tenants, the kill switch, and what routers tell of their load.

-- Limits ------------------------------------------------------------------------------------------------------

-- Keys are those of schema::limits::LimitKind; a value is a whole number, or null for no limit. An absent key leaves
-- the limit to the plan, and in a plan it is none.
CREATE FUNCTION tenantry.limits_are_valid(limits jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN jsonb_typeof(limits) <> 'object' THEN false ELSE NOT EXISTS (
        SELECT FROM jsonb_each(limits) l
         WHERE NOT CASE
             WHEN l.key NOT IN ('queries_per_second', 'query_burst', 'transactions', 'connections',
                                'statement_time_ms', 'transaction_time_ms', 'weight') THEN false
             WHEN jsonb_typeof(l.value) = 'null' THEN true
             WHEN jsonb_typeof(l.value) <> 'number' THEN false
             ELSE l.value::text ~ '^[0-9]{1,10}$'
                  AND l.value::bigint BETWEEN 1 AND CASE l.key WHEN 'weight' THEN 1000 ELSE 1000000000 END
         END) END
$$;

CREATE TABLE tenantry.plan (
    name        text        COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_-]{0,31}$'),
    limits      jsonb       NOT NULL DEFAULT '{}'
                CONSTRAINT plan_limits_are_valid CHECK (tenantry.limits_are_valid(limits)),
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE tenantry.plan IS 'Default limits by plan. A tenant whose plan is not here has no limits but its own.';
INSERT INTO tenantry.plan (name) VALUES ('standard');

-- No release has read them so far.
UPDATE tenantry.tenant SET limits = '{}' WHERE NOT tenantry.limits_are_valid(limits);
ALTER TABLE tenantry.tenant ADD CONSTRAINT tenant_limits_are_valid CHECK (tenantry.limits_are_valid(limits));
-- Overrides are rare: a router that loads the fleet must not read every tenant for them.
CREATE INDEX tenant_with_limits ON tenantry.tenant (id) WHERE limits <> '{}';

-- The kill switch ---------------------------------------------------------------------------------------------

CREATE TABLE tenantry.kill_switch (
    tenant     tenantry.tenant_key REFERENCES tenantry.tenant (id) ON DELETE CASCADE,
    mode       text        NOT NULL CHECK (mode IN ('off', 'read_only', 'refuse')),
    reason     text        CHECK (length(reason) BETWEEN 1 AND 500),
    since      timestamptz NOT NULL DEFAULT clock_timestamp() CHECK (isfinite(since)),
    until      timestamptz CHECK (isfinite(until)),
    cool_down  interval    NOT NULL DEFAULT '30 seconds'
               CONSTRAINT cool_down_is_bounded CHECK (cool_down BETWEEN interval '0' AND interval '1 hour'),
    CONSTRAINT kill_switch_is_one UNIQUE NULLS NOT DISTINCT (tenant),
    CONSTRAINT kill_switch_has_a_reason CHECK (mode = 'off' OR reason IS NOT NULL)
);
COMMENT ON COLUMN tenantry.kill_switch.tenant IS 'NULL: the whole fleet.';
COMMENT ON COLUMN tenantry.kill_switch.since IS 'When the mode was last changed.';
COMMENT ON COLUMN tenantry.kill_switch.until IS 'When it ends by itself; NULL: when it is released.';
COMMENT ON COLUMN tenantry.kill_switch.cool_down IS 'So long it cannot be weakened, so that it cannot be flapped.';

-- To throw it harder is always possible, that is what it is for; to weaken it only once it has cooled down.
CREATE FUNCTION tenantry.check_kill_switch() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    modes     CONSTANT text[] := ARRAY['off', 'read_only', 'refuse'];
    right_now CONSTANT timestamptz := clock_timestamp();
    weakens   boolean;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        IF TG_OP = 'DELETE' THEN
            -- With its tenant it goes at once.
            weakens := pg_trigger_depth() = 1;
        ELSE
            IF NEW.tenant IS DISTINCT FROM OLD.tenant THEN
                RAISE EXCEPTION 'a kill switch belongs to one tenant, or to the fleet'
                    USING ERRCODE = 'object_not_in_prerequisite_state';
            END IF;
            weakens := array_position(modes, NEW.mode) < array_position(modes, OLD.mode)
                OR NEW.mode = OLD.mode AND (coalesce(NEW.until, 'infinity') < coalesce(OLD.until, 'infinity')
                    OR NEW.cool_down < OLD.cool_down OR NEW.since < OLD.since);
        END IF;
        IF weakens AND OLD.mode <> 'off' AND coalesce(OLD.until, 'infinity') > right_now
           AND right_now < OLD.since + OLD.cool_down
        THEN
            RAISE EXCEPTION 'the kill switch was thrown at % and cools down until %',
                date_trunc('second', OLD.since), date_trunc('second', OLD.since + OLD.cool_down)
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = 'It can be thrown harder now, and released after that time.';
        END IF;
        IF TG_OP = 'DELETE' THEN
            RETURN OLD;
        END IF;
    END IF;
    IF TG_OP = 'INSERT' OR NEW.mode <> OLD.mode THEN
        NEW.since := right_now;
    END IF;
    IF NEW.mode = 'off' THEN
        NEW.reason := NULL;
        NEW.until := NULL;
    ELSIF NEW.until < NEW.since + NEW.cool_down - interval '1 second' THEN
        RAISE EXCEPTION 'a kill switch lasts at least as long as it cools down'
            USING ERRCODE = 'check_violation', HINT = 'Let it last longer, or cool down sooner.';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER kill_switch_cools_down BEFORE INSERT OR UPDATE OR DELETE ON tenantry.kill_switch
    FOR EACH ROW EXECUTE FUNCTION tenantry.check_kill_switch();

-- Whoever throws it, with whatever tool, leaves a trace. tenantry.actor is what the catalog client calls its user.
CREATE FUNCTION tenantry.kill_switch_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before  jsonb;
    after   jsonb;
    target  text;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        before := to_jsonb(OLD) - 'tenant';
        target := coalesce(OLD.tenant::text, 'fleet');
    END IF;
    IF TG_OP <> 'DELETE' THEN
        after := to_jsonb(NEW) - 'tenant';
        target := coalesce(NEW.tenant::text, 'fleet');
    END IF;
    IF before IS NOT DISTINCT FROM after THEN
        RETURN NULL;
    END IF;
    INSERT INTO tenantry.change (kind, key, payload)
    VALUES ('kill_switch', target,
            jsonb_build_object('tenant', CASE WHEN TG_OP = 'DELETE' THEN OLD.tenant ELSE NEW.tenant END,
                               'mode', coalesce(after ->> 'mode', 'off'), 'reason', after -> 'reason',
                               'since', coalesce(after, before) -> 'since', 'until', after -> 'until'));
    INSERT INTO tenantry.audit (actor, action, target_kind, target, before, after)
    VALUES (coalesce(nullif(current_setting('tenantry.actor', true), ''), 'sql:' || session_user),
            CASE WHEN coalesce(after ->> 'mode', 'off') = 'off' THEN 'kill_switch.release' ELSE 'kill_switch.throw' END,
            CASE WHEN target = 'fleet' THEN 'fleet' ELSE 'tenant' END, target, before, after);
    RETURN NULL;
END $$;

CREATE TRIGGER kill_switch_changed AFTER INSERT OR UPDATE OR DELETE ON tenantry.kill_switch
    FOR EACH ROW EXECUTE FUNCTION tenantry.kill_switch_changed();
CREATE TRIGGER kill_switch_truncated AFTER TRUNCATE ON tenantry.kill_switch
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.truncated();

-- How routers learn of them -----------------------------------------------------------------------------------

ALTER TABLE tenantry.change DROP CONSTRAINT change_kind_check;
ALTER TABLE tenantry.change ADD CONSTRAINT change_kind_check
    CHECK (kind IN ('tenant', 'tenant_removed', 'tenant_limits', 'hostname', 'hostname_removed', 'pin', 'pin_removed',
                    'bulk_pins', 'plan', 'plan_removed', 'kill_switch', 'shard', 'shard_removed', 'ring', 'role',
                    'role_removed', 'reload'));

-- Limits travel apart from the tenant's row: the directory holds every tenant and has no room for what few have.
CREATE OR REPLACE FUNCTION tenantry.tenant_payload(tenant anyelement) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_jsonb(tenant) - '{settings,limits,created_at,activated_at}'::text[]
$$;

CREATE FUNCTION tenantry.tenant_limits_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    touched bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT count(*) INTO touched FROM new_rows n WHERE n.limits <> '{}';
    ELSE
        SELECT count(*) INTO touched FROM new_rows n JOIN old_rows o USING (id) WHERE n.limits <> o.limits;
    END IF;
    IF touched = 0 THEN
        RETURN NULL;
    END IF;
    IF touched > tenantry.bulk_rows() THEN
        PERFORM tenantry.record_reload('tenant');
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO tenantry.change (kind, key, payload)
        SELECT 'tenant_limits', n.id::text, jsonb_build_object('tenant', n.id, 'limits', n.limits)
          FROM new_rows n WHERE n.limits <> '{}' ORDER BY n.id;
    ELSE
        INSERT INTO tenantry.change (kind, key, payload)
        SELECT 'tenant_limits', n.id::text, jsonb_build_object('tenant', n.id, 'limits', n.limits)
          FROM new_rows n JOIN old_rows o USING (id) WHERE n.limits <> o.limits ORDER BY n.id;
    END IF;
    RETURN NULL;
END $$;

-- After the tenant itself: triggers of one event fire in the order of their names.
CREATE TRIGGER tenant_inserted_with_limits AFTER INSERT ON tenantry.tenant REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.tenant_limits_changed();
CREATE TRIGGER tenant_updated_with_limits AFTER UPDATE ON tenantry.tenant
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.tenant_limits_changed();

CREATE FUNCTION tenantry.plan_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND NEW.name <> OLD.name) THEN
        INSERT INTO tenantry.change (kind, key, payload)
        VALUES ('plan_removed', OLD.name, jsonb_build_object('name', OLD.name));
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND (NEW.name, NEW.limits) IS DISTINCT FROM (OLD.name, OLD.limits)) THEN
        INSERT INTO tenantry.change (kind, key, payload)
        VALUES ('plan', NEW.name, jsonb_build_object('name', NEW.name, 'limits', NEW.limits));
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER plan_changed AFTER INSERT OR UPDATE OR DELETE ON tenantry.plan
    FOR EACH ROW EXECUTE FUNCTION tenantry.plan_changed();
CREATE TRIGGER plan_truncated AFTER TRUNCATE ON tenantry.plan
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.truncated();

-- A plan with tenants carries their limits: without it they would have none.
CREATE FUNCTION tenantry.keep_used_plan() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM tenantry.tenant t WHERE t.plan = OLD.name AND t.state <> 'erased') THEN
        RAISE EXCEPTION 'plan % has tenants', OLD.name
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Give them another plan first.';
    END IF;
    RETURN OLD;
END $$;

CREATE TRIGGER plan_is_unused BEFORE DELETE ON tenantry.plan
    FOR EACH ROW EXECUTE FUNCTION tenantry.keep_used_plan();
