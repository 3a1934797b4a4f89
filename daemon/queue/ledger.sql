-- The ledger's schema. Each section below brings a file from the version before it to its own;
-- a section that has been released is never edited, a change is a new section.
-- `ledger.py` runs a section and sets PRAGMA user_version in one transaction.
-- Names and paths are BLOBs: a name on a share need not be valid text.

-- version 1

-- One row for each visit of one file.
CREATE TABLE job (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: results carry it
    watch       TEXT    NOT NULL,
    root        BLOB    NOT NULL,
    name        BLOB    NOT NULL,
    size        INTEGER NOT NULL,
    mtime_ns    TEXT    NOT NULL,  -- digits: a file's time may lie beyond 64 bits of nanoseconds
    ino         TEXT    NOT NULL,  -- digits: an inode number has no sign, an SQLite integer has
    mark        TEXT    NOT NULL,  -- Sighting.mark: identity of the bytes that this visit is about
    recipe      TEXT    NOT NULL,
    options     TEXT    NOT NULL,  -- JSON
    priority    INTEGER NOT NULL,
    state       TEXT    NOT NULL,
    admitted_at REAL    NOT NULL,  -- wall clock, seconds
    updated_at  REAL    NOT NULL,
    attempt     INTEGER NOT NULL DEFAULT 0,
    kills       INTEGER NOT NULL DEFAULT 0,
    rung        INTEGER NOT NULL DEFAULT 0,  -- of the ladder that follows a lack of memory
    target      BLOB    NOT NULL DEFAULT x'',
    original_to BLOB    NOT NULL DEFAULT x'',
    fault       TEXT,
    reason      TEXT    NOT NULL DEFAULT '',
    hint        TEXT    NOT NULL DEFAULT '',
    outputs     TEXT    NOT NULL DEFAULT '[]',  -- JSON
    reports     TEXT    NOT NULL DEFAULT '[]',  -- JSON
    stays       INTEGER NOT NULL DEFAULT 0      -- ended, and the original was left where it lay
);

-- A lock: a file is never in the queue twice.
CREATE UNIQUE INDEX job_open ON job (watch, name)
    WHERE state IN ('queued', 'claimed', 'staged', 'published', 'failing');

-- A lock: a name in the outbox is promised to one job at most.
CREATE UNIQUE INDEX job_target ON job (watch, target)
    WHERE state IN ('staged', 'published') AND target <> x'';

-- The newest of each state, and what is old enough to be dropped.
CREATE INDEX job_state ON job (state, updated_at, id, stays);

-- Every visit of one file, for people who ask about it.
CREATE INDEX job_name ON job (watch, name);

-- What a scan must not admit again; holds all that the question needs.
CREATE INDEX job_stays ON job (watch, name, mark, stays) WHERE stays;

-- What happened to a job, one row for each move or note.
CREATE TABLE history (
    id     INTEGER PRIMARY KEY,
    job    INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    at     REAL    NOT NULL,
    event  TEXT    NOT NULL,
    state  TEXT    NOT NULL,  -- the job's, after the event
    detail TEXT    NOT NULL
);
CREATE INDEX history_job ON history (job);
CREATE INDEX history_at ON history (at);

-- Learned and remembered things.
CREATE TABLE memo (
    key   TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- Identifies this ledger for ever: a result that names it and a job is ours.
INSERT INTO memo (key, value) VALUES ('uid', lower(hex(randomblob(16))));
