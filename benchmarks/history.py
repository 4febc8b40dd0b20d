"""A long history, made by the database itself, so that a million runs take a minute."""

from __future__ import annotations

from django.db import connection


def fill(count: int) -> None:
    """Insert this many ended runs, one a second into the past, spread over statuses, datasets and
    models; one in a thousand has a tag."""
    if count <= 0:
        return
    columns = """run_id, name, dataset_key, model_id, mode, dry_run, kind, engine, status,
        exit_code, created_at, started_at, completed_at, duration_seconds,
        last_loss, stdout, stderr, message, config,
        output_dir, owner_id, notes, pinned, priority, attempt, automatic_retries, resume,
        request_hash, metrics_offset, summary, supervised, listed"""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM auth_user ORDER BY id LIMIT 1")
        owner = cursor.fetchone()[0]
        if connection.vendor == "sqlite":
            source = (
                "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n"
                " < %s)"
            )
            unique, moment = (
                "lower(hex(randomblob(16)))",
                "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '-' || n || ' seconds')",
            )
            yes, no = "1", "0"
        else:
            source = "WITH numbers AS (SELECT generate_series(1, %s) AS n)"
            unique, moment, yes, no = (
                "gen_random_uuid()",
                "now() - n * interval '1 second'",
                "true",
                "false",
            )
        cursor.execute(
            f"""INSERT INTO tunix_runs ({columns}) {source}
            SELECT {unique}, 'quiet-otter-' || n, 'set-' || (n %% 50), 'family/model-' || (n %% 9),
            CASE WHEN n %% 3 = 0 THEN 'local' ELSE 'dry-run' END,
            CASE WHEN n %% 3 = 0 THEN {no} ELSE {yes} END, 'sft', 'local',
            CASE WHEN n %% 7 = 0 THEN 'failed' ELSE 'completed' END,
            CASE WHEN n %% 7 = 0 THEN 1 ELSE 0 END, {moment}, {moment}, {moment}, 1.0,
            CASE WHEN n %% 3 = 0 THEN (n %% 997) / 250.0 END,
            'Dry-run validation passed', '', '', '{{}}',
            'old-' || n || '-' || {unique}, {owner}, '', {no}, 0, 1, 0, {no}, '', 0, '{{}}',
            CASE WHEN n %% 3 = 0 THEN {yes} ELSE {no} END, {yes}
            FROM numbers""",  # noqa: S608 - our own words
            [count],
        )
        cursor.execute(
            """INSERT INTO runs_runtag (run_id, name, run_created_at)
            SELECT run_id, 'sweep', created_at FROM tunix_runs
            WHERE duration_seconds = 1.0 AND last_loss IN (0.4, 0.8, 1.2) ON CONFLICT DO NOTHING"""
        )
        stored = "CAST({} AS BLOB)" if connection.vendor == "sqlite" else "convert_to({}, 'UTF8')"
        cursor.execute(  # as runs.spec.naming.search_keys makes them
            f"""INSERT INTO runs_runnamekey (run_id, key)
            SELECT run_id, {stored.format("substr(name, word)")} FROM tunix_runs
            CROSS JOIN (SELECT 1 AS word UNION ALL SELECT 7 UNION ALL SELECT 13) AS words
            WHERE name LIKE 'quiet-otter-%%' AND NOT EXISTS (
                SELECT 1 FROM runs_runnamekey AS known WHERE known.run_id = tunix_runs.run_id
            )"""  # noqa: S608 - numbers and names of ours alone
        )
        cursor.execute("ANALYZE")
