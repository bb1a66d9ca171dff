-- Percent of VmPTE that each policy saves against none at the end of a trace, for each of its processes.
-- possible: if every table without an entry were freed, but not less than what a policy saves
-- (munmap frees upper tables, too).
-- Needs: a run of traces with the policy none, such as that of sweep launch traces.
WITH against AS (SELECT run_id, point_id, vm_pte_kib_end AS none_kib FROM latest WHERE policy = 'none' AND trace IS NOT NULL),
shares AS (
    SELECT
        run_id,
        trace,
        trace_process,
        policy,
        max(against.none_kib) OVER same_trace AS none_kib,
        round(100 * (1 - vm_pte_kib_end / against.none_kib), 2) AS saved,
        max(vm_pte_kib_needed_end) FILTER (policy = 'none') OVER same_trace AS none_needed_kib,
        min(vm_pte_kib_end) OVER same_trace AS least_kib,
        round(100 * (1 - least(none_needed_kib, least_kib) / against.none_kib), 2) AS possible
    FROM latest JOIN against USING (run_id, point_id)
    WHERE trace IS NOT NULL AND against.none_kib > 0
    WINDOW same_trace AS (PARTITION BY run_id, trace, trace_process)
)
SELECT COLUMNS(lambda c: c NOT IN ('none', 'possible')), possible
FROM shares PIVOT (max(saved) FOR policy IN policies GROUP BY run_id, trace, trace_process, none_kib, possible)
ORDER BY run_id, trace, trace_process;
