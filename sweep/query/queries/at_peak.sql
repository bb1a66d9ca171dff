-- VmPTE of a process at work, after the last install, and what each policy saves of it against none, by cluster and rounds.
-- Needs: a run with the policy none.
SELECT
    run_id,
    "cluster" / 1024 AS cluster_kib,
    rounds,
    policy,
    round(avg(res_bytes_peak) / 1024 ** 3, 4) AS res_gib,
    round(max(avg(vm_pte_kib_peak)) FILTER (policy = 'none') OVER one / 1024 ** 2, 4) AS none_gib,
    round(avg(vm_pte_kib_peak) / 1024 ** 2, 4) AS vm_pte_gib,
    round(100 * (1 - avg(vm_pte_kib_peak) / max(avg(vm_pte_kib_peak)) FILTER (policy = 'none') OVER one), 2) AS saved_percent
FROM latest
GROUP BY run_id, "cluster", rounds, policy
WINDOW one AS (PARTITION BY run_id, "cluster", rounds)
QUALIFY policy <> 'none' AND none_gib IS NOT NULL
ORDER BY run_id, cluster_kib, rounds, TRY_CAST(policy AS policies);
