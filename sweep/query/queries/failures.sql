-- Why points failed: how many for each reason, and one of them to look at with `sweep why`.
SELECT run_id, status, error_class, error, count(*) AS points, max(attempt) AS attempts, min(point_id) AS example
FROM failures
GROUP BY run_id, status, error_class, error
ORDER BY run_id, points DESC, status, error;
