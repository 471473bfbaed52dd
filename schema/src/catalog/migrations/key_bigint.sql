-- The tenant key of a bigint fleet. Applied once, by init, between migrations 1 and 2.

CREATE DOMAIN tenantry.tenant_key AS bigint CHECK (VALUE > 0);

CREATE SEQUENCE tenantry.tenant_number AS bigint;

-- Ids may also be given by hand, so the sequence steps over those already taken.
CREATE FUNCTION tenantry.new_tenant_id() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    candidate bigint;
BEGIN
    LOOP
        candidate := nextval('tenantry.tenant_number');
        EXIT WHEN NOT EXISTS (SELECT FROM tenantry.tenant t WHERE t.id = candidate);
    END LOOP;
    RETURN candidate;
END $$;
