//! What the columns of the built-in tables hold.

use super::draw::Draw;
use super::encode::{self, BASE_TIME_US};
use super::payload::Payload;
use super::table_shape::TableShape;

/// The statements that create a built-in table, with its types, in schema `public`; `None` for any
/// other name.
#[must_use]
pub fn builtin_ddl(table: &str) -> Option<&'static str> {
    match table {
        "task_run" => Some(include_str!("task_run.sql")),
        "event" => Some(include_str!("event.sql")),
        _ => None,
    }
}

/// What a rule makes its value from.
pub(super) struct Cell {
    /// The row's number.
    pub n: u64,
    /// 0 when the row is inserted, another number with every update.
    pub revision: u64,
    /// The same for all columns of one revision: what belongs together is derived from it.
    pub row: u64,
    /// This column's own randomness.
    pub draw: Draw,
    /// The payload that was asked for.
    pub payload: Payload,
}

/// How a column of a built-in table is filled.
pub(super) struct Rule {
    /// The column.
    pub column: &'static str,
    /// Its type as a person writes it.
    type_name: &'static str,
    /// Whether an update changes it.
    pub updated: bool,
    /// Appends length and content.
    pub write: Write,
}

/// Appends length and content of a value.
type Write = fn(&mut Cell, &mut Vec<u8>);

/// The rules for `table`, if it is a built-in table and not one that only has its name.
#[must_use]
pub(super) fn rules(table: &TableShape) -> Option<&'static [Rule]> {
    let rules: &[Rule] = match (table.schema.as_str(), table.name.as_str()) {
        ("public", "task_run") => &TASK_RUN,
        ("public", "event") => &EVENT,
        _ => return None,
    };
    let fits = |rule: &Rule| {
        // The type's schema is shown only where it is not on the search path.
        let same = |shown: &str| shown.trim_start_matches("public.") == rule.type_name;
        table.columns.iter().any(|c| c.name == rule.column && same(&c.type_name))
    };
    (table.columns.len() == rules.len() && rules.iter().all(fits)).then_some(rules)
}

/// The payload a built-in table has when the plan doesn't say, in bytes.
#[must_use]
pub(super) fn default_payload_bytes(table: &TableShape) -> usize {
    if table.name == "event" { 64 } else { 512 }
}

const fn rule(column: &'static str, type_name: &'static str, write: Write) -> Rule {
    Rule { column, type_name, updated: false, write }
}

const fn updated(column: &'static str, type_name: &'static str, write: Write) -> Rule {
    Rule { column, type_name, updated: true, write }
}

const TIME: &str = "timestamp with time zone";

const EVENT: [Rule; 9] = [
    rule("id", "bigint", |cell, out| encode::bytes(out, &(cell.n + 1).to_be_bytes())),
    rule("created_at", TIME, |cell, out| cell.time(out, 0)),
    rule("kind", "text", |cell, out| cell.one_of(out, &EVENT_KINDS)),
    rule("user_id", "bigint", |cell, out| {
        encode::bytes(out, &(cell.draw.below(1_000_000) + 1).to_be_bytes());
    }),
    rule("session", "uuid", |cell, out| {
        encode::sized(out, |out| encode::uuid(out, cell.draw.bits(), cell.draw.bits()));
    }),
    updated("amount", "numeric(12,2)", |cell, out| {
        encode::sized(out, |out| encode::numeric(out, cell.draw.below(10_000_000), 2));
    }),
    updated("flag", "boolean", |cell, out| encode::bytes(out, &[u8::from(cell.draw.chance(50))])),
    updated("source", "text", |cell, out| {
        if cell.draw.chance(20) {
            encode::null(out);
        } else {
            cell.one_of(out, &SOURCES);
        }
    }),
    rule("payload", "text", Cell::payload),
];

