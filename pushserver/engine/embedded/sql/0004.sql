-- What tasks write while they work. `begun_at` is the `createdAt` of the attempt that writes it; with another attempt it is
-- abandoned, as with the end of its task, and removed step by step.
CREATE TABLE output (
    output INTEGER PRIMARY KEY,
    task_id TEXT NOT NULL,
    name TEXT NOT NULL,
    begun_at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    start INTEGER NOT NULL,          -- the first position that is kept
    offset INTEGER NOT NULL,         -- the position after the newest
    first INTEGER NOT NULL,          -- bytes before what is kept
    bytes INTEGER NOT NULL,          -- all bytes that were appended
    abandoned INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX output_name ON output (task_id, name) WHERE abandoned = 0;
CREATE INDEX output_abandoned ON output (abandoned) WHERE abandoned = 1;

-- Its bytes, in pieces of one size, of which the last one grows: each fills a page of the file.
CREATE TABLE output_chunk (
    id INTEGER PRIMARY KEY,          -- the output * 2^24 + the number of the piece
    position INTEGER NOT NULL,       -- where its first byte stands
    body BLOB NOT NULL
);

-- The newest append of each producer, and the position after it.
CREATE TABLE output_producer (
    output INTEGER NOT NULL,
    producer TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    PRIMARY KEY (output, producer)
) WITHOUT ROWID;

-- Whether the task has written anything.
ALTER TABLE task ADD COLUMN outputs INTEGER NOT NULL DEFAULT 0;
CREATE TRIGGER output_ends AFTER DELETE ON task WHEN OLD.outputs = 1 BEGIN
    UPDATE output SET abandoned = 1 WHERE task_id = OLD.task_id AND abandoned = 0;
END;
