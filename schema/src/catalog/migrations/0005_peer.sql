-- Routers reach each other: a cancel request may arrive at any of them and belongs to one.

ALTER TABLE tenantry.router ADD COLUMN peer_address text;
COMMENT ON COLUMN tenantry.router.peer_address IS 'Host and port at which other routers pass cancel requests on; null: they cannot.';
