-- What a small transaction of a tenant does: reads by key, writes, and waits for the disk. The message is of no
-- transaction that anyone decodes.
select count(*) from (select from tenantry.owner limit 1) seen;
select pg_logical_emit_message(true, 'tenantry.pressure', '');
