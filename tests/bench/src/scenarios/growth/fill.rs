//! Settled rows as the product would have left them: a message that it has stored and signed itself is copied, with an id, a time and a
//! fingerprint of each copy's own and a narrow body. They belong to an incarnation that is closed, and are older than the default retention.

use anyhow::ensure;

use crate::readings::Readings;
use crate::rig::Rig;

/// Rows of one statement.
const PORTION: u32 = 500_000;
/// Any that no process has, and what its messages' ids say of it.
const INCARNATION: &str = "00000000-0000-7000-8000-0000000000ff";
const TAG: i64 = 0xff;
/// The rows are of one day, so long ago, milliseconds.
const AGE_MS: i64 = 10 * DAY_MS;
const DAY_MS: i64 = 86_400_000;

/// Fills upstream's table and MSG DB with so many, the same messages in both; then statistics and visibility are as after a quiet night.
pub(super) async fn settled_rows(rig: &Rig, rows: u32) -> anyhow::Result<()> {
    let (upstream, msg_db) = (Readings::of(&rig.upstream_database).await?, Readings::of(&rig.msg_db).await?);
    let now_ms = upstream.number("SELECT (extract(epoch FROM now()) * 1000)::bigint AS value").await?;
    let numbers = Numbers { rows, begun_ms: now_ms - AGE_MS };
    let incarnation = format!(
        "INSERT INTO countersign_incarnation (id, upstream, state, tag) \
         SELECT '{INCARNATION}', upstream, 'closed', {TAG} FROM countersign_incarnation LIMIT 1"
    );
    upstream.run(&incarnation).await?;
    let settled_until = numbers.begun_ms + DAY_MS;
    let heartbeat = format!(
        "INSERT INTO countersign_heartbeat (incarnation, counter, watermark, settled_until) VALUES ('{INCARNATION}', 1, {rows} + 1, {settled_until})"
    );
    upstream.run(&heartbeat).await?;
    let mut first = 1;
    while first <= rows {
        let last = rows.min(first + (PORTION - 1));
        let stored = upstream.run(&numbers.messages(first, last)).await?;
        let signed = msg_db.run(&numbers.deliveries(first, last)).await?;
        let wanted = u64::from(last - first + 1);
        ensure!(
            (stored, signed) == (wanted, wanted),
            "{stored} messages and {signed} deliveries were filled in instead of {wanted}"
        );
        println!("   {last} of {rows} rows are there");
        first = last + 1;
    }
    for (side, table) in [(&upstream, "countersign_message"), (&msg_db, "countersign_delivery")] {
        side.run(&format!("VACUUM ANALYZE {table}")).await?;
    }
    upstream.run("CHECKPOINT").await.map(drop)
}

struct Numbers {
    rows: u32,
    begun_ms: i64,
}

impl Numbers {
    /// When message `n` was accepted, milliseconds.
    fn sent_at(&self) -> String {
        format!("({} + n::bigint * {DAY_MS} / {})", self.begun_ms, self.rows)
    }

    /// Its `UUIDv7`: that time, and its place.
    fn id(&self) -> String {
        format!(
            "(lpad(to_hex({}), 12, '0') || '70008' || lpad(to_hex({TAG}), 5, '0') || lpad(to_hex(n), 10, '0'))::uuid",
            self.sent_at()
        )
    }

    fn messages(&self, first: u32, last: u32) -> String {
        let id = self.id();
        format!(
            "INSERT INTO countersign_message (incarnation, seq, id, fingerprint, label, required, exchange, routing_key, type, content_type, body) \
             SELECT '{INCARNATION}', n, {id}, {FINGERPRINT}, \
             m.label, m.required, m.exchange, m.routing_key, m.type, m.content_type, substr(m.body, 1, 16) \
             FROM generate_series({first}, {last}) AS n CROSS JOIN (SELECT * FROM countersign_message ORDER BY label LIMIT 1) AS m"
        )
    }

    fn deliveries(&self, first: u32, last: u32) -> String {
        let (id, sent_at) = (self.id(), self.sent_at());
        format!(
            "INSERT INTO countersign_delivery \
             (message_id, sent_at, fingerprint, subscription, upstream, state, signed, signed_attempt, command, live_until, due_at) \
             SELECT {id}, {sent_at}, {FINGERPRINT}, \
             m.subscription, m.upstream, m.state, m.signed, m.signed_attempt, m.command, m.live_until, m.due_at \
             FROM generate_series({first}, {last}) AS n \
             CROSS JOIN (SELECT * FROM countersign_delivery WHERE state = 'done' LIMIT 1) AS m"
        )
    }
}

/// As long as the one that was copied.
const FINGERPRINT: &str = "substr(sha256(n::text::bytea), 1, length(m.fingerprint))";
