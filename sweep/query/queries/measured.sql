-- VmPTE given back by size of a call, and the CPU time of installs and calls on the live kernel (NULL for the model).
-- Needs: a run.
SELECT
    run_id,
    engine,
    policy,
    zap,
    count(*) AS points,
    round(avg(vm_pte_kib_peak) / 1024, 3) AS peak_mib,
    round(avg(vm_pte_kib_end) / 1024, 3) AS end_mib,
    sum(pte_tables_freed) AS tables_freed,
    sum(zap_calls) AS zap_calls,
    sum(ptes_zapped) AS ptes_zapped,
    round(sum(install_ns) / nullif(sum(ptes_installed), 0)) AS install_ns_a_page,
    round(sum(zap_ns) / nullif(sum(zap_calls), 0)) AS zap_ns_a_call,
    round(sum(zap_ns) / nullif(sum(ptes_zapped), 0)) AS zap_ns_a_page
FROM latest
GROUP BY run_id, engine, policy, zap
ORDER BY run_id, policy, zap;
