-- $1: the router; the others are columns.
INSERT INTO tenantry.tenant_load AS l (
    router, tenant, shard, at, transactions, statements, errors, rows, busy_us, wait_us, received_bytes, sent_bytes,
    busy, transactions_rate, queries_asked, transactions_asked, connections_asked, connections_held)
SELECT $1, u.tenant::tenantry.tenant_key, u.shard, now(), u.transactions, u.statements, u.errors, u.rows, u.busy_us,
       u.wait_us, u.received, u.sent, u.busy, u.transactions_rate, u.queries_asked, u.transactions_asked,
       u.connections_asked, u.connections_held
  FROM unnest($2::text[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
              $9::bigint[], $10::bigint[], $11::bigint[], $12::real[], $13::real[], $14::real[], $15::integer[],
              $16::integer[], $17::integer[])
       AS u (tenant, shard, transactions, statements, errors, rows, busy_us, wait_us, received, sent, busy,
             transactions_rate, queries_asked, transactions_asked, connections_asked, connections_held)
ON CONFLICT (router, tenant) DO UPDATE SET
    shard = excluded.shard, at = excluded.at, transactions = excluded.transactions, statements = excluded.statements,
    errors = excluded.errors, rows = excluded.rows, busy_us = excluded.busy_us, wait_us = excluded.wait_us,
    received_bytes = excluded.received_bytes, sent_bytes = excluded.sent_bytes, busy = excluded.busy,
    transactions_rate = excluded.transactions_rate, queries_asked = excluded.queries_asked,
    transactions_asked = excluded.transactions_asked, connections_asked = excluded.connections_asked,
    connections_held = excluded.connections_held
