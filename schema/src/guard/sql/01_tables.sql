-- What the guard remembers. Runs as tenantry_owner; nobody else has a grant on these tables unless it is given here.

-- Which tenants live here. A tenant without a row is refused.
create table if not exists tenantry.owner (
    tenant_id  @key@ primary key,
    state      text not null check (state in ('active', 'importing', 'fenced', 'moved')),
    -- Version of the tenant's placement: it only grows.
    epoch      bigint not null check (epoch >= 0),
    move_id    uuid,
    -- Written with the fence and repeated in its marker: a marker counts only if both agree.
    nonce      uuid,
    -- The forwarding address: number of the shard that has the tenant now.
    moved_to   smallint check (moved_to between 1 and 4095),
    -- When a fence may be lifted by anyone.
    deadline   timestamptz,
    changed_at timestamptz not null default pg_catalog.clock_timestamp(),
    check (state <> 'fenced' or (move_id is not null and deadline is not null)),
    check (state <> 'moved' or moved_to is not null)
);

-- What proves that a move was committed: drawn for each fence and stored with it at the source; the destination has
-- its hash. It is shown to no one before the source's row says 'moved'. See 11_moves.sql.
alter table tenantry.owner add column if not exists proof uuid;
alter table tenantry.owner add column if not exists proof_hash bytea;

create index if not exists owner_move_id on tenantry.owner (move_id) where move_id is not null;

-- Secrets that sign bindings, as HMAC blocks: the key padded to 64 bytes, xor 0x36 and xor 0x5c. Current and
-- previous are valid at the same time.
create table if not exists tenantry.guard_key (
    version      integer primary key check (version > 0),
    inner_block  bytea not null check (pg_catalog.octet_length(inner_block) = 64),
    outer_block  bytea not null check (pg_catalog.octet_length(outer_block) = 64),
    installed_at timestamptz not null default pg_catalog.clock_timestamp()
);

-- One row. The secret keys advisory locks and notification channels, so that no tenant can compute another's; it
-- never leaves the shard and never rotates.
create table if not exists tenantry.shard (
    singleton        boolean primary key default true check (singleton),
    id               smallint not null check (id between 1 and 4095),
    name             text not null,
    namespace_secret bytea not null
                     default pg_catalog.sha256(pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
                                               || pg_catalog.uuid_send(pg_catalog.gen_random_uuid())),
    installed_at     timestamptz not null default pg_catalog.clock_timestamp()
);

-- Of the guard's functions when they were installed, see 08_findings.sql.
alter table tenantry.shard add column if not exists fingerprint text;

-- Roles whose bindings need no signature, because they run trusted SQL only.
create table if not exists tenantry.unsigned_role (
    role_name  name primary key,
    reason     text not null,
    allowed_at timestamptz not null default pg_catalog.clock_timestamp()
);

-- Every fence takes the next number and stores it here in its own transaction. The number is visible at once, the
-- row when the fence commits: a snapshot in which the two differ may be older than a fence.
create sequence if not exists tenantry.fence_number as bigint;
create table if not exists tenantry.fence_mark (
    singleton boolean primary key default true check (singleton),
    number    bigint not null
);
-- Takes the first number, because a sequence that has given none shows the one it will give.
insert into tenantry.fence_mark (number)
select pg_catalog.nextval('tenantry.fence_number') where not exists (select from tenantry.fence_mark);

-- Milliseconds and counter of the last id given out, see next_id().
create sequence if not exists tenantry.id_clock as bigint minvalue 0 start 0;

-- What is installed: the guard itself, and each schema migration.
create table if not exists tenantry.schema_version (
    component  text not null,
    version    integer not null,
    name       text not null,
    checksum   text not null,
    applied_at timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (component, version)
);

-- Whatever was granted by hand is taken back.
revoke all on all tables in schema tenantry from public, tenantry_app, tenantry_copy;
revoke all on all sequences in schema tenantry from public, tenantry_app, tenantry_copy;
revoke all on all functions in schema tenantry from tenantry_app, tenantry_copy;

grant usage on schema tenantry to public;
grant select on tenantry.schema_version to public;
-- All of an owner row but what could finish a move before its time.
revoke select on tenantry.owner from tenantry_operator;
grant select (tenant_id, state, epoch, move_id, moved_to, deadline, changed_at) on tenantry.owner to tenantry_operator;
