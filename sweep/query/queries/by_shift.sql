-- Effect of alignment: percent of VmPTE that each policy saves against none after the last calls, by size and shift of a call.
-- A call of a table's size that crosses a 2 MiB boundary covers no table.
-- possible: if every table without an entry were freed, but not less than what a policy saves
-- (munmap frees upper tables, too).
-- Needs: a run with the policy none.
WITH shares AS (
    SELECT
        run_id,
        zap / 1024 AS zap_kib,
        zap_shift / 1024 AS shift_kib,
        policy,
        avg(vm_pte_kib_end) AS end_kib,
        max(avg(vm_pte_kib_end)) FILTER (policy = 'none') OVER same_zap AS none_kib,
        min(avg(vm_pte_kib_end)) OVER same_zap AS least_kib,
        least(max(avg(vm_pte_kib_needed_end)) FILTER (policy = 'none') OVER same_zap, least_kib) AS needed_kib,
        round(100 * (1 - end_kib / none_kib), 2) AS saved,
        round(100 * (1 - needed_kib / none_kib), 2) AS possible
    FROM latest
    GROUP BY run_id, zap, zap_shift, policy
    WINDOW same_zap AS (PARTITION BY run_id, zap, zap_shift)
    QUALIFY bool_or(policy = 'none') OVER same_zap
)
SELECT COLUMNS(lambda c: c NOT IN ('none', 'possible')), possible
FROM shares PIVOT (max(saved) FOR policy IN policies GROUP BY run_id, zap_kib, shift_kib, possible)
ORDER BY run_id, zap_kib, shift_kib;
