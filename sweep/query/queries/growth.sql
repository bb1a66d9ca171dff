-- Growth of VmPTE: MiB after the install of a round, when the process has all its memory, in rounds 1, 2, 4, 8, ... and the last.
-- The number of rounds is joined point by point only in runs where it varies.
-- Needs: a run.
WITH runs AS (SELECT run_id, min(rounds) AS fewest, max(rounds) AS most FROM latest GROUP BY run_id),
equal_rounds AS (SELECT run_id, most AS rounds FROM runs WHERE fewest = most),
varying_rounds AS (
    SELECT run_id, point_id, policy, rounds FROM latest SEMI JOIN (FROM runs WHERE fewest < most) USING (run_id)
),
rows AS (
    SELECT run_id, e.rounds, r.round, r.policy, r.vm_pte_kib_peak FROM rounds AS r JOIN equal_rounds AS e USING (run_id)
    UNION ALL
    SELECT run_id, v.rounds, r.round, policy, r.vm_pte_kib_peak
    FROM rounds AS r JOIN varying_rounds AS v USING (run_id, point_id, policy)
),
peaks AS (
    SELECT
        run_id,
        rounds,
        max(count(*)) OVER (PARTITION BY run_id, rounds, round) AS points,
        round,
        policy,
        round(avg(vm_pte_kib_peak) / 1024, 3) AS mib
    FROM rows
    WHERE round & (round - 1) = 0 OR round = rounds
    GROUP BY run_id, rounds, round, policy
)
SELECT *
FROM peaks PIVOT (max(mib) FOR policy IN policies GROUP BY run_id, rounds, points, round)
ORDER BY run_id, rounds, round;
