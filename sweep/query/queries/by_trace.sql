-- How much of VmPTE each policy saves against none at the end of a trace, in percent; `possible` is all that is not needed.
WITH against AS (SELECT run_id, point_id, vm_pte_kib_end AS none_kib FROM latest WHERE policy = 'none' AND trace IS NOT NULL),
shares AS (
    SELECT
        run_id, trace, policy, none_kib,
        100 * (1 - vm_pte_kib_end / none_kib) AS saved,
        100 * (1 - vm_pte_kib_needed_end / none_kib) AS possible
    FROM latest JOIN against USING (run_id, point_id)
    WHERE trace IS NOT NULL AND none_kib > 0
)
SELECT
    run_id,
    trace,
    max(none_kib) AS none_kib,
    round(max(saved) FILTER (policy = 'refcount'), 2) AS refcount,
    round(max(saved) FILTER (policy = 'async'), 2) AS async,
    round(max(saved) FILTER (policy = 'second_walk'), 2) AS second_walk,
    round(max(saved) FILTER (policy = 'seed_inline'), 2) AS seed_inline,
    round(max(saved) FILTER (policy = 'merged'), 2) AS merged,
    round(max(saved) FILTER (policy = 'munmap'), 2) AS munmap,
    round(max(possible) FILTER (policy = 'none'), 2) AS possible
FROM shares
GROUP BY run_id, trace
ORDER BY run_id, trace;
