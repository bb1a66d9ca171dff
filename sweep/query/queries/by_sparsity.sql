-- How much of VmPTE each policy saves against none, in percent, by sparsity and by how the resident pages lie.
-- moment: `end` is after the last zaps; `peak`, where there are rounds before, is after the last install, when the process
-- has its memory. possible: all that is not needed at the end.
WITH sums AS (
    SELECT
        run_id,
        sparsity,
        "cluster",
        policy,
        sum(vm_pte_kib_end) AS end_kib,
        sum(vm_pte_kib_needed_end) AS needed_kib,
        sum(vm_pte_kib_peak) FILTER (rounds > 1) AS peak_kib
    FROM latest
    GROUP BY run_id, sparsity, "cluster", policy
),
moments AS (
    SELECT run_id, sparsity, "cluster", policy, 'end' AS moment, end_kib AS kib, needed_kib FROM sums
    UNION ALL
    SELECT run_id, sparsity, "cluster", policy, 'peak', peak_kib, NULL FROM sums WHERE peak_kib IS NOT NULL
),
shares AS (
    SELECT
        *,
        100 * (1 - kib / max(kib) FILTER (policy = 'none') OVER one) AS saved,
        100 * (1 - needed_kib / max(kib) FILTER (policy = 'none') OVER one) AS possible
    FROM moments
    WINDOW one AS (PARTITION BY run_id, sparsity, "cluster", moment)
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
HAVING count(*) FILTER (policy = 'none') > 0
ORDER BY run_id, sparsity, "cluster", moment;
