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
