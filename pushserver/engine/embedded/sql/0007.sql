-- When a configuration named the webhook last, ms; 0: not since there is this column.
ALTER TABLE webhook ADD COLUMN named_at INTEGER NOT NULL DEFAULT 0;
