-- How often each policy is the cheapest that frees 90 % or more of the tables that none leaves empty, by zap size.
-- Of equally cheap ones the one that Linux has comes first; munmap is left out.
WITH against AS (
    SELECT run_id, point_id, zap, pte_tables_empty_end AS empty
    FROM latest
    WHERE policy = 'none' AND pte_tables_empty_end > 0
),
best AS (
    SELECT
        run_id, point_id,
        arg_min(policy, row(cost_ns, list_position(['merged', 'seed_inline', 'second_walk', 'refcount', 'async'], policy))) AS winner
    FROM latest JOIN against USING (run_id, point_id)
    WHERE policy NOT IN ('none', 'munmap') AND pte_tables_empty_end <= 0.1 * empty
    GROUP BY run_id, point_id
)
SELECT
    run_id,
    zap / 1024 AS zap_kib,
    count(*) AS points_with_empty_tables,
    count(*) FILTER (winner = 'refcount') AS refcount,
    count(*) FILTER (winner = 'async') AS async,
    count(*) FILTER (winner = 'second_walk') AS second_walk,
    count(*) FILTER (winner = 'seed_inline') AS seed_inline,
    count(*) FILTER (winner = 'merged') AS merged,
    count(*) FILTER (winner IS NULL) AS nobody
FROM against LEFT JOIN best USING (run_id, point_id)
GROUP BY run_id, zap
ORDER BY run_id, zap;
