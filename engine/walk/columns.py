"""Where things stand in the integer arrays that the kernels share: parameters in, tallies out."""

NONE, REFCOUNT, ASYNC, SECOND, SEED_INLINE, MERGED, MUNMAP = range(7)
ZAPPING = 7
"""In the flush account: one row that counts for all six zapping policies."""

# Per-round columns of `per`: tables of five classes of policies at peak and end, pages of two lanes, upper tables.
PTE_PEAK, PTE_END, PAGES_PEAK, PAGES_END = 0, 5, 10, 12
PMD_NEW, PMD_PEAK_M, PMD_END_M, PUD_NEW, PUD_PEAK_M, PUD_END_M, PER = 14, 15, 16, 17, 18, 19, 20
BY_SLOT, UNMAPPED = 3, 4
"""Classes of policies by which tables they keep: none, refcount, async, the whole-slot rule (3 policies), munmap."""

# Columns of `work`, int64[7, WORK_COLUMNS], a row a policy.
VISITS, ALLOCATED, FREED, RESCANNED, FAST, SLOW, TRYLOCKS, FAILED, PMD_LOCKS, PTE_LOCKS, WORK_COLUMNS = range(11)
# Columns of `sums`, int64: of the lane of all zapping policies and of munmap's.
CALLS, INSTALLED, ZAPPED, BREAKS, INSTALLED_M, ZAPPED_M, BREAKS_M, MARKED = range(8)
NEED_PTE, NEED_PMD, NEED_PUD, NEED_PTE_M, NEED_PMD_M, NEED_PUD_M, SUMS = range(8, 15)

# Parameters of a kind of points, int64; `limits` holds the uint64 ones.
(
    ENTRIES,
    PAGES,
    PMD_SPAN,
    PUD_SPAN,
    ZAP,
    SHIFT,
    N_CALLS,
    COVER,
    RANDOM,
    ROUNDS,
    FREE,
    REFAULTS,
    FOLIO,
    THREADS,
    INTERLEAVED,
    CLUSTER,
    PLACES,
    INSTALL,
    CDF,
    SPANS,
    LEAST,
    MOST,
    PIN,
    PIN_CDF,
    PIN_SPANS,
    BATCH_SLOTS,
    BATCHES,
    TABLE_BATCH,
    CEILING,
    FIRST_TABLE,
    END_TABLE,
    PARAMETERS,
) = range(32)
"""CDF, SPANS + k: rows of engine.random.inverse_cdf.Cdfs; LEAST, MOST: of all k that have one."""
LIMIT_INSTALL, LIMIT_COVER, LIMIT_REFAULT, LIMITS = range(4)
