-- Shards, ring, tenants, hostnames, pins and roles: what a router needs in order to place and admit a session.

-- Shards ------------------------------------------------------------------------------------------------------

-- A shard's number is part of every id that next_id() hands out there, so a number is never given twice, not
-- even after its shard is gone.
CREATE TABLE tenantry.shard_number (
    id        smallint    PRIMARY KEY CHECK (id BETWEEN 1 AND 4095),
    given_at  timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION tenantry.next_shard_id() RETURNS smallint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT (coalesce(max(id), 0) + 1)::smallint FROM tenantry.shard_number
$$;

CREATE TABLE tenantry.shard (
    id          smallint    PRIMARY KEY DEFAULT tenantry.next_shard_id(),
    name        text        COLLATE "C" NOT NULL UNIQUE CHECK (name ~ '^[a-z][a-z0-9-]{0,62}$'),
    kind        text        NOT NULL CHECK (kind IN ('shared', 'dedicated', 'spare')),
    state       text        NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining', 'readonly', 'down')),
    weight      integer     NOT NULL DEFAULT 1 CHECK (weight BETWEEN 0 AND 1000),
    host        text        NOT NULL CHECK (host <> ''),
    port        integer     NOT NULL CHECK (port BETWEEN 1 AND 65535),
    database    text        NOT NULL CHECK (database <> ''),
    replicas    jsonb       NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(replicas) = 'array'),
    zone        text,
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN tenantry.shard.replicas IS 'Array of {"host", "port", "database"}.';

CREATE FUNCTION tenantry.claim_shard_number() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        RAISE EXCEPTION 'a shard''s number is immutable' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO tenantry.shard_number (id) VALUES (NEW.id);
    RETURN NEW;
EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'shard number % was used before', NEW.id
        USING ERRCODE = 'unique_violation', HINT = 'Leave out the number: the next free one is taken.';
END $$;

CREATE TRIGGER shard_number_is_new BEFORE INSERT ON tenantry.shard
    FOR EACH ROW EXECUTE FUNCTION tenantry.claim_shard_number();
CREATE TRIGGER shard_number_stays BEFORE UPDATE OF id ON tenantry.shard
    FOR EACH ROW WHEN (NEW.id IS DISTINCT FROM OLD.id) EXECUTE FUNCTION tenantry.claim_shard_number();

-- Ring --------------------------------------------------------------------------------------------------------

-- The version row is also the lock between ring changes and tenant creation.
CREATE TABLE tenantry.ring (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version   bigint  NOT NULL
);
INSERT INTO tenantry.ring (version) VALUES (0);

-- Membership is explicit, not derived from shard.state: a state written by hand must not send a shard's tenants to
-- shards that do not hold their rows.
CREATE TABLE tenantry.ring_member (
    shard   smallint PRIMARY KEY REFERENCES tenantry.shard (id),
    weight  integer  NOT NULL CHECK (weight BETWEEN 1 AND 1000)
);

-- Who changes the ring must pin, in the same transaction, each tenant whose answer changes. That needs the ring's
-- hash, so the change is made by the catalog client, which announces itself with this setting.
CREATE FUNCTION tenantry.guard_ring() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('tenantry.ring_change', true) IS DISTINCT FROM pg_current_xact_id()::text THEN
        RAISE EXCEPTION 'the ring is not changed by hand: tenants would be looked for where their rows are not'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Use `tenantry shard add`, `tenantry shard drain` or `tenantry shard resume`.';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER ring_member_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON tenantry.ring_member
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.guard_ring();
CREATE TRIGGER ring_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON tenantry.ring
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.guard_ring();

-- Tenants -----------------------------------------------------------------------------------------------------

CREATE TABLE tenantry.tenant (
    id                tenantry.tenant_key PRIMARY KEY DEFAULT tenantry.new_tenant_id(),
    slug              text        COLLATE "C" NOT NULL UNIQUE
                      CONSTRAINT slug_is_valid CHECK (slug ~ '^[a-z][a-z0-9-]{0,62}$')
                      CONSTRAINT slug_is_no_id CHECK (
                          slug !~ '^([0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$'),
    state             text        NOT NULL DEFAULT 'provisioning'
                      CHECK (state IN ('provisioning', 'active', 'suspended', 'closing', 'erased')),
    isolation         text        NOT NULL DEFAULT 'pooled' CHECK (isolation IN ('pooled', 'silo')),
    plan              text        NOT NULL DEFAULT 'standard' CHECK (plan ~ '^[a-z][a-z0-9_-]{0,31}$'),
    epoch             bigint      NOT NULL DEFAULT 1 CHECK (epoch > 0),
    suspended_at      timestamptz CHECK (isfinite(suspended_at)),
    suspended_reason  text        CHECK (length(suspended_reason) <= 500),
    is_demo           boolean     NOT NULL DEFAULT false,
    is_simulation     boolean     NOT NULL DEFAULT false,
    limits            jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(limits) = 'object'),
    settings          jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(settings) = 'object'),
    created_at        timestamptz NOT NULL DEFAULT now(),
    activated_at      timestamptz,
    CONSTRAINT suspension_is_dated CHECK ((state = 'suspended') = (suspended_at IS NOT NULL))
);
CREATE INDEX tenant_provisioning ON tenantry.tenant (id) WHERE state = 'provisioning';

