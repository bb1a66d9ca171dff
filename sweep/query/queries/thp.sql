-- Huge pages: MiB of RES after the last install under each policy, with and without them, by the size of a call.
-- Needs: a run with huge pages (thp: always), such as that of sweep launch thp.
WITH resident AS (
    SELECT
        run_id,
        sparsity,
        zap / 1024 AS zap_kib,
        thp,
        policy,
        round(sum(res_bytes_peak) / 1048576, 1) AS res_mib
    FROM latest
    WHERE run_id IN (SELECT run_id FROM latest WHERE thp = 'always')
    GROUP BY run_id, sparsity, zap, thp, policy
)
FROM resident PIVOT (max(res_mib) FOR policy IN policies GROUP BY run_id, sparsity, zap_kib, thp)
ORDER BY run_id, sparsity, zap_kib, thp;