const TASK_RUN: [Rule; 41] = [
    rule("id", "text", |cell, out| cell.run_id(out, b"run_")),
    rule("friendly_id", "text", |cell, out| cell.run_id(out, b"task_")),
    updated("status", "task_run_status", |cell, out| {
        encode::bytes(out, cell.stage().status().as_bytes());
    }),
    rule("environment_type", "environment_type", |cell, out| cell.one_of(out, &ENVIRONMENTS)),
    rule("environment_id", "text", |cell, out| cell.tenant_id(out, b"env_", 2_000)),
    rule("project_id", "text", |cell, out| cell.tenant_id(out, b"proj_", 1_000)),
    rule("organization_id", "text", |cell, out| cell.tenant_id(out, b"org_", 500)),
    rule("task_identifier", "text", |cell, out| cell.one_of(out, &TASKS)),
    rule("queue", "text", |cell, out| {
        encode::sized(out, |out| {
            out.extend_from_slice(b"queue/");
            out.extend_from_slice(cell.draw.pick(&TASKS).as_bytes());
        });
    }),
    rule("worker_group", "text", |cell, out| cell.one_of(out, &WORKER_GROUPS)),
    rule("created_at", TIME, |cell, out| cell.time(out, 0)),
    updated("updated_at", TIME, |cell, out| {
        // Later with every revision, which only ever rises.
        let since = if cell.revision == 0 { 0 } else { 1_000 + cell.revision.cast_signed() };
        cell.time(out, since);
    }),
    rule("queued_at", TIME, |cell, out| cell.time(out, 5_000)),
    updated("started_at", TIME, |cell, out| cell.time_since(out, Stage::Executing, 250_000)),
    updated("executed_at", TIME, |cell, out| cell.time_since(out, Stage::Executing, 300_000)),
    updated("completed_at", TIME, |cell, out| cell.time_since(out, Stage::Completed, 2_500_000)),
    rule("expired_at", TIME, |_, out| encode::null(out)),
    rule("ttl", "text", |cell, out| cell.one_of(out, &TTLS)),
    rule("is_test", "boolean", |cell, out| {
        encode::bytes(out, &[u8::from(cell.draw.chance(5))]);
    }),
    updated("attempt_number", "integer", |cell, out| {
        let attempts = if cell.stage() >= Stage::Executing { 1 + cell.row % 3 } else { 0 };
        encode::bytes(out, &(attempts as u32).to_be_bytes());
    }),
    rule("max_attempts", "smallint", |_, out| encode::bytes(out, &3u16.to_be_bytes())),
    rule("priority", "integer", |cell, out| {
        encode::bytes(out, &(cell.draw.below(10) as u32).to_be_bytes());
    }),
    rule("depth", "smallint", |cell, out| {
        encode::bytes(out, &(cell.draw.below(4) as u16).to_be_bytes());
    }),
    updated("usage_duration_ms", "bigint", |cell, out| {
        encode::bytes(out, &cell.duration_ms().to_be_bytes());
    }),
    updated("cost_in_cents", "double precision", |cell, out| {
        encode::bytes(out, &(cell.duration_ms() as f64 * 0.0025).to_be_bytes());
    }),
    rule("base_cost", "numeric(20,6)", |cell, out| {
        encode::sized(out, |out| encode::numeric(out, cell.draw.below(1_000_000_000), 6));
    }),
    rule("concurrency_key", "text", |cell, out| cell.sometimes(out, 25, b"user:", 8)),
    rule("idempotency_key", "text", |cell, out| cell.sometimes(out, 30, b"", 32)),
    rule("tags", "text[]", |cell, out| encode::sized(out, |out| cell.tags(out))),
    updated("metadata", "jsonb", |cell, out| {
        encode::sized(out, |out| {
            out.extend_from_slice(b"\x01{\"region\": \"");
            out.extend_from_slice(cell.draw.pick(&REGIONS).as_bytes());
            out.extend_from_slice(b"\", \"request\": \"");
            encode::hex(out, 24, &mut cell.draw);
            out.extend_from_slice(b"\", \"step\": \"");
            out.extend_from_slice(cell.stage().status().as_bytes());
            out.extend_from_slice(b"\"}");
        });
    }),
    updated("output", "jsonb", |cell, out| {
        cell.json_at(out, Stage::Completed, b"{\"ok\": true, \"result\": \"");
    }),
    updated("error", "jsonb", |cell, out| {
        cell.json_at(out, Stage::Failed, b"{\"type\": \"INTERNAL\", \"message\": \"");
    }),
    rule("runtime_environment", "uuid", |cell, out| {
        let environment = cell.draw.below(2_000);
        encode::sized(out, |out| encode::uuid_of(out, environment));
    }),
    rule("sdk_version", "text", |cell, out| cell.one_of(out, &VERSIONS)),
    rule("cli_version", "text", |cell, out| cell.one_of(out, &VERSIONS)),
    rule("machine_preset", "text", |cell, out| cell.one_of(out, &MACHINES)),
    rule("trace_id", "text", |cell, out| cell.hex(out, 32)),
    rule("span_id", "text", |cell, out| cell.hex(out, 16)),
    rule("batch_id", "text", |cell, out| cell.sometimes(out, 20, b"batch_", 21)),
    rule("payload", "text", Cell::payload),
    rule("payload_type", "text", |_, out| encode::bytes(out, b"application/json")),
];

const EVENT_KINDS: [&str; 6] =
    ["page_view", "click", "sign_up", "purchase", "refund", "session_end"];
