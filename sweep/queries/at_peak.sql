-- What each policy saves while the process is at work: VmPTE after the last install, against none, by spread and rounds.
WITH against AS (SELECT run_id, point_id, vm_pte_kib_peak AS none_kib FROM latest WHERE policy = 'none')
SELECT
    run_id,
    cluster / 1024 AS cluster_kib,
    rounds,
    policy,
    round(avg(res_bytes_peak) / 1024 ** 3, 2) AS res_gib,
    round(avg(none_kib) / 1024 ** 2, 2) AS none_gib,
    round(avg(vm_pte_kib_peak) / 1024 ** 2, 2) AS vm_pte_gib,
    round(100 * (1 - sum(vm_pte_kib_peak) / sum(none_kib)), 2) AS saved_percent
FROM latest JOIN against USING (run_id, point_id)
WHERE policy <> 'none'
GROUP BY ALL
ORDER BY ALL;
