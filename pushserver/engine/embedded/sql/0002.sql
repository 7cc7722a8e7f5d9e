-- Which life of the data this is. The generation stands before every epoch, and moves on where the data may have gone back;
-- `carried` is how far a name had come at each of the last moves: up to there positions of the generations before still count.
CREATE TABLE life (
    life INTEGER PRIMARY KEY CHECK (life = 1),
    generation TEXT NOT NULL,        -- '' before it moved on for the first time
    before TEXT,                     -- those before, the newest first, with commas between; null before that
    mark TEXT,                       -- shared with the file beside the store; null where it was never opened
    origin TEXT                      -- the mark of the copy that this store was restored from
);
INSERT INTO life (life, generation) VALUES (1, '');
ALTER TABLE inbox_user ADD COLUMN carried TEXT NOT NULL DEFAULT '';
ALTER TABLE channel ADD COLUMN carried TEXT NOT NULL DEFAULT '';

-- The highest offset of a message that could not be read: nobody resumes over it.
ALTER TABLE channel ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0;

-- Rows that could not be read.
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    offset INTEGER,
    body BLOB NOT NULL,
    reason TEXT NOT NULL,
    at INTEGER NOT NULL
);

-- A secret of this store's own, from which epochs of channels without messages, and others' keys, are derived.
CREATE TABLE secret (
    secret INTEGER PRIMARY KEY CHECK (secret = 1),
    value BLOB NOT NULL
);

-- How many bytes the channel has been given up to and with this message: what is kept is a difference of two of them.
-- Null in what an older version wrote.
ALTER TABLE history ADD COLUMN octets INTEGER;

-- Of type and data of the write that the key belongs to; null where an older version wrote it.
ALTER TABLE once ADD COLUMN content BLOB;

-- Where the owner's message of a final state is in the inbox, so that another attempt can take it back.
ALTER TABLE task ADD COLUMN end_offset INTEGER;
ALTER TABLE task ADD COLUMN end_epoch TEXT;

-- The outbox of events, in the order of their numbers; `event_id` is what the world calls one.
CREATE TABLE event (
    number INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL,
    kept_at INTEGER NOT NULL,
    body BLOB NOT NULL
);

-- What is left of the events that are gone: the newest of them, how many went before their time, and the bytes of the
-- others.
CREATE TABLE event_outbox (
    event_outbox INTEGER PRIMARY KEY CHECK (event_outbox = 1),
    newest INTEGER NOT NULL,
    floor INTEGER NOT NULL,
    floor_id TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    dropped INTEGER NOT NULL
);
INSERT INTO event_outbox VALUES (1, 0, 0, '0', 0, 0);

-- How far a webhook has come, which subjects of it wait, and with which events.
CREATE TABLE webhook (
    name TEXT PRIMARY KEY,
    cursor TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE webhook_subject (
    webhook TEXT NOT NULL,
    subject TEXT NOT NULL,
    failures INTEGER NOT NULL,
    due INTEGER NOT NULL,
    PRIMARY KEY (webhook, subject)
) WITHOUT ROWID;
CREATE TABLE webhook_held (
    webhook TEXT NOT NULL,
    subject TEXT NOT NULL,
    number INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (webhook, subject, number)
) WITHOUT ROWID;
CREATE TABLE webhook_dead (
    webhook TEXT NOT NULL,
    event_id TEXT NOT NULL,
    died_at INTEGER NOT NULL,
    body BLOB NOT NULL,              -- JSON of the dead event
    again INTEGER NOT NULL DEFAULT 0, -- 1: to be tried once more
    PRIMARY KEY (webhook, event_id)
) WITHOUT ROWID;
CREATE INDEX webhook_dead_at ON webhook_dead (died_at);
CREATE INDEX webhook_dead_again ON webhook_dead (webhook) WHERE again = 1;

-- Messages that are looked at once their time to be read is over.
CREATE TABLE unread_timer (
    id INTEGER PRIMARY KEY,
    due INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    offset INTEGER NOT NULL,
    epoch TEXT NOT NULL
);
CREATE INDEX unread_timer_due ON unread_timer (due);
