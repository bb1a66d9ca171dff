-- The published VmPTE figures beside the model's: 50 GiB of the 6.14 commit's test, 1 GiB on arm64 under QEMU.
-- base_kib is what the process had before. The process's own mappings already had the PUD table, so it is taken off.
WITH published(source, arch, virt_gib, policy, base_kib, published_kib) AS (
    VALUES
    ('6375e95f381e', 'x86-64', 50, 'none', 40, 102640),
    ('6375e95f381e', 'x86-64', 50, 'merged', 40, 240),
    ('arm64 series', 'arm64-4k', 1, 'none', 36, 2088),
    ('arm64 series', 'arm64-4k', 1, 'merged', 36, 40)
)
SELECT
    source,
    arch,
    virt_gib,
    policy,
    base_kib,
    vm_pte_kib_end - 4 * pud_tables_end + base_kib AS vm_pte_kib,
    published_kib,
    vm_pte_kib = published_kib AS agrees,
    run_id
FROM latest JOIN published USING (arch, policy)
WHERE virt = virt_gib * 1073741824::BIGINT
    AND sparsity = 0 AND zap = 2097152 AND zap_shift = 0 AND coverage = 1
    AND rounds = 1 AND advice = 'dontneed' AND pinned = 0 AND refault = 0
GROUP BY ALL
ORDER BY virt_gib DESC, policy DESC, run_id;
