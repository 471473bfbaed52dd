-- What a move needs beyond its row of migration 4: who leads, what operators ask for, what it waits for.

-- Leadership ------------------------------------------------------------------------------------------------

-- Of several processes of a kind one works. Its epoch is raised whenever the lead passes on, and every write that
-- only the leader may make compares it: who was overtaken finds out at its next write, whatever its clock says.
CREATE TABLE tenantry.leader (
    name    text        COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9-]{0,62}$'),
    epoch   bigint      NOT NULL CHECK (epoch > 0),
    holder  uuid        NOT NULL,
    until   timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON COLUMN tenantry.leader.until IS 'From then on anyone may take the lead; until then its holder may prolong it.';

-- Moves -------------------------------------------------------------------------------------------------------

ALTER TABLE tenantry.move
    DROP COLUMN lease_holder,
    DROP COLUMN lease_until,
    ADD COLUMN policy           jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(policy) = 'object'),
    ADD COLUMN batch            uuid,
    ADD COLUMN actor            text        NOT NULL DEFAULT 'system' CHECK (actor <> ''),
    ADD COLUMN lives_at         text        NOT NULL DEFAULT 'source' CHECK (lives_at IN ('source', 'destination')),
    ADD COLUMN placement_epoch  bigint      CHECK (placement_epoch > 0),
    ADD COLUMN paused           boolean     NOT NULL DEFAULT false,
    ADD COLUMN switch_asked     boolean     NOT NULL DEFAULT false,
    ADD COLUMN way_back         boolean     NOT NULL DEFAULT true,
    ADD COLUMN attempts         integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    ADD COLUMN error            text,
    ADD COLUMN probation_until  timestamptz,
    ADD COLUMN updated_at       timestamptz NOT NULL DEFAULT clock_timestamp();
COMMENT ON COLUMN tenantry.move.source_epoch IS 'The tenant''s epoch when the move was planned.';
COMMENT ON COLUMN tenantry.move.batch IS 'The rebalancing that this move belongs to.';
COMMENT ON COLUMN tenantry.move.lives_at IS 'Where the tenant is served, as far as the catalog knows: the source''s owner row knows first.';
COMMENT ON COLUMN tenantry.move.placement_epoch IS 'The epoch the tenant has where it lives since a commit of this move.';
COMMENT ON COLUMN tenantry.move.way_back IS 'Whether the reverse stream keeps the source current, so that a rollback loses nothing.';
COMMENT ON COLUMN tenantry.move.attempts IS 'Cutovers that were tried in the present direction.';
CREATE INDEX move_batch ON tenantry.move (batch) WHERE batch IS NOT NULL;
CREATE INDEX move_tenant ON tenantry.move (tenant, created_at);
CREATE INDEX move_newest ON tenantry.move (created_at, id);

-- What operators ask of a move. The rebalancer takes each row with the transition it causes.
CREATE TABLE tenantry.move_command (
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    move     uuid        NOT NULL REFERENCES tenantry.move (id) ON DELETE CASCADE,
    command  text        NOT NULL CHECK (command IN ('cancel', 'pause', 'resume', 'switch', 'reverse', 'complete')),
    actor    text        NOT NULL CHECK (actor <> ''),
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    taken_at timestamptz,
    refusal  text,
    CONSTRAINT refused_when_taken CHECK (refusal IS NULL OR taken_at IS NOT NULL)
);
CREATE INDEX move_command_move ON tenantry.move_command (move, id);
CREATE INDEX move_command_pending ON tenantry.move_command (id) WHERE taken_at IS NULL;

-- The rebalancer listens: a new move, or a new command, whoever wrote it.
CREATE FUNCTION tenantry.move_wakes() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('tenantry_move', '');
    RETURN NULL;
END $$;

CREATE TRIGGER move_created AFTER INSERT ON tenantry.move
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.move_wakes();
CREATE TRIGGER move_commanded AFTER INSERT ON tenantry.move_command
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.move_wakes();
