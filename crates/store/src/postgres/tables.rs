//! The tables that an archive is copied into, with their columns.

use tokio_postgres::types::Type;

/// A table, and what is copied into it.
pub(super) struct Table {
    pub(super) sql: &'static str,
    pub(super) types: &'static [Type],
}

pub(super) static RUN: Table = Table {
    sql: "COPY run (run, id, tenant, agent, key, key_hash, state, disposition, wake_at, rank, \
          priority, epoch, head_seq, created_at, updated_at, session, tags, parent, problem, \
          summary) FROM STDIN BINARY",
    types: &[
        Type::INT8,
        Type::UUID,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::BYTEA,
        Type::TEXT,
        Type::INT2,
        Type::INT8,
        Type::INT8,
        Type::INT4,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::TEXT,
        Type::TEXT_ARRAY,
        Type::UUID,
        Type::TEXT,
        Type::BYTEA,
    ],
};
pub(super) static RUN_TEXT: Table =
    Table { sql: "COPY run_text (run, text) FROM STDIN BINARY", types: &[Type::INT8, Type::TEXT] };
pub(super) static EVENT: Table = Table {
    sql: "COPY event (run, seq, at, kind, version, body) FROM STDIN BINARY",
    types: &[Type::INT8, Type::INT8, Type::INT8, Type::TEXT, Type::INT4, Type::BYTEA],
};
pub(super) static CHECKPOINT: Table = Table {
    sql: "COPY checkpoint (run, seq, at, body) FROM STDIN BINARY",
    types: &[Type::INT8, Type::INT8, Type::INT8, Type::BYTEA],
};
pub(super) static BLOB: Table =
    Table { sql: "COPY blob (hash, body) FROM STDIN BINARY", types: &[Type::BYTEA, Type::BYTEA] };
pub(super) static BLOB_REF: Table =
    Table { sql: "COPY blob_ref (run, hash) FROM STDIN BINARY", types: &[Type::INT8, Type::BYTEA] };
pub(super) static LETTER: Table = Table {
    sql: "COPY letter (number, run, id, kind, body, at, taken) FROM STDIN BINARY",
    types: &[Type::INT8, Type::INT8, Type::TEXT, Type::TEXT, Type::BYTEA, Type::INT8, Type::BOOL],
};
pub(super) static FACT: Table = Table {
    sql: "COPY fact (scope, key, value, version, at, expires_at) FROM STDIN BINARY",
    types: &[Type::TEXT, Type::TEXT, Type::BYTEA, Type::INT8, Type::INT8, Type::INT8],
};
pub(super) static OPERATION: Table = Table {
    sql: "COPY operation (name, scope, key, digest, owner, node, since, answer, settled_at, \
          expires_at) FROM STDIN BINARY",
    types: &[
        Type::BYTEA,
        Type::BYTEA,
        Type::BYTEA,
        Type::BYTEA,
        Type::BYTEA,
        Type::TEXT,
        Type::INT8,
        Type::BYTEA,
        Type::INT8,
        Type::INT8,
    ],
};

pub(super) static ACCOUNT: Table = Table {
    sql: "COPY account (name, since, spent_tokens, spent_money, held_tokens, held_money, entries, \
          at) FROM STDIN BINARY",
    types: &[
        Type::TEXT,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT8,
    ],
};
pub(super) static HOLD: Table = Table {
    sql: "COPY hold (id, tokens, money, limited, tallies, charged, expires_at, subject, body) \
          FROM STDIN BINARY",
    types: &[
        Type::UUID,
        Type::INT8,
        Type::INT8,
        Type::TEXT,
        Type::TEXT,
        Type::BOOL,
        Type::INT8,
        Type::TEXT,
        Type::BYTEA,
    ],
};
pub(super) static ENTRY: Table = Table {
    sql: "COPY entry (id, at, expired, subject, tokens, money, body) FROM STDIN BINARY",
    types: &[Type::UUID, Type::INT8, Type::BOOL, Type::TEXT, Type::INT8, Type::INT8, Type::BYTEA],
};
