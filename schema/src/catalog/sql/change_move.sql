-- A transition: the move's row if it still has this version, and the event.
WITH changed AS (
    UPDATE tenantry.move m
       SET version = m.version + 1, lease_epoch = $3, state = $4, lives_at = $5, placement_epoch = $6, paused = $7,
           switch_asked = $8, way_back = $9, attempts = $10, error = $11, probation_until = $12, progress = $13,
           finished_at = CASE WHEN $14 THEN clock_timestamp() END, updated_at = clock_timestamp()
     WHERE m.id = $1 AND m.version = $2 AND m.finished_at IS NULL
    RETURNING m.id, m.state
)
INSERT INTO tenantry.move_event (move, from_state, to_state, detail)
SELECT c.id, $15, c.state, $16 FROM changed c