const SOURCES: [&str; 4] = ["web", "ios", "android", "partner-api"];
const ENVIRONMENTS: [&str; 4] = ["PRODUCTION", "STAGING", "DEVELOPMENT", "PREVIEW"];
const TASKS: [&str; 8] = [
    "send-welcome-email",
    "resize-image",
    "sync-inventory",
    "generate-invoice",
    "index-document",
    "transcode-video",
    "refresh-report",
    "deliver-webhook",
];
const WORKER_GROUPS: [&str; 3] = ["us-east-1", "eu-central-1", "ap-south-1"];
const REGIONS: [&str; 4] = ["us-east-1", "us-west-2", "eu-central-1", "ap-south-1"];
const TTLS: [&str; 4] = ["10m", "1h", "1d", "7d"];
const VERSIONS: [&str; 4] = ["3.0.13", "3.2.0", "3.3.17", "4.0.1"];
const MACHINES: [&str; 4] = ["micro", "small-1x", "small-2x", "medium-1x"];

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Pending,
    Queued,
    Executing,
    Retrying,
    Completed,
    Failed,
}

impl Stage {
    fn status(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Queued => "QUEUED",
            Self::Executing => "EXECUTING",
            Self::Retrying => "RETRYING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
        }
    }
}

impl Cell {
    /// Rows are born pending or queued; an update moves them on.
    fn stage(&self) -> Stage {
        match (self.revision, self.row % 10) {
            (0, 0..7) => Stage::Pending,
            (0, _) => Stage::Queued,
            (_, 0..3) => Stage::Executing,
            (_, 3) => Stage::Retrying,
            (_, 4..9) => Stage::Completed,
            _ => Stage::Failed,
        }
    }

    fn duration_ms(&self) -> u64 {
        if self.stage() >= Stage::Completed { 40 + (self.row >> 8) % 20_000 } else { 0 }
    }

    /// One row a millisecond, and `since` µs later.
    fn time(&self, out: &mut Vec<u8>, since: i64) {
        let born = self.n.wrapping_mul(1_000).cast_signed();
        encode::bytes(out, &(BASE_TIME_US.wrapping_add(born) + since).to_be_bytes());
    }

    fn time_since(&self, out: &mut Vec<u8>, stage: Stage, since: i64) {
        if self.stage() >= stage { self.time(out, since) } else { encode::null(out) }
    }

    /// 21 digits behind a prefix: 13 that sort as the rows do, then 8 of noise.
    fn run_id(&self, out: &mut Vec<u8>, prefix: &[u8]) {
        encode::sized(out, |out| {
            out.extend_from_slice(prefix);
            encode::base32(out, self.n, 13);
            encode::base32(out, Draw::new(self.n).bits(), 8);
        });
    }

    /// The id of one of `count` tenants, the same whichever row refers to it.
    fn tenant_id(&mut self, out: &mut Vec<u8>, prefix: &[u8], count: u64) {
        let tenant = Draw::new(self.draw.below(count)).bits();
        encode::sized(out, |out| {
            out.extend_from_slice(prefix);
            encode::base32(out, tenant, 12);
            encode::base32(out, tenant.rotate_left(23), 9);
        });
    }

    fn one_of(&mut self, out: &mut Vec<u8>, choices: &[&str]) {
        encode::bytes(out, self.draw.pick(choices).as_bytes());
    }

    fn hex(&mut self, out: &mut Vec<u8>, digits: usize) {
        encode::sized(out, |out| encode::hex(out, digits, &mut self.draw));
    }

    fn sometimes(&mut self, out: &mut Vec<u8>, percent: u64, prefix: &[u8], digits: usize) {
        if !self.draw.chance(percent) {
            return encode::null(out);
        }
        encode::sized(out, |out| {
            out.extend_from_slice(prefix);
            encode::hex(out, digits, &mut self.draw);
        });
    }

    fn tags(&mut self, out: &mut Vec<u8>) {
        /// `pg_type.oid` of `text`.
        const TEXT: u32 = 25;
        for field in [1, 0, TEXT, 2, 1] {
            out.extend(field.to_be_bytes());
        }
        encode::sized(out, |out| {
            out.extend_from_slice(b"user_");
            encode::hex(out, 10, &mut self.draw);
        });
        encode::sized(out, |out| {
            out.extend_from_slice(b"task:");
            out.extend_from_slice(self.draw.pick(&TASKS).as_bytes());
        });
    }

    /// A JSON object that ends in a string of noise, at one stage only.
    fn json_at(&mut self, out: &mut Vec<u8>, stage: Stage, start: &[u8]) {
        if self.stage() != stage {
            return encode::null(out);
        }
        encode::sized(out, |out| {
            out.push(1);
            out.extend_from_slice(start);
            encode::hex(out, 40, &mut self.draw);
            out.extend_from_slice(b"\"}");
        });
    }

    fn payload(&mut self, out: &mut Vec<u8>) {
        let payload = self.payload;
        encode::sized(out, |out| payload.write(out, &mut self.draw));
    }
}

#[cfg(test)]
mod tests {
    use walbench_phases::plan::BUILTIN_TABLES;

    use super::*;

    #[test]
    fn every_table_that_a_plan_may_name_can_be_made() {
        for table in BUILTIN_TABLES {
            assert!(builtin_ddl(table).is_some(), "{table}");
        }
        assert!(builtin_ddl("orders").is_none());
    }
}
