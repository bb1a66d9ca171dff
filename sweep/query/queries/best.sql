-- For each point the cheapest policy that frees 90 % or more of the tables that are empty under none.
-- Of equally cheap policies the latest proposed one wins, so merged before the others, then a grid's own in its order; those that scan
-- all tables come last. Policies that free nothing or unmap do not compete.
-- Needs: points with empty tables under none, and a policy that frees 90 % of these.
WITH against AS (
    SELECT run_id, point_id, pte_tables_empty_end AS empty, cost_ns AS none_ns
    FROM latest
    WHERE policy = 'none' AND pte_tables_empty_end > 0
), enough AS (
    SELECT latest.*, pte_tables_empty_end / empty AS kept, cost_ns - none_ns AS extra_ns
    FROM latest JOIN against USING (run_id, point_id)
    WHERE pte_tables_empty_end <= 0.1 * empty
)
SELECT
    run_id,
    point_id,
    any_value(virt) / 1048576 AS virt_mib,
    round(any_value(sparsity), 6) AS sparsity,
    any_value("cluster") / 1024 AS cluster_kib,
    any_value(zap) / 1024 AS zap_kib,
    any_value(rounds) AS rounds,
    any_value(threads) AS threads,
    arg_min(policy, row(cost_ns, "when" = 'round', if(built_in, -1, 1) * enum_code(policy::policies)::INT)) AS best,
    round(100 * (1 - arg_min(kept, cost_ns)), 2) AS freed_percent,
    round(min(extra_ns) / 1e3, 3) AS extra_us
FROM enough JOIN policies USING (run_id, policy)
WHERE "when" NOT IN ('never', 'unmap')
GROUP BY run_id, point_id
ORDER BY run_id, virt_mib, sparsity, cluster_kib, zap_kib, rounds, threads, point_id;
