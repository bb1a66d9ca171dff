-- Published VmPTE figures beside the model's: the loops of the 6.14 commit and of the arm64 series, and the process of 55 TiB.
-- base_kib: VmPTE of the test process before the loop. Its own mappings already had the PUD table, which is therefore subtracted.
-- The 55 TiB process had VIRT 55t, RES 590g, VmPTE 110g, rounded to GiB, while it ran: moment `peak`. The placement of its pages is
-- unknown. Every slot had a table, which holds after 500 rounds with pages in dense tables (cluster of 2 MiB).
-- Needs: a run that has the published scenarios, such as that of sweep launch commit-50gib.
WITH published(source, arch, virt_gib, res_gib, cluster_kib, rounds, moment, policy, base_kib, published_kib, unit_kib) AS (
    VALUES
    ('6375e95f381e', 'x86-64', 50, NULL, 4, 1, 'end', 'none', 40, 102640, 1),
    ('6375e95f381e', 'x86-64', 50, NULL, 4, 1, 'end', 'merged', 40, 240, 1),
    ('arm64 series', 'arm64-4k', 1, NULL, 4, 1, 'end', 'none', 36, 2088, 1),
    ('arm64 series', 'arm64-4k', 1, NULL, 4, 1, 'end', 'merged', 36, 40, 1),
    ('55t process', 'x86-64', 56320, 590, 2048, 500, 'peak', 'none', 0, 115343360, 1048576)
)
SELECT DISTINCT
    source,
    arch,
    virt_gib,
    policy,
    moment,
    base_kib,
    CASE moment WHEN 'end' THEN vm_pte_kib_end - 4 * pud_tables_end + base_kib ELSE vm_pte_kib_peak END AS vm_pte_kib,
    published_kib,
    round(vm_pte_kib / unit_kib) = published_kib / unit_kib AS agrees,
    run_id
FROM latest JOIN published USING (arch, rounds, policy)
WHERE virt = virt_gib * 1073741824::BIGINT AND "cluster" = cluster_kib * 1024
    AND CASE WHEN res_gib IS NULL THEN sparsity = 0 ELSE res = res_gib * 1073741824::BIGINT END
    AND zap = 2097152 AND zap_shift = 0 AND coverage = 1 AND advice = 'dontneed' AND pinned = 0 AND refault = 0
ORDER BY moment, virt_gib DESC, policy DESC, run_id;
