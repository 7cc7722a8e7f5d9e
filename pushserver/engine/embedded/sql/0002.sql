-- Which life of the data this is. The generation stands before every epoch, and moves on where the data may have gone back;
-- `carried` is how far a name had come when it moved on last: up to there positions of the generation before still count.
CREATE TABLE life (
    life INTEGER PRIMARY KEY CHECK (life = 1),
    generation TEXT NOT NULL,        -- '' before it moved on for the first time
    before TEXT,                     -- null before that
    mark TEXT,                       -- shared with the file beside the store; null where it was never opened
    origin TEXT                      -- the mark of the copy that this store was restored from
);
INSERT INTO life (life, generation) VALUES (1, '');
ALTER TABLE inbox_user ADD COLUMN carried INTEGER NOT NULL DEFAULT 0;
ALTER TABLE channel ADD COLUMN carried INTEGER NOT NULL DEFAULT 0;

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
