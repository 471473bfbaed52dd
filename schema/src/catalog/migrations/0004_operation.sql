-- Work on the fleet: routers that follow the catalog, moves, rollouts, long-running operations and the audit trail.

CREATE TABLE tenantry.router (
    id               smallint    PRIMARY KEY CHECK (id BETWEEN 1 AND 1023),
    name             text        COLLATE "C" NOT NULL UNIQUE CHECK (name <> ''),
    control_address  text,
    applied_seq      bigint      NOT NULL DEFAULT 0,
    started_at       timestamptz NOT NULL DEFAULT now(),
    heartbeat_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN tenantry.router.id IS 'Ten bits of the process id clients see, so that a cancel request finds its router.';
COMMENT ON COLUMN tenantry.router.applied_seq IS 'The last change the router has applied; the log is trimmed behind the slowest.';

-- Moves -------------------------------------------------------------------------------------------------------

CREATE TABLE tenantry.move (
    id            uuid        PRIMARY KEY,
    tenant        tenantry.tenant_key NOT NULL REFERENCES tenantry.tenant (id),
    source        smallint    NOT NULL REFERENCES tenantry.shard (id),
    destination   smallint    NOT NULL REFERENCES tenantry.shard (id),
    kind          text        NOT NULL DEFAULT 'move' CHECK (kind IN ('move', 'isolate', 'drain', 'rebalance')),
    state         text        NOT NULL DEFAULT 'PLANNED'
                  CHECK (state IN ('PLANNED', 'PREPARED', 'COPYING', 'CATCHUP', 'VERIFIED', 'READY', 'FENCING', 'DRAINED',
                                   'COMMITTED', 'PROBATION', 'CLEANING', 'ROLLING_BACK', 'ABORTING',
                                   'DONE', 'ROLLED_BACK', 'ABORTED')),
    version       bigint      NOT NULL DEFAULT 1,
    lease_epoch   bigint      NOT NULL DEFAULT 0,
    lease_holder  text,
    lease_until   timestamptz,
    source_epoch  bigint      NOT NULL CHECK (source_epoch > 0),
    names         jsonb       NOT NULL DEFAULT '{}',
    progress      jsonb       NOT NULL DEFAULT '{}',
    reason        text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    finished_at   timestamptz,
    CONSTRAINT move_goes_elsewhere CHECK (source <> destination),
    CONSTRAINT finished_is_dated CHECK ((state IN ('DONE', 'ROLLED_BACK', 'ABORTED')) = (finished_at IS NOT NULL))
);
CREATE UNIQUE INDEX move_one_live_per_tenant ON tenantry.move (tenant) WHERE finished_at IS NULL;
CREATE INDEX move_live ON tenantry.move (created_at) WHERE finished_at IS NULL;
COMMENT ON COLUMN tenantry.move.version IS 'Raised by each transition: a transition is a compare-and-set on (state, version).';
COMMENT ON COLUMN tenantry.move.names IS 'Publications and slots, recorded before they are created.';

CREATE TABLE tenantry.move_event (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    move        uuid        NOT NULL REFERENCES tenantry.move (id) ON DELETE CASCADE,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    from_state  text,
    to_state    text        NOT NULL,
    detail      jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX move_event_move ON tenantry.move_event (move, id);

-- Rollouts ----------------------------------------------------------------------------------------------------

CREATE TABLE tenantry.rollout (
    id            uuid        PRIMARY KEY,
    migration     text        NOT NULL,
    checksum      text        NOT NULL,
    state         text        NOT NULL DEFAULT 'planned'
                  CHECK (state IN ('planned', 'running', 'paused', 'reverting', 'completed', 'reverted', 'aborted')),
    plan          jsonb       NOT NULL DEFAULT '{}',
    version       bigint      NOT NULL DEFAULT 1,
    deadline_at   timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    finished_at   timestamptz,
    CONSTRAINT finished_is_dated CHECK ((state IN ('completed', 'reverted', 'aborted')) = (finished_at IS NOT NULL))
);
CREATE UNIQUE INDEX rollout_one_live_per_migration ON tenantry.rollout (migration) WHERE finished_at IS NULL;

CREATE TABLE tenantry.rollout_shard (
    rollout     uuid        NOT NULL REFERENCES tenantry.rollout (id) ON DELETE CASCADE,
    shard       smallint    NOT NULL REFERENCES tenantry.shard (id),
    wave        integer     NOT NULL CHECK (wave >= 0),
    phase       text        NOT NULL DEFAULT 'pending'
                CHECK (phase IN ('pending', 'expand', 'backfill', 'verify', 'contract', 'done', 'failed', 'reverted')),
    progress    jsonb       NOT NULL DEFAULT '{}',
    error       text,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (rollout, shard)
);

CREATE TABLE tenantry.rollout_event (
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollout  uuid        NOT NULL REFERENCES tenantry.rollout (id) ON DELETE CASCADE,
    shard    smallint    REFERENCES tenantry.shard (id),
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    what     text        NOT NULL,
    detail   jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX rollout_event_rollout ON tenantry.rollout_event (rollout, id);

-- Operations and audit ----------------------------------------------------------------------------------------

CREATE TABLE tenantry.operation (
    id               uuid        PRIMARY KEY,
    kind             text        NOT NULL CHECK (kind ~ '^[a-z][a-z0-9_.-]{0,62}$'),
    target           text        NOT NULL,
    state            text        NOT NULL DEFAULT 'pending'
                     CHECK (state IN ('pending', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')),
    request          jsonb       NOT NULL DEFAULT '{}',
    result           jsonb,
    error            jsonb,
    done_units       bigint      NOT NULL DEFAULT 0 CHECK (done_units >= 0),
    total_units      bigint      CHECK (total_units >= 0),
    idempotency_key  text        UNIQUE,
    version          bigint      NOT NULL DEFAULT 1,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    finished_at      timestamptz,
    CONSTRAINT finished_is_dated CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
);
CREATE INDEX operation_live ON tenantry.operation (created_at) WHERE finished_at IS NULL;

CREATE TABLE tenantry.audit (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor        text        NOT NULL CHECK (actor <> ''),
    action       text        NOT NULL CHECK (action <> ''),
    target_kind  text        NOT NULL,
    target       text        NOT NULL,
    before       jsonb,
    after        jsonb,
    request_id   text
);
CREATE INDEX audit_target ON tenantry.audit (target_kind, target, id);
