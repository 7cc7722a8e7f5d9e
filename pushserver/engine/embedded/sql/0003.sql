-- When each message of an inbox was read, ms; null where it was not. The third bit of `kind` says that it is the end of a
-- task; what an older version kept is told by its body.
ALTER TABLE inbox ADD COLUMN read_at INTEGER;
DROP INDEX inbox_own_ttl;
CREATE INDEX inbox_own_ttl ON inbox (expires_at) WHERE kind & 2;
UPDATE inbox SET kind = kind | 4 WHERE CAST(substr(body, 1, 40) AS TEXT) GLOB '{"type":"task_completed",*'
    OR CAST(substr(body, 1, 40) AS TEXT) GLOB '{"type":"task_failed",*'
    OR CAST(substr(body, 1, 40) AS TEXT) GLOB '{"type":"task_status_changed",*';
