-- Cost of a freed table under each policy: cost_ns, and beyond that of none extra_ms, percent, ns for each freed table and each call.
-- Needs: a run.
WITH sums AS (
    SELECT
        run_id,
        policy,
        sum(zap_calls) AS zap_calls,
        sum(pte_tables_freed) AS tables_freed,
        sum(cost_ns) AS cost_ns
    FROM latest
    GROUP BY run_id, policy
),
against AS (SELECT *, max(cost_ns) FILTER (policy = 'none') OVER (PARTITION BY run_id) AS none_ns FROM sums)
SELECT
    run_id,
    policy,
    zap_calls AS calls,
    tables_freed AS freed,
    round(cost_ns / 1e6, 3) AS cost_ms,
    round((cost_ns - none_ns) / 1e6, 3) AS extra_ms,
    round(100 * (cost_ns - none_ns) / nullif(none_ns, 0), 3) AS percent,
    round((cost_ns - none_ns) / nullif(tables_freed, 0), 1) AS ns_a_table,
    round((cost_ns - none_ns) / nullif(zap_calls, 0), 1) AS ns_a_call
FROM against
ORDER BY run_id, TRY_CAST(policy AS policies);
