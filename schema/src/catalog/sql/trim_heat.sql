-- By age, and by number where a tenant flaps all the time.
DELETE FROM tenantry.heat_event
 WHERE at < now() - interval '90 days'
    OR id <= (SELECT id FROM tenantry.heat_event ORDER BY id DESC OFFSET 100000 LIMIT 1)
