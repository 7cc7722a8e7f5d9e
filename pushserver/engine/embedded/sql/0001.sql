-- Rows are appended in the order of time (integer primary keys), so that a commit of a hundred messages to a hundred
-- users touches few pages; users and channels are numbers in the indexes, for the same reason.

CREATE TABLE inbox_user (
    user INTEGER PRIMARY KEY,
    user_id TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    newest INTEGER NOT NULL,         -- at least; the newest kept message may be above it
    acked INTEGER NOT NULL,
    lost BLOB NOT NULL,              -- JSON: [[first offset, last offset, how many], ...], ascending
    touched_at INTEGER NOT NULL
);
CREATE INDEX inbox_user_touched ON inbox_user (touched_at) WHERE lost = X'5B5D';

CREATE TABLE inbox (
    id INTEGER PRIMARY KEY,
    user INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    kind INTEGER NOT NULL,           -- bit 0: chat, bit 1: has a ttl of its own
    expires_at INTEGER NOT NULL,
    collapse_key TEXT,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX inbox_offset ON inbox (user, offset);
CREATE INDEX inbox_expires ON inbox (expires_at);

CREATE TABLE channel (
    channel INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    newest INTEGER NOT NULL,         -- at least; the newest kept message may be above it
    floor INTEGER NOT NULL,          -- at least; the oldest kept message may show a higher one
    touched_at INTEGER NOT NULL
);
CREATE INDEX channel_touched ON channel (touched_at);

CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    channel INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX history_offset ON history (channel, offset);
CREATE INDEX history_expires ON history (expires_at);

CREATE TABLE once (
    id INTEGER PRIMARY KEY,          -- in the order of age
    digest BLOB NOT NULL,            -- of scope and key
    expires_at INTEGER NOT NULL,
    answer BLOB NOT NULL
);
CREATE UNIQUE INDEX once_digest ON once (digest);

CREATE TABLE task (
    task_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    expires_at INTEGER,              -- null until the state is final
    body BLOB NOT NULL
);
CREATE INDEX task_user ON task (user_id, created_at);
CREATE INDEX task_stale ON task (updated_at) WHERE expires_at IS NULL;
CREATE INDEX task_expires ON task (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE revocation (
    kind TEXT NOT NULL,              -- 'jti' or 'user'
    subject TEXT NOT NULL,
    issued_until INTEGER NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (kind, subject)
) WITHOUT ROWID;
CREATE INDEX revocation_until ON revocation (until);

CREATE TABLE last_seen (
    user_id TEXT PRIMARY KEY,
    seen_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX last_seen_at ON last_seen (seen_at);

CREATE TABLE probe (
    probe INTEGER PRIMARY KEY,
    written_at INTEGER NOT NULL
);