COMMENT ON COLUMN tenantry.tenant.epoch IS 'Version of the placement: raised by whatever changes where the tenant lives.';
COMMENT ON COLUMN tenantry.tenant.activated_at IS 'When its shard first had it; NULL: it never had.';
COMMENT ON COLUMN tenantry.tenant.limits IS 'Overrides of the plan''s limits.';

-- Keeps what belongs together in step, whoever writes: dates a suspension, never lets an epoch fall, an id change
-- or an erased tenant come back.
CREATE FUNCTION tenantry.check_tenant() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.state = 'suspended' THEN
        NEW.suspended_at := coalesce(NEW.suspended_at, clock_timestamp());
    ELSE
        NEW.suspended_at := NULL;
        NEW.suspended_reason := NULL;
    END IF;
    IF NEW.state = 'active' THEN
        NEW.activated_at := coalesce(NEW.activated_at, clock_timestamp());
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW.id IS DISTINCT FROM OLD.id THEN
            RAISE EXCEPTION 'a tenant''s id is immutable' USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        IF NEW.epoch < OLD.epoch THEN
            RAISE EXCEPTION 'a tenant''s epoch only grows (% to %)', OLD.epoch, NEW.epoch
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        IF OLD.state = 'erased' AND NEW.state <> 'erased' THEN
            RAISE EXCEPTION 'tenant % is erased: its rows are gone', OLD.id
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER tenant_is_consistent BEFORE INSERT OR UPDATE ON tenantry.tenant
    FOR EACH ROW EXECUTE FUNCTION tenantry.check_tenant();

-- A ring change must see every tenant that was placed by the old ring. Held until the creating transaction ends.
CREATE FUNCTION tenantry.hold_ring() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM tenantry.ring FOR SHARE;
    RETURN NULL;
END $$;

CREATE TRIGGER tenant_holds_ring BEFORE INSERT ON tenantry.tenant
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.hold_ring();

CREATE TABLE tenantry.hostname (
    name         text        COLLATE "C" PRIMARY KEY
                 CONSTRAINT hostname_is_valid CHECK (
                     length(name) <= 253
                     AND name ~ '^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'
                     AND name !~ '\.[0-9]+$'),
    tenant       tenantry.tenant_key NOT NULL REFERENCES tenantry.tenant (id) ON DELETE CASCADE,
    kind         text        NOT NULL DEFAULT 'custom' CHECK (kind IN ('custom', 'platform')),
    verified_at  timestamptz DEFAULT now(),
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX hostname_tenant ON tenantry.hostname (tenant);
COMMENT ON COLUMN tenantry.hostname.verified_at IS 'Routers know a hostname only once it is verified; NULL keeps it from them.';

CREATE TABLE tenantry.pin (
    tenant      tenantry.tenant_key PRIMARY KEY REFERENCES tenantry.tenant (id) ON DELETE CASCADE,
    shard       smallint    NOT NULL REFERENCES tenantry.shard (id),
    reason      text        NOT NULL DEFAULT 'manual' CHECK (reason IN ('manual', 'ring', 'move', 'isolate', 'silo')),
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX pin_shard ON tenantry.pin (shard);

-- Roles -------------------------------------------------------------------------------------------------------

CREATE TABLE tenantry.role (
    name         text        COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z_][a-z0-9_-]{0,62}$'),
    verifier     text        NOT NULL
                 CONSTRAINT verifier_is_scram CHECK (
                     verifier ~ '^SCRAM-SHA-256\$[1-9][0-9]{0,8}:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=$'),
    kind         text        NOT NULL CHECK (kind IN ('tenant', 'service', 'operator')),
    tenants      tenantry.tenant_key[] NOT NULL DEFAULT '{}',
    limits       jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(limits) = 'object'),
    valid_until  timestamptz CHECK (isfinite(valid_until)),
    created_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT only_tenant_roles_name_tenants CHECK (kind = 'tenant' OR tenants = '{}')
);
COMMENT ON TABLE tenantry.role IS 'Whom routers admit. They hold a SCRAM verifier, never a password.';
