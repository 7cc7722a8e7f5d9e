-- When an output was last appended to, ms: a task that writes is not stale.
ALTER TABLE output ADD COLUMN appended_at INTEGER NOT NULL DEFAULT 0;
