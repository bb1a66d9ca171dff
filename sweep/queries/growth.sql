-- How VmPTE grows: MiB after the install of a round, when the process has its memory, in rounds 1, 2, 4, 8, ... and the last.
WITH peaks AS (
    SELECT run_id, l.rounds, r.round, policy, avg(r.vm_pte_kib_peak) / 1024 AS mib, count(*) AS points
    FROM latest AS l JOIN rounds AS r USING (run_id, point_id, policy)
    WHERE r.round & (r.round - 1) = 0 OR r.round = l.rounds
    GROUP BY run_id, l.rounds, r.round, policy
)
SELECT
    run_id,
    rounds,
    max(points) AS points,
    round,
    round(max(mib) FILTER (policy = 'none'), 3) AS none,
    round(max(mib) FILTER (policy = 'refcount'), 3) AS refcount,
    round(max(mib) FILTER (policy = 'async'), 3) AS async,
    round(max(mib) FILTER (policy = 'second_walk'), 3) AS second_walk,
    round(max(mib) FILTER (policy = 'seed_inline'), 3) AS seed_inline,
    round(max(mib) FILTER (policy = 'merged'), 3) AS merged,
    round(max(mib) FILTER (policy = 'munmap'), 3) AS munmap
FROM peaks
GROUP BY run_id, rounds, round
ORDER BY run_id, rounds, round;
