"""One PCA by one library, measured once. Started by pca.py, for Heat under mpirun.

    pca_worker.py METHOD FILE.npy COMPONENTS THREADS SCRATCH

Prints one line of JSON: seconds of fit and transform with the data in memory, the explained
variances, the version. Libraries are warmed up on a small matrix first, so that loading them and
starting their threads is not measured.
"""

import json
import os
import sys
import time

import numpy as np


def scikit_learn(matrix, components, solver, patched=False):
    """scikit-learn's PCA, or oneDAL's behind the same interface."""
    if patched:
        import sklearnex as package
        from sklearnex.decomposition import PCA
    else:
        import sklearn as package
        from sklearn.decomposition import PCA

    # Every solver that the small matrix allows, as the large one.
    PCA(5, svd_solver=solver, random_state=0).fit_transform(matrix[:60, :40].copy())
    start = time.perf_counter()
    model = PCA(components, svd_solver=solver, random_state=0).fit(matrix)
    model.transform(matrix)
    seconds = time.perf_counter() - start
    return seconds, model.explained_variance_, getattr(package, "__version__", "")


def heat(path, components, threads):
    """Heat's full PCA, rows split over the ranks."""
    import heat as ht
    import torch
    from mpi4py import MPI

    torch.set_num_threads(threads)
    world = MPI.COMM_WORLD
    whole = np.load(path, mmap_mode="r")
    edges = [len(whole) * rank // world.size for rank in range(world.size + 1)]
    mine = np.array(whole[edges[world.rank] : edges[world.rank + 1]])
    matrix = ht.array(mine, is_split=0)
    world.Barrier()
    start = time.perf_counter()
    model = ht.decomposition.PCA(n_components=components, svd_solver="full").fit(matrix)
    model.transform(matrix)
    world.Barrier()
    seconds = time.perf_counter() - start
    variances = model.explained_variance_.numpy()
    return (seconds, variances, ht.__version__) if world.rank == 0 else None


def mllib(path, components, threads, scratch):
    """Spark MLlib: StandardScaler for the mean, PCA, both over a cached data frame."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyspark.ml.feature import PCA, StandardScaler
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import SparkSession

    whole = np.load(path, mmap_mode="r")
    name = os.path.splitext(os.path.basename(path))[0]
    table = os.path.join(scratch, f"{name}.parquet")
    if not os.path.exists(table):
        kind = pa.list_(pa.from_numpy_dtype(whole.dtype))
        step = max(1, (1 << 26) // (8 * whole.shape[1]))
        with pq.ParquetWriter(f"{table}.part", pa.schema([("x", kind)]), use_dictionary=False) as writer:
            for first in range(0, len(whole), step):
                block = np.array(whole[first : first + step])
                offsets = np.arange(len(block) + 1, dtype=np.int32) * block.shape[1]
                column = pa.ListArray.from_arrays(offsets, pa.array(block.reshape(-1)), type=kind)
                writer.write_table(pa.table({"x": column}))
        os.rename(f"{table}.part", table)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30 * 2 // 3
    spark = (
        SparkSession.builder.master(f"local[{threads}]")
        .config("spark.driver.memory", f"{memory}g")
        .config("spark.driver.maxResultSize", "0")
        .config("spark.ui.enabled", "false")
        .config("spark.local.dir", scratch)
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    frame = spark.read.parquet(table).select(array_to_vector("x").alias("x")).repartition(2 * threads).cache()
    frame.count()
    start = time.perf_counter()
    scaler = StandardScaler(inputCol="x", outputCol="centred", withMean=True, withStd=False).fit(frame)
    # Cached, without which each pass of the solver computes it again.
    centred = scaler.transform(frame).select("centred").cache()
    model = PCA(k=components, inputCol="centred", outputCol="scores").fit(centred)
    model.transform(centred).select("scores").write.format("noop").mode("overwrite").save()
    seconds = time.perf_counter() - start
    # Spark gives shares only, so its variances are not compared.
    version = spark.version
    spark.stop()
    return seconds, [], version


def geqrf(matrix):
    """LAPACK's QR of the matrix, of its transpose when it is wide: the R factor alone, no PCA."""
    import scipy
    from scipy.linalg import get_lapack_funcs

    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    tall = np.array(tall, order="F")
    (qr,) = get_lapack_funcs(["geqrf"], [tall])
    qr(np.random.default_rng(0).standard_normal((600, 300)).astype(matrix.dtype, order="F"))
    _, _, work, _ = qr(tall, lwork=-1)
    start = time.perf_counter()
    qr(tall, lwork=int(work[0]), overwrite_a=True)
    return time.perf_counter() - start, [], f"SciPy {scipy.__version__}'s OpenBLAS"


def gemm(dtype):
    """The rate of a large matrix product in GFLOP/s, best of three, in place of seconds."""
    import scipy
    from scipy.linalg import get_blas_funcs

    side = 4096
    a, b = (np.random.default_rng(s).standard_normal((side, side)).astype(dtype, order="F") for s in (1, 2))
    (product,) = get_blas_funcs(["gemm"], [a])
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        product(1.0, a, b)
        best = min(best, time.perf_counter() - start)
    return 2e-9 * side**3 / best, [], f"SciPy {scipy.__version__}'s OpenBLAS"


def main():
    method, path, components, threads, scratch = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    components, threads = int(components), int(threads)
    if method == "heat":
        result = heat(path, components, threads)
    elif method == "mllib":
        result = mllib(path, components, threads, scratch)
    elif method == "gemm":
        result = gemm(np.load(path, mmap_mode="r").dtype)
    elif method == "geqrf":
        result = geqrf(np.load(path))
    else:
        library, solver = method.split(":")
        result = scikit_learn(np.load(path), components, solver, library == "onedal")
    if result:
        seconds, variances, version = result
        line = {"seconds": seconds, "variances": [float(value) for value in variances], "version": version}
        print(json.dumps(line), file=answers)


if __name__ == "__main__":
    main()
