-- What reclaim costs a MADV_DONTNEED: CPU ns a table, kept and freed, by pages in the table and size of the call.
WITH tables AS (
    SELECT
        round(512 * (1 - sparsity)) AS pages,
        CASE WHEN virt < 2097152 THEN 'kept' WHEN zap < 2097152 THEN 'halves' ELSE format('{} MiB', zap // 1048576) END AS call,
        zap_ns / (rounds * ceil(virt / 2097152)) AS ns
    FROM latest
    WHERE engine = 'kernel'
)
SELECT
    pages,
    round(median(ns) FILTER (call = 'kept')) AS kept,
    round(median(ns) FILTER (call = 'halves')) AS in_halves,
    round(median(ns) FILTER (call = '2 MiB')) AS freed_by_2_mib,
    round(median(ns) FILTER (call = '4 MiB')) AS by_4_mib,
    round(median(ns) FILTER (call = '16 MiB')) AS by_16_mib,
    round(median(ns) FILTER (call = '64 MiB')) AS by_64_mib,
    round(median(ns) FILTER (call = '2 MiB') - median(ns) FILTER (call = 'kept')) AS reclaim_ns,
    round(quantile_cont(ns, 0.75) FILTER (call = 'kept') - quantile_cont(ns, 0.25) FILTER (call = 'kept')) AS spread_ns
FROM tables
GROUP BY pages
ORDER BY pages;
