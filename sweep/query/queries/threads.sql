-- Effect of threads on the policies that free under the call's own lock: fast and slow paths, failed trylocks, interrupts for each call.
-- Needs: a run with a policy of `proof: held`, such as merged.
SELECT
    run_id,
    policy,
    threads,
    "partition",
    count(*) AS points,
    sum(table_visits) AS table_visits,
    sum(fast_paths) AS fast_paths,
    sum(slow_paths) AS slow_paths,
    sum(pmd_trylocks_failed) AS trylocks_failed,
    round(100 * sum(pmd_trylocks_failed) / nullif(sum(pmd_trylocks), 0), 3) AS failed_percent,
    sum(ipis) AS ipis,
    round(sum(ipis) / nullif(sum(zap_calls), 0), 3) AS ipis_a_call
FROM latest JOIN policies USING (run_id, policy)
WHERE proof = 'held'
GROUP BY run_id, policy, threads, "partition"
ORDER BY run_id, TRY_CAST(policy AS policies), threads, "partition";
