-- How VmPTE grows: MiB after the install of a round, when the process has its memory, in rounds 1, 2, 4, 8, ... and the last.
-- Where all points of a run have as many rounds, rows need not be joined one by one to learn how many.
WITH runs AS (SELECT run_id, min(rounds) AS fewest, max(rounds) AS most FROM latest GROUP BY run_id),
alike AS (SELECT run_id, most AS rounds FROM runs WHERE fewest = most),
others AS (SELECT run_id, point_id, policy, rounds FROM latest SEMI JOIN (FROM runs WHERE fewest < most) USING (run_id)),
rows AS (
    SELECT run_id, a.rounds, r.round, r.policy, r.vm_pte_kib_peak FROM rounds AS r JOIN alike AS a USING (run_id)
    UNION ALL
    SELECT run_id, o.rounds, r.round, policy, r.vm_pte_kib_peak FROM rounds AS r JOIN others AS o USING (run_id, point_id, policy)
),
peaks AS (
    SELECT run_id, rounds, round, policy, avg(vm_pte_kib_peak) / 1024 AS mib, count(*) AS points
    FROM rows
    WHERE round & (round - 1) = 0 OR round = rounds
    GROUP BY run_id, rounds, round, policy
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
