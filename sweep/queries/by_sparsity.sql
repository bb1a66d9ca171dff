-- How much of VmPTE each policy saves against none, in percent, by sparsity and by how the resident pages lie.
-- moment: `end` is after the last zaps; `peak`, where there are rounds before, is after the last install, when the process
-- has its memory. possible: all that is not needed at the end.
WITH moments AS (
    SELECT run_id, point_id, sparsity, "cluster", policy, 'end' AS moment, vm_pte_kib_end AS kib, vm_pte_kib_needed_end AS needed
    FROM latest
    UNION ALL
    SELECT run_id, point_id, sparsity, "cluster", policy, 'peak', vm_pte_kib_peak, NULL
    FROM latest
    WHERE rounds > 1
),
against AS (SELECT run_id, point_id, moment, kib AS none_kib FROM moments WHERE policy = 'none'),
shares AS (
    SELECT
        run_id, sparsity, "cluster", moment, policy,
        100 * (1 - sum(kib) / sum(none_kib)) AS saved,
        100 * (1 - sum(needed) / sum(none_kib)) AS possible
    FROM moments JOIN against USING (run_id, point_id, moment)
    GROUP BY run_id, sparsity, "cluster", moment, policy
)
SELECT
    run_id,
    sparsity,
    "cluster" / 1024 AS cluster_kib,
    moment,
    round(max(saved) FILTER (policy = 'refcount'), 2) AS refcount,
    round(max(saved) FILTER (policy = 'async'), 2) AS async,
    round(max(saved) FILTER (policy = 'second_walk'), 2) AS second_walk,
    round(max(saved) FILTER (policy = 'seed_inline'), 2) AS seed_inline,
    round(max(saved) FILTER (policy = 'merged'), 2) AS merged,
    round(max(saved) FILTER (policy = 'munmap'), 2) AS munmap,
    round(max(possible) FILTER (policy = 'none'), 2) AS possible
FROM shares
GROUP BY run_id, sparsity, "cluster", moment
ORDER BY run_id, sparsity, "cluster", moment;
