-- What a freed table costs under each policy: cost_ns beyond that of none, for each table freed and for each call.
WITH against AS (SELECT run_id, point_id, cost_ns AS none_ns FROM latest WHERE policy = 'none')
SELECT
    run_id,
    policy,
    sum(zap_calls) AS zap_calls,
    sum(pte_tables_freed) AS tables_freed,
    round(sum(cost_ns) / 1e6, 3) AS cost_ms,
    round(sum(cost_ns - none_ns) / 1e6, 3) AS extra_ms,
    round(100 * sum(cost_ns - none_ns) / nullif(sum(none_ns), 0), 3) AS extra_percent,
    round(sum(cost_ns - none_ns) / nullif(sum(pte_tables_freed), 0), 1) AS extra_ns_a_freed_table,
    round(sum(cost_ns - none_ns) / nullif(sum(zap_calls), 0), 1) AS extra_ns_a_call
FROM latest LEFT JOIN against USING (run_id, point_id)
GROUP BY run_id, policy
ORDER BY run_id, list_position(['none', 'refcount', 'async', 'second_walk', 'seed_inline', 'merged', 'munmap'], policy);
