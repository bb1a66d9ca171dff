-- How much of VmPTE each policy saves against none after the last zaps, in percent, by the size of a zap.
-- `possible`: all that is not needed then.
WITH shares AS (
    SELECT
        run_id, zap, policy,
        100 * (1 - sum(vm_pte_kib_end) / max(sum(vm_pte_kib_end)) FILTER (policy = 'none') OVER one) AS saved,
        100 * (1 - sum(vm_pte_kib_needed_end) / max(sum(vm_pte_kib_end)) FILTER (policy = 'none') OVER one) AS possible
    FROM latest
    GROUP BY run_id, zap, policy
    WINDOW one AS (PARTITION BY run_id, zap)
)
SELECT
    run_id,
    zap / 1024 AS zap_kib,
    round(max(saved) FILTER (policy = 'refcount'), 2) AS refcount,
    round(max(saved) FILTER (policy = 'async'), 2) AS async,
    round(max(saved) FILTER (policy = 'second_walk'), 2) AS second_walk,
    round(max(saved) FILTER (policy = 'seed_inline'), 2) AS seed_inline,
    round(max(saved) FILTER (policy = 'merged'), 2) AS merged,
    round(max(saved) FILTER (policy = 'munmap'), 2) AS munmap,
    round(max(possible) FILTER (policy = 'none'), 2) AS possible
FROM shares
GROUP BY run_id, zap
HAVING count(*) FILTER (policy = 'none') > 0
ORDER BY run_id, zap;
