-- The tenant key of a uuid fleet. Applied once, by init, between migrations 1 and 2.

CREATE DOMAIN tenantry.tenant_key AS uuid CHECK (VALUE <> '00000000-0000-0000-0000-000000000000');

-- UUID version 7 (RFC 9562): 48 bits of milliseconds, so that new tenants land together in indexes.
CREATE FUNCTION tenantry.new_tenant_id() RETURNS uuid
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT encode(
        set_bit(
            set_bit(
                overlay(
                    uuid_send(gen_random_uuid())
                    PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                    FROM 1 FOR 6),
                52, 1),
            53, 1),
        'hex')::uuid
$$;
