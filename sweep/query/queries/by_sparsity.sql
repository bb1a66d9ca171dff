-- Percent of VmPTE that each policy saves against none, by sparsity and by the size of resident extents (cluster).
-- moment: `end` is after the last calls; `peak` is after the last install, when the process has all its memory, for points with
-- several rounds. possible: if every table without an entry were freed at the end, but not less than what a policy saves.
-- Needs: a run with the policy none.
WITH averages AS (
    SELECT
        run_id,
        sparsity,
        "cluster",
        policy,
        avg(vm_pte_kib_end) AS end_kib,
        avg(vm_pte_kib_needed_end) AS needed_kib,
        avg(vm_pte_kib_peak) FILTER (rounds > 1) AS peak_kib
    FROM latest
    GROUP BY run_id, sparsity, "cluster", policy
),
moments AS (
    SELECT run_id, sparsity, "cluster", policy, 'end' AS moment, end_kib AS kib, needed_kib FROM averages
    UNION ALL
    SELECT run_id, sparsity, "cluster", policy, 'peak', peak_kib, NULL FROM averages WHERE peak_kib IS NOT NULL
),
shares AS (
    SELECT
        run_id,
        sparsity,
        "cluster" / 1024 AS cluster_kib,
        moment,
        policy,
        max(kib) FILTER (policy = 'none') OVER same_layout AS none_kib,
        max(needed_kib) FILTER (policy = 'none') OVER same_layout AS none_needed_kib,
        min(kib) OVER same_layout AS least_kib,
        round(100 * (1 - kib / none_kib), 2) AS saved,
        if(moment = 'end', round(100 * (1 - least(none_needed_kib, least_kib) / none_kib), 2), NULL) AS possible
    FROM moments
    WINDOW same_layout AS (PARTITION BY run_id, sparsity, "cluster", moment)
    QUALIFY bool_or(policy = 'none') OVER same_layout
)
SELECT COLUMNS(lambda c: c NOT IN ('none', 'possible')), possible
FROM shares PIVOT (max(saved) FOR policy IN policies GROUP BY run_id, sparsity, cluster_kib, moment, possible)
ORDER BY run_id, sparsity, cluster_kib, moment;
