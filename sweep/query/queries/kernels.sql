-- VmPTE and RES on each kernel beside the model's, under the policy that the kernel follows (for that, launch the grid on the model too).
-- Needs: a run on kernels, such as that of sweep launch validate --engine kernel.
WITH model AS (
    SELECT
        point_id,
        policy,
        any_value(vm_pte_kib_peak) AS model_peak_kib,
        any_value(vm_pte_kib_end) AS model_end_kib,
        any_value(res_bytes_peak) AS model_res_bytes_peak,
        any_value(res_bytes_end) AS model_res_bytes_end
    FROM outcomes
    WHERE engine = 'model'
    GROUP BY point_id, policy
)
SELECT
    run_id,
    kernel_release,
    arch,
    accel,
    policy,
    count(*) AS points,
    sum(vm_pte_kib_peak) AS peak_kib,
    sum(model_peak_kib) AS model_peak_kib,
    sum(vm_pte_kib_end) AS end_kib,
    sum(model_end_kib) AS model_end_kib,
    round(sum(res_bytes_peak) / 1048576, 3) AS res_mib_peak,
    count(*) FILTER (
        vm_pte_kib_peak = model_peak_kib
        AND vm_pte_kib_end = model_end_kib
        AND res_bytes_peak = model_res_bytes_peak
        AND res_bytes_end = model_res_bytes_end
    ) AS agree
FROM outcomes LEFT JOIN model USING (point_id, policy)
WHERE run_id IN (SELECT arg_max(run_id, created) FROM runs WHERE engine = 'kernel' GROUP BY grid)
GROUP BY run_id, kernel_release, arch, accel, policy
ORDER BY run_id, kernel_release, arch, policy;
