-- How often each policy is the cheapest that frees 90 % or more of the tables that are empty under none, by the size of a call.
-- Of equally cheap policies the latest proposed one wins, so merged before the others, then a grid's own in its order; those that scan
-- all tables come last. Policies that free nothing or unmap do not compete.
-- Needs: points with empty tables under none.
WITH against AS (
    SELECT run_id, point_id, zap, pte_tables_empty_end AS empty
    FROM latest
    WHERE policy = 'none' AND pte_tables_empty_end > 0
),
best AS (
    SELECT
        run_id, point_id,
        arg_min(policy, row(cost_ns, "when" = 'round', if(built_in, -1, 1) * enum_code(policy::policies)::INT)) AS winner
    FROM latest JOIN against USING (run_id, point_id) JOIN policies USING (run_id, policy)
    WHERE "when" NOT IN ('never', 'unmap') AND pte_tables_empty_end <= 0.1 * empty
    GROUP BY run_id, point_id
),
counts AS (
    SELECT run_id, zap / 1024 AS zap_kib, winner, count(*) AS points
    FROM against LEFT JOIN best USING (run_id, point_id)
    GROUP BY run_id, zap, winner
),
winners AS (
    SELECT
        *,
        sum(points) OVER same_zap AS points_with_empty_tables,
        coalesce(sum(points) FILTER (winner IS NULL) OVER same_zap, 0) AS nobody
    FROM counts
    WINDOW same_zap AS (PARTITION BY run_id, zap_kib)
)
SELECT COLUMNS(lambda c: c NOT IN ('none', 'munmap', 'nobody')), nobody
FROM winners PIVOT (coalesce(sum(points), 0) FOR winner IN policies GROUP BY run_id, zap_kib, points_with_empty_tables, nobody)
ORDER BY run_id, zap_kib;
