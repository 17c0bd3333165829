-- The built-in table task_run: runs of a job system, about 1 KB a row with the default payload.

CREATE TYPE public.task_run_status AS ENUM (
    'PENDING', 'QUEUED', 'DEQUEUED', 'EXECUTING', 'WAITING', 'RETRYING',
    'COMPLETED', 'FAILED', 'CANCELED', 'EXPIRED', 'CRASHED'
);

CREATE TYPE public.environment_type AS ENUM ('PRODUCTION', 'STAGING', 'DEVELOPMENT', 'PREVIEW');

CREATE TABLE public.task_run (
    id                   text                    PRIMARY KEY,
    friendly_id          text                    NOT NULL,
    status               public.task_run_status  NOT NULL DEFAULT 'PENDING',
    environment_type     public.environment_type NOT NULL,
    environment_id       text                    NOT NULL,
    project_id           text                    NOT NULL,
    organization_id      text                    NOT NULL,
    task_identifier      text                    NOT NULL,
    queue                text                    NOT NULL,
    worker_group         text,
    created_at           timestamptz             NOT NULL,
    updated_at           timestamptz             NOT NULL,
    queued_at            timestamptz,
    started_at           timestamptz,
    executed_at          timestamptz,
    completed_at         timestamptz,
    expired_at           timestamptz,
    ttl                  text,
    is_test              boolean                 NOT NULL DEFAULT false,
    attempt_number       integer                 NOT NULL DEFAULT 0,
    max_attempts         smallint,
    priority             integer                 NOT NULL DEFAULT 0,
    depth                smallint                NOT NULL DEFAULT 0,
    usage_duration_ms    bigint                  NOT NULL DEFAULT 0,
    cost_in_cents        double precision        NOT NULL DEFAULT 0,
    base_cost            numeric(20, 6)          NOT NULL DEFAULT 0,
    concurrency_key      text,
    idempotency_key      text,
    tags                 text[]                  NOT NULL DEFAULT '{}',
    metadata             jsonb                   NOT NULL DEFAULT '{}',
    output               jsonb,
    error                jsonb,
    runtime_environment  uuid                    NOT NULL,
    sdk_version          text,
    cli_version          text,
    machine_preset       text,
    trace_id             text                    NOT NULL,
    span_id              text                    NOT NULL,
    batch_id             text,
    payload              text                    NOT NULL,
    payload_type         text                    NOT NULL DEFAULT 'application/json'
);
