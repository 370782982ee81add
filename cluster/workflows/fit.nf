// A fit by Nextflow: nextflow run fit.nf --rows /data/rows.zarr --components 8 --results /data/results

params.components = 8

process FIT {
    cpus 2
    memory '6 GB'
    // 69 and 75 (no workers in time, interrupted) go on from the checkpoint; whatever else would end alike again.
    errorStrategy { task.exitStatus in [69, 75] ? 'retry' : 'terminate' }
    maxRetries 4
    // What is complete there is not computed again.
    storeDir params.results

    // A value, and no path: Nextflow would link it into a working folder that is a new one at each try.
    input:
    val rows

    output:
    path 'model.zarr'
    path 'fit.json'

    // The checkpoint lies outside of the working folder, for the same reason. 3 (done, and not converged) is a result.
    script:
    """
    mkdir -p ${params.results}
    daskgmm fit ${rows} --components ${params.components} --output model.zarr --result fit.json \\
        --checkpoint ${params.results}/model.checkpoint --workers ${task.cpus} --accept-not-converged
    """
}

workflow {
    FIT(params.rows)
}
