-- What is planned over many tenants: their measures, rebalancings, the policy by which hot tenants are isolated; and what
-- lets a shard be removed while its history stays.

-- Measures ----------------------------------------------------------------------------------------------------

-- What is known of a tenant's weight. Estimates for planning; nothing is decided by them that would harm if wrong.
CREATE TABLE tenantry.tenant_measure (
    tenant    tenantry.tenant_key PRIMARY KEY REFERENCES tenantry.tenant (id) ON DELETE CASCADE,
    bytes     bigint      CHECK (bytes >= 0),
    sized_at  timestamptz,
    busy      real        NOT NULL DEFAULT 0 CHECK (busy >= 0),
    busy_at   timestamptz,
    CONSTRAINT size_is_dated CHECK ((bytes IS NULL) = (sized_at IS NULL))
) WITH (fillfactor = 70);
COMMENT ON COLUMN tenantry.tenant_measure.bytes IS 'What its rows and their indexes take, estimated from samples of its shard; NULL: not measured yet.';
COMMENT ON COLUMN tenantry.tenant_measure.busy IS 'Server connections that it keeps busy, smoothed over minutes.';

-- Rebalancings ------------------------------------------------------------------------------------------------

CREATE TABLE tenantry.rebalance (
    id           uuid        PRIMARY KEY,
    goal         jsonb       NOT NULL,
    shard        smallint    REFERENCES tenantry.shard_number (id),
    state        text        NOT NULL DEFAULT 'running'
                 CHECK (state IN ('running', 'stopping', 'stopped', 'done', 'failed')),
    limits       jsonb       NOT NULL CHECK (jsonb_typeof(limits) = 'object'),
    summary      jsonb       NOT NULL CHECK (jsonb_typeof(summary) = 'object'),
    waiting      text,
    actor        text        NOT NULL CHECK (actor <> ''),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz,
    CONSTRAINT finished_is_dated CHECK ((state IN ('stopped', 'done', 'failed')) = (finished_at IS NOT NULL))
);
COMMENT ON COLUMN tenantry.rebalance.shard IS 'The shard that is being emptied; NULL: the whole fleet is meant.';
COMMENT ON COLUMN tenantry.rebalance.summary IS 'What the plan said of the shards and of what it left undone.';
COMMENT ON COLUMN tenantry.rebalance.waiting IS 'What it waits for, in words.';
-- One of the fleet, and one for each shard that is being emptied.
CREATE UNIQUE INDEX rebalance_one_live ON tenantry.rebalance ((coalesce(shard, 0))) WHERE finished_at IS NULL;
CREATE INDEX rebalance_newest ON tenantry.rebalance (created_at, id);

-- The plan, move by move. What became of each is told by the moves whose batch is the rebalancing.
CREATE TABLE tenantry.rebalance_move (
    rebalance    uuid        NOT NULL REFERENCES tenantry.rebalance (id) ON DELETE CASCADE,
    ordinal      integer     NOT NULL CHECK (ordinal > 0),
    tenant       tenantry.tenant_key NOT NULL REFERENCES tenantry.tenant (id) ON DELETE CASCADE,
    source       smallint    NOT NULL REFERENCES tenantry.shard_number (id),
    destination  smallint    NOT NULL REFERENCES tenantry.shard_number (id),
    bytes        bigint,
    busy         real        NOT NULL,
    why          text        NOT NULL,
    skipped      text,
    PRIMARY KEY (rebalance, ordinal)
);
COMMENT ON COLUMN tenantry.rebalance_move.skipped IS 'Why it is not made after all.';

CREATE TRIGGER rebalance_wakes AFTER INSERT OR UPDATE OF state ON tenantry.rebalance
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.move_wakes();

-- Isolation ---------------------------------------------------------------------------------------------------

