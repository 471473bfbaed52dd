-- What fill.sql reads, for this transaction only: the stores of this shard, and the words their rows are made of.

-- Foreign keys hold by construction; checking each of some hundred thousand rows would take longer than writing them.
SET LOCAL session_replication_role = replica;
SET LOCAL work_mem = '64MB';

CREATE TEMP TABLE demo_store (
    id         bigint PRIMARY KEY,
    name       text   NOT NULL,
    slug       text   NOT NULL,
    trade      integer NOT NULL,
    products   integer NOT NULL,
    customers  integer NOT NULL,
    orders     integer NOT NULL
) ON COMMIT DROP;

CREATE TEMP TABLE demo_trade (
    number       integer PRIMARY KEY,
    name         text    NOT NULL,
    collections  text[]  NOT NULL,
    kinds        text[]  NOT NULL,
    things       text[]  NOT NULL,
    option       text    NOT NULL,
    choices      text[]  NOT NULL,
    price_min    integer NOT NULL,
    price_max    integer NOT NULL
) ON COMMIT DROP;

CREATE TEMP TABLE demo_people (
    first_names  text[] NOT NULL,
    last_names   text[] NOT NULL,
    cities       text[] NOT NULL,
    countries    text[] NOT NULL
) ON COMMIT DROP;

-- A number from 0 to bound - 1 that depends on its arguments only, so that every demo has the same rows.
CREATE FUNCTION pg_temp.roll(tenant bigint, n bigint, salt bigint, bound bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (hashint8extended(tenant * 1000003 + n, salt) & 9223372036854775807) % bound;
