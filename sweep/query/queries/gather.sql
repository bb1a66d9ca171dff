-- Entries that seed_inline and merged read again where a call fills the gather, by size of a call and sparsity.
-- Needs: a run with the policies seed_inline and merged.
SELECT
    run_id,
    zap / 1024 AS zap_kib,
    sparsity,
    sum(force_breaks) FILTER (policy = 'merged') AS force_breaks,
    sum(slow_paths) FILTER (policy = 'merged') AS slow_paths,
    sum(ptes_rescanned) FILTER (policy = 'seed_inline') AS seed_inline,
    sum(ptes_rescanned) FILTER (policy = 'merged') AS merged
FROM latest
GROUP BY run_id, zap, sparsity
HAVING count(DISTINCT policy) FILTER (policy IN ('seed_inline', 'merged')) = 2
ORDER BY run_id, zap, sparsity;
