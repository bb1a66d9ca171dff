-- Why points failed: the number of points for each reason, and an example for `sweep why`.
-- Needs: points that failed.
SELECT run_id, status, error_class, error, count(*) AS points, max(attempt) AS attempts, min(point_id) AS example
FROM failures
GROUP BY run_id, status, error_class, error
ORDER BY run_id, points DESC, status, error;
