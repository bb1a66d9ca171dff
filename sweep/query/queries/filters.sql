-- What rules of `proof: held` give back and cost, by the size of a call, `least` and `otherwise`: a line for rules that do the same.
-- least: the largest of these rules. given_back: percent of VmPTE against none. reads: entries read beyond the call, for each call.
-- The times are cost_ns beyond that of none. Rules that free nothing with calls of a size are left out.
-- Needs: a run with rules of `proof: held` that free tables, and none, such as that of sweep launch filters.
WITH sums AS (
    SELECT
        run_id,
        zap,
        policy,
        sum(vm_pte_kib_end) AS kib,
        max(sum(vm_pte_kib_end)) FILTER (policy = 'none') OVER same_zap AS none_kib,
        sum(pte_tables_freed) AS freed,
        sum(ptes_rescanned) AS rescanned,
        sum(zap_calls) AS calls,
        sum(round(cost_ns)::HUGEINT) AS cost_ns, -- of integers: a sum of doubles depends on the order of its rows
        max(sum(round(cost_ns)::HUGEINT)) FILTER (policy = 'none') OVER same_zap AS none_ns
    FROM latest
    GROUP BY run_id, zap, policy
    WINDOW same_zap AS (PARTITION BY run_id, zap)
    QUALIFY bool_or(policy = 'none') OVER same_zap
)
SELECT
    run_id,
    zap / 1024 AS zap_kib,
    otherwise,
    arg_max(least, coalesce(least_bytes, 'inf'::DOUBLE)) AS least,
    round(100 * (1 - kib / none_kib), 1) AS given_back,
    round(rescanned / calls, 1) AS reads,
    round((cost_ns - none_ns) / calls) AS ns_a_call,
    round((cost_ns - none_ns) / freed) AS ns_a_table
FROM sums JOIN policies USING (run_id, policy)
WHERE proof = 'held' AND freed > 0
GROUP BY run_id, zap, otherwise, kib, none_kib, rescanned, calls, cost_ns, none_ns, freed
ORDER BY run_id, zap, otherwise = 'scan' DESC, cost_ns DESC, otherwise;
