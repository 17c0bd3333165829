//! Every way to write, into many kinds of tables.

use serde_json::json;
use walbench_metrics::message::FromWorker;
use walbench_producer::workload::builtin_ddl;

use crate::database::{database, look};
use crate::session::{Session, plan, run};

#[tokio::test]
async fn every_method_writes_the_built_in_tables() {
    for method in ["insert", "pipelined", "copy"] {
        let address = database().await;
        let db = look(&address).await;
        for table in ["task_run", "event"] {
            db.client.batch_execute(builtin_ddl(table).unwrap()).await.unwrap();
        }
        let producer = json!({
            "tables": ["task_run", "event"], "write_method": method, "batch_size": 25,
            "insert_update_ratio": 0.6, "payload_bytes": 300,
        });
        let (sum, done) = run(&address, &plan(5_000.0, 1.0, producer)).await;
        assert!(sum.errors.is_empty(), "{method}: {:?}", sum.errors);
        assert_eq!(sum.counts.rows, 5_000, "{method}");
        assert_eq!(sum.counts.missed_updates, 0);
        assert!(sum.counts.inserts.abs_diff(3_000) < 200, "{method}: {:?}", sum.counts);
        assert_eq!(done.acknowledged.rows(), 5_000);
        let row = db
            .client
            .query_one(
                "SELECT (SELECT count(*) FROM task_run) + (SELECT count(*) FROM event),
                        (SELECT count(*) FROM task_run WHERE length(payload) <> 300),
                        (SELECT count(*) FROM task_run WHERE id !~ '^run_[0-9a-z]{21}$'),
                        (SELECT count(*) FROM task_run WHERE updated_at > created_at),
                        (SELECT count(*) FROM task_run WHERE metadata->>'region' IS NULL
                            OR status = 'COMPLETED' AND (output->>'ok')::boolean IS NOT TRUE
                            OR cardinality(tags) <> 2 OR base_cost < 0),
                        (SELECT avg(pg_column_size(t.*))::int FROM task_run t),
                        (SELECT count(*) FROM event WHERE amount NOT BETWEEN 0 AND 100000)",
                &[],
            )
            .await
            .unwrap();
        assert_eq!(row.get::<_, i64>(0).cast_unsigned(), sum.counts.inserts, "{method}");
        assert_eq!(row.get::<_, i64>(1), 0);
        assert_eq!(row.get::<_, i64>(2), 0);
        assert!(row.get::<_, i64>(3) > 300, "updates change rows: {}", row.get::<_, i64>(3));
        assert_eq!(row.get::<_, i64>(4), 0);
        assert!((750..1_100).contains(&row.get::<_, i32>(5)), "{} bytes", row.get::<_, i32>(5));
        assert_eq!(row.get::<_, i64>(6), 0);
    }
}

const MANY_TYPES: &str = r#"
CREATE SCHEMA "other schema";
CREATE TYPE "other schema".mood AS ENUM ('glad', 'sad');
CREATE DOMAIN "other schema".short AS varchar(5) NOT NULL;
CREATE DOMAIN "other schema".shorter AS "other schema".short;
CREATE TABLE "other schema"."Odd ""Table" (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "select" int2, "From" int4 NOT NULL, c_oid oid, c_float4 float4, c_float8 float8,
    c_numeric numeric, c_numeric_ps numeric(7, 3), c_numeric_neg numeric(3, -2),
    c_bool bool, c_text text, c_varchar varchar(3), c_char char(7), c_name name, c_one "char",
    c_bytea bytea, c_uuid uuid, c_date date, c_time time(0), c_timetz timetz,
    c_timestamp timestamp(3), c_timestamptz timestamptz, c_interval interval, c_json json,
    c_jsonb jsonb, c_mood "other schema".mood NOT NULL, c_short "other schema".shorter,
    c_default "other schema".short DEFAULT 'def', c_money money,
    c_int_array int4[] NOT NULL, c_text_array text[], c_mood_array "other schema".mood[],
    c_numeric_array numeric(5, 2)[], c_short_array "other schema".short[],
    c_inet inet, c_cidr cidr, c_macaddr macaddr, c_macaddr8 macaddr8, c_bit bit(11),
    c_bit1 bit, c_varbit varbit(9), gone int, c_point point, c_search tsvector,
    c_kept point NOT NULL DEFAULT '(1,2)',
    c_generated int GENERATED ALWAYS AS ("From" / 2) STORED,
    c_serial int GENERATED ALWAYS AS IDENTITY, c_unique varchar(9) UNIQUE, c_pair_a smallint,
    c_pair_b uuid NOT NULL, UNIQUE (c_pair_a, c_pair_b)
);
CREATE UNIQUE INDEX ON "other schema"."Odd ""Table" (lower(c_text));
ALTER TABLE "other schema"."Odd ""Table" DROP COLUMN gone;"#;

