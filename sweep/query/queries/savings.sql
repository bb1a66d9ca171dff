-- VmPTE that each policy gives back compared with none, and the price: entries rescanned, locks, IPIs and cost.
-- Needs: a run.
SELECT
    run_id,
    policy,
    count(*) AS points,
    round(avg(vm_pte_kib_peak) / 1024, 3) AS peak_mib,
    round(avg(vm_pte_kib_end) / 1024, 3) AS end_mib,
    round(avg(vm_pte_kib_needed_end) / 1024, 3) AS needed_mib,
    round(100 * (1 - avg(vm_pte_kib_end) / max(avg(vm_pte_kib_end)) FILTER (policy = 'none') OVER (PARTITION BY run_id)), 2) AS saved_percent,
    sum(pte_tables_freed) AS tables_freed,
    sum(ptes_rescanned) AS ptes_rescanned,
    sum(pmd_locks) + sum(pte_locks_extra) AS locks,
    sum(pmd_trylocks) AS trylocks,
    sum(ipis) AS ipis,
    round(sum(cost_ns) / 1e6, 3) AS cost_ms
FROM latest
GROUP BY run_id, policy
ORDER BY run_id, TRY_CAST(policy AS policies);