CREATE TABLE tenantry.isolation_policy (
    only_row    boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    policy      jsonb       NOT NULL CHECK (jsonb_typeof(policy) = 'object'),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO tenantry.isolation_policy (policy) VALUES ('{}');
COMMENT ON COLUMN tenantry.isolation_policy.policy IS 'What differs from the defaults of the rebalancer.';

CREATE TABLE tenantry.isolation_event (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    tenant       tenantry.tenant_key NOT NULL REFERENCES tenantry.tenant (id) ON DELETE CASCADE,
    shard        smallint    NOT NULL REFERENCES tenantry.shard_number (id),
    act          text        NOT NULL CHECK (act IN ('isolate', 'relieve', 'return', 'wait')),
    destination  smallint    REFERENCES tenantry.shard_number (id),
    mode         text        NOT NULL CHECK (mode IN ('recommend', 'act')),
    move         uuid        REFERENCES tenantry.move (id),
    rule         text        NOT NULL,
    why          text        NOT NULL,
    CONSTRAINT waiting_goes_nowhere CHECK ((act = 'wait') = (destination IS NULL))
);
CREATE INDEX isolation_event_tenant ON tenantry.isolation_event (tenant, id);

-- Removing shards ---------------------------------------------------------------------------------------------

-- History names shards that are gone: their numbers are never given again, so they are what it refers to.
ALTER TABLE tenantry.move
    DROP CONSTRAINT move_source_fkey,
    DROP CONSTRAINT move_destination_fkey,
    ADD CONSTRAINT move_source_fkey FOREIGN KEY (source) REFERENCES tenantry.shard_number (id),
    ADD CONSTRAINT move_destination_fkey FOREIGN KEY (destination) REFERENCES tenantry.shard_number (id);
ALTER TABLE tenantry.heat_event
    DROP CONSTRAINT heat_event_shard_fkey,
    ADD CONSTRAINT heat_event_shard_fkey FOREIGN KEY (shard) REFERENCES tenantry.shard_number (id);
ALTER TABLE tenantry.hot_tenant
    DROP CONSTRAINT hot_tenant_shard_fkey,
    ADD CONSTRAINT hot_tenant_shard_fkey FOREIGN KEY (shard) REFERENCES tenantry.shard_number (id);
ALTER TABLE tenantry.rollout_shard
    DROP CONSTRAINT rollout_shard_shard_fkey,
    ADD CONSTRAINT rollout_shard_shard_fkey FOREIGN KEY (shard) REFERENCES tenantry.shard_number (id);
ALTER TABLE tenantry.rollout_event
    DROP CONSTRAINT rollout_event_shard_fkey,
    ADD CONSTRAINT rollout_event_shard_fkey FOREIGN KEY (shard) REFERENCES tenantry.shard_number (id);

-- A shard goes only when nothing is left of it but history. Its pins and its place on the ring are foreign keys.
CREATE FUNCTION tenantry.guard_shard_removal() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM tenantry.ring_member r WHERE r.shard = OLD.id) THEN
        RAISE EXCEPTION 'shard % is on the ring', OLD.name
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Empty it first: `tenantry shard drain`.';
    END IF;
    IF EXISTS (SELECT FROM tenantry.pin p WHERE p.shard = OLD.id) THEN
        RAISE EXCEPTION 'tenants are left on shard %: %', OLD.name, (SELECT count(*) FROM tenantry.pin p WHERE p.shard = OLD.id)
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Empty it first: `tenantry shard drain`.';
    END IF;
    IF EXISTS (SELECT FROM tenantry.move m WHERE m.finished_at IS NULL AND OLD.id IN (m.source, m.destination)) THEN
        RAISE EXCEPTION 'moves from or to shard % are not over yet', OLD.name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'See `tenantry move list`; a move is over when its way back is closed and its source is clean.';
    END IF;
    DELETE FROM tenantry.hot_tenant h WHERE h.shard = OLD.id;
    RETURN OLD;
END $$;

CREATE TRIGGER shard_is_empty BEFORE DELETE ON tenantry.shard
    FOR EACH ROW EXECUTE FUNCTION tenantry.guard_shard_removal();