#[tokio::test]
async fn every_method_fills_a_table_of_many_types() {
    for method in ["insert", "pipelined", "copy"] {
        let address = database().await;
        let db = look(&address).await;
        db.client.batch_execute(MANY_TYPES).await.unwrap();
        let producer = json!({
            "tables": ["other schema.Odd \"Table"], "write_method": method, "batch_size": 20,
            "insert_update_ratio": 0.5,
        });
        let (sum, _) = run(&address, &plan(1_000.0, 1.0, producer)).await;
        assert!(sum.errors.is_empty(), "{method}: {:?}", sum.errors);
        assert_eq!((sum.counts.rows, sum.counts.missed_updates), (1_000, 0), "{method}");
        let row = db
            .client
            .query_one(
                r#"SELECT count(*), count(*) FILTER (WHERE c_generated = "From" / 2),
                          count(c_point), count(c_numeric_ps) > 0, max(id),
                          count(*) FILTER (WHERE c_kept ~= '(1,2)'), sum(length(t::text)) > 0,
                          count(*) FILTER (WHERE c_default IS NULL)
                   FROM "other schema"."Odd ""Table" t"#,
                &[],
            )
            .await
            .unwrap();
        let count: i64 = row.get(0);
        assert_eq!(count.cast_unsigned(), sum.counts.inserts);
        assert_eq!(row.get::<_, i64>(1), count);
        assert_eq!(row.get::<_, i64>(2), 0);
        assert!(row.get::<_, bool>(3));
        assert_eq!(row.get::<_, i64>(4), count);
        assert_eq!(row.get::<_, i64>(5), count);
        assert!(row.get::<_, bool>(6));
        assert_eq!(row.get::<_, i64>(7), 0);
    }
}

/// What a producer says when it can't write `table`, made by `ddl`.
async fn refusal(ddl: &str, table: &str, ratio: f64) -> String {
    let address = database().await;
    look(&address).await.client.batch_execute(ddl).await.unwrap();
    let mut session = Session::greet().await;
    let producer = json!({ "tables": [table], "insert_update_ratio": ratio });
    session.prepare(&address, &plan(100_000.0, 10.0, producer)).await;
    let FromWorker::Failed(failure) = session.recv().await else { panic!("it did not fail") };
    assert_eq!(session.serving.await.unwrap().unwrap_err(), failure);
    failure.to_string()
}

#[tokio::test]
async fn a_table_that_cannot_be_written_is_named_with_a_reason() {
    let text = refusal("CREATE TABLE here (id int)", "there", 1.0).await;
    assert_eq!(
        text,
        "error: there is no table there in the database\n  hint: producer.tables may name: here"
    );
    let text = refusal("CREATE TABLE t (id int PRIMARY KEY, at point NOT NULL)", "t", 1.0).await;
    assert!(text.contains("column public.t.at, which has type point"), "{text}");
    let text = refusal("CREATE TABLE t (id int)", "public.t", 0.5).await;
    assert!(text.contains("can't be updated") && text.contains("no primary key"), "{text}");
    let text = refusal("CREATE TABLE t (id int2 PRIMARY KEY)", "t", 1.0).await;
    assert!(text.contains("room for 32767 rows, and the plan may write 1000000"), "{text}");
    let text = refusal("CREATE TABLE t (id bool PRIMARY KEY)", "t", 1.0).await;
    assert!(text.contains("differ in (id)"), "{text}");
    let text = refusal("CREATE TABLE t ()", "t", 1.0).await;
    assert!(text.contains("no column that can be written"), "{text}");
}

#[tokio::test]
async fn a_run_in_which_nothing_works_ends() {
    let address = database().await;
    let ddl = "CREATE TABLE p (id int PRIMARY KEY);
               CREATE TABLE t (id int PRIMARY KEY, p int NOT NULL REFERENCES p)";
    look(&address).await.client.batch_execute(ddl).await.unwrap();
    let producer = json!({ "tables": ["t"], "insert_update_ratio": 1.0 });
    let mut session = Session::ready(&address, &plan(1_000.0, 5.0, producer)).await;
    session.start(0).await;
    let failure = loop {
        match session.recv().await {
            FromWorker::Failed(failure) => break failure.to_string(),
            FromWorker::Sample(_) => {}
            other => panic!("unexpected: {other:?}"),
        }
    };
    assert!(failure.contains("foreign key") && failure.contains("23503"), "{failure}");
    assert!(failure.contains("hint: generated rows refer to nothing"), "{failure}");
}
