-- One text for SQLite and PostgreSQL. Instants are microseconds since 1970-01-01T00:00:00Z.

CREATE TABLE accounts (
    name        TEXT   NOT NULL PRIMARY KEY,
    title       TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    disabled_at BIGINT
);

-- A project belongs to an account over [start_at, end_at). That periods of one project do not
-- overlap is checked by the writer, of which there is one at a time.
CREATE TABLE ownerships (
    project  TEXT   NOT NULL CHECK (project <> ''),
    start_at BIGINT NOT NULL,
    end_at   BIGINT NOT NULL,
    account  TEXT   NOT NULL REFERENCES accounts (name),
    PRIMARY KEY (project, start_at),
    CHECK (start_at < end_at)
);

CREATE INDEX ownerships_account ON ownerships (account);

CREATE TABLE users (
    name        TEXT   NOT NULL PRIMARY KEY,
    role        TEXT   NOT NULL,
    account     TEXT   REFERENCES accounts (name),
    issuer      TEXT,
    subject     TEXT,
    created_at  BIGINT NOT NULL,
    disabled_at BIGINT,
    UNIQUE (issuer, subject),
    CHECK ((issuer IS NULL) = (subject IS NULL)),
    CHECK ((account IS NOT NULL) = (role IN ('account_administrator', 'viewer')))
);

-- The hash is SHA-256 of the secret part, which is nowhere else: 256 random bits need no slow hash.
CREATE TABLE api_keys (
    id           TEXT   NOT NULL PRIMARY KEY,
    hash         TEXT   NOT NULL,
    label        TEXT   NOT NULL,
    role         TEXT   NOT NULL,
    account      TEXT   REFERENCES accounts (name),
    user_name    TEXT   REFERENCES users (name),
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    revoked_at   BIGINT,
    last_used_at BIGINT,
    CHECK ((account IS NOT NULL) = (role IN ('account_administrator', 'viewer')))
);
