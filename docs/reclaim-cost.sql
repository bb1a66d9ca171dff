-- What reclaim costs a MADV_DONTNEED: CPU ns a table, kept and freed, by pages in the table and size of the call.
-- The fastest of the seeds, as what else a machine does only adds. reclaim_ns: freed by 2 MiB less kept, seed by
-- seed, the median, between its quartiles.
WITH tables AS (
    SELECT
        round(512 * (1 - sparsity)) AS pages,
        seed,
        CASE WHEN virt < 2097152 THEN 'kept' WHEN zap < 2097152 THEN 'halves' ELSE format('{} MiB', zap // 1048576) END AS call,
        zap_ns / (rounds * ceil(virt / 2097152)) AS ns
    FROM latest
    WHERE engine = 'kernel' AND run_id LIKE 'reclaim-cost-%'
),
runs AS (
    SELECT
        pages,
        any_value(ns) FILTER (call = 'kept') AS kept,
        any_value(ns) FILTER (call = 'halves') AS halves,
        any_value(ns) FILTER (call = '2 MiB') AS mib_2,
        any_value(ns) FILTER (call = '4 MiB') AS mib_4,
        any_value(ns) FILTER (call = '16 MiB') AS mib_16,
        any_value(ns) FILTER (call = '64 MiB') AS mib_64
    FROM tables
    GROUP BY pages, seed
)
SELECT
    pages,
    round(min(kept)) AS kept,
    round(min(halves)) AS kept_in_halves,
    round(min(mib_2)) AS freed_by_2_mib,
    round(min(mib_4)) AS by_4_mib,
    round(min(mib_16)) AS by_16_mib,
    round(min(mib_64)) AS by_64_mib,
    round(quantile_cont(mib_2 - kept, 0.25)) AS low_ns,
    round(median(mib_2 - kept)) AS reclaim_ns,
    round(quantile_cont(mib_2 - kept, 0.75)) AS high_ns
FROM runs
GROUP BY pages
ORDER BY pages;
