-- What routers tell of their load each second, and which tenants were found hot.
--
-- Figures of the moment: they are lost with the catalog's server and told again a second later, so they are not worth
-- writing ahead. They are no change that routers must learn of, and so are not in the change log.

-- When a router last told, and how long a stretch that covered.
CREATE UNLOGGED TABLE tenantry.router_load (
    router      smallint    PRIMARY KEY REFERENCES tenantry.router (id) ON DELETE CASCADE,
    at          timestamptz NOT NULL,
    seconds     real        NOT NULL
) WITH (fillfactor = 50);

-- What all tenants did on a shard through one router.
CREATE UNLOGGED TABLE tenantry.shard_load (
    router        smallint    NOT NULL REFERENCES tenantry.router (id) ON DELETE CASCADE,
    shard         smallint    NOT NULL,
    at            timestamptz NOT NULL,
    busy          real        NOT NULL,
    transactions  real        NOT NULL,
    PRIMARY KEY (router, shard)
) WITH (fillfactor = 50);
COMMENT ON COLUMN tenantry.shard_load.busy IS 'Server connections that were held, on average.';
COMMENT ON COLUMN tenantry.shard_load.transactions IS 'Per second.';

-- The tenants that did most of it, and those with limits. A row counts as of now while its time is its router's.
CREATE UNLOGGED TABLE tenantry.tenant_load (
    router                 smallint    NOT NULL REFERENCES tenantry.router (id) ON DELETE CASCADE,
    tenant                 tenantry.tenant_key NOT NULL,
    shard                  smallint,
    at                     timestamptz NOT NULL,
    -- Since the router began to count.
    transactions           bigint      NOT NULL,
    statements             bigint      NOT NULL,
    errors                 bigint      NOT NULL,
    rows                   bigint      NOT NULL,
    busy_us                bigint      NOT NULL,
    wait_us                bigint      NOT NULL,
    received_bytes         bigint      NOT NULL,
    sent_bytes             bigint      NOT NULL,
    -- Lately: server connections held on average, transactions per second.
    busy                   real        NOT NULL,
    transactions_rate      real        NOT NULL,
    -- What a tenant with limits asked for: statements per second, transactions and connections at once.
    queries_asked          real        NOT NULL,
    transactions_asked     integer     NOT NULL,
    connections_asked      integer     NOT NULL,
    connections_held       integer     NOT NULL,
    PRIMARY KEY (router, tenant)
) WITH (fillfactor = 50);
CREATE INDEX tenant_load_tenant ON tenantry.tenant_load (tenant);

-- The tenants that are hot now, for whoever acts on it.
CREATE TABLE tenantry.hot_tenant (
    tenant    tenantry.tenant_key PRIMARY KEY REFERENCES tenantry.tenant (id) ON DELETE CASCADE,
    shard     smallint    NOT NULL REFERENCES tenantry.shard (id),
    since     timestamptz NOT NULL DEFAULT clock_timestamp(),
    evidence  jsonb       NOT NULL
);
CREATE INDEX hot_tenant_shard ON tenantry.hot_tenant (shard);

CREATE TABLE tenantry.heat_event (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    tenant    tenantry.tenant_key NOT NULL REFERENCES tenantry.tenant (id) ON DELETE CASCADE,
    shard     smallint    NOT NULL REFERENCES tenantry.shard (id),
    state     text        NOT NULL CHECK (state IN ('hot', 'cold')),
    evidence  jsonb       NOT NULL
);
CREATE INDEX heat_event_tenant ON tenantry.heat_event (tenant, id);
COMMENT ON COLUMN tenantry.heat_event.evidence IS 'Share of the shard''s busy time, what it was before, over which window, and why that is hot or cold.';
