"""Puts p8's PCA beside other libraries on the same matrices, alternating in one run.

The seconds of a library are those of fit and transform with the data in memory. p8 reads its
matrix from the file, which the page cache of the system has, so two figures stand beside them: its own
phases `fit` and `project`, both of which read it, on the slowest rank, and the whole program from the
start of mpirun to all files written.
All centre the columns and none scales them. Each measurement is a process of its own, which begins when the
machine is idle; measurements are kept as they come, and a run that was stopped goes on where it stood.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import machine
import pca_matrix

HERE = Path(__file__).resolve().parent

# In the order of a round. p8 and Heat are followed by the number of ranks.
METHODS = {
    "gemm": "matrix product of 4096 (GFLOP/s)",
    "geqrf": "LAPACK geqrf, R alone",
    "sklearn:covariance_eigh": "scikit-learn, covariance_eigh",
    "sklearn:randomized": "scikit-learn, randomized",
    "sklearn:full": "scikit-learn, full",
    "onedal:covariance_eigh": "oneDAL, covariance",
    "onedal:full": "oneDAL, SVD",
    "heat": "Heat, full",
    "mllib": "Spark MLlib, cached",
    "p8": "p8",
}

# A covariance matrix of more columns than this does not fit: 20000 columns are 3.2 GB, and its
# eigenvectors take several of them.
MOST_COVARIANCE_COLUMNS = 20_000


class Failed(Exception):
    """A measurement that gave no figure, and why."""


def call(command, timeout, environment, log):
    """Standard output of a command; ends it with all its children when it takes too long."""
    with open(log, "w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True
        )
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGTERM)
            time.sleep(2)
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.communicate()
            raise Failed(f"more than {timeout:g} s") from error
    if process.returncode:
        raise Failed(f"ended with {process.returncode}: {reason(log)}")
    return output


def reason(log):
    """The last line of a log that names an error, without what mpirun says around it."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if "rror" in line]
    return lines[-1].strip()[:120].replace("|", "/") if lines else f"see {log.name}"


def measure(options, method, ranks, path, columns, components):
    """One measurement as a journal entry."""
    if method.endswith("covariance_eigh") and columns > MOST_COVARIANCE_COLUMNS:
        raise Failed(f"its covariance matrix would take {8 * columns**2 / 1e9:.0f} GB")
    threads = max(1, options.threads // (ranks or 1))
    environment = dict(os.environ)
    own = "1" if method == "p8" else str(threads)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = own
    log = options.scratch / f"{method.replace(':', '-')}-{ranks or 1}.log"
    settle()
    start = ["mpirun", "-np", str(ranks)] if ranks else []
    if method == "p8":
        return measure_p8(options, start, threads, path, components, environment, log)
    worker = [sys.executable, str(HERE / "pca_worker.py"), method, str(path), str(components), str(threads)]
    output = call([*start, *worker, str(options.scratch)], options.timeout, environment, log)
    return json.loads(output.strip().splitlines()[-1])


def settle():
    """Waits until what ran before lets go of the machine: a JVM ends after its worker, and files are still written."""

    def idle():
        with open("/proc/stat", encoding="ascii") as stat:
            return int(stat.readline().split()[4]) / os.sysconf("SC_CLK_TCK")

    os.sync()
    cores = len(os.sched_getaffinity(0))
    for _ in range(30):
        before, began = idle(), time.perf_counter()
        time.sleep(0.5)
        if idle() - before >= 0.9 * cores * (time.perf_counter() - began):
            return


def measure_p8(options, start, threads, path, components, environment, log):
    """p8's own phases and its whole time."""
    from safetensors.numpy import load_file

    result = options.scratch / "p8-out"
    shutil.rmtree(result, ignore_errors=True)
    command = [*start, options.p8, "pca", "--features", str(path), "--output", str(result), "-k", str(components)]
    command += ["--standardize", "false", "--threads", str(threads), "--quiet"]
    command += ["--pca-precision", "f32" if path.stem.endswith("f32") else "f64", *options.more]
    read_through(path)
    began = time.perf_counter()
    call(command, options.timeout, environment, log)
    whole = time.perf_counter() - began
    metrics = json.loads((result / "metrics.json").read_text())
    phases = {name: metrics["phases"][name]["max_seconds"] for name in ("fit", "project")}
    model = load_file(result / "model.safetensors")
    return {
        "seconds": sum(phases.values()),
        "fit": phases["fit"],
        "whole": whole,
        "variances": [float(value) for value in model["explained_variance"]],
        "version": metrics["environment"]["p8_version"],
        "solver": metrics["model"]["solver"],
    }


def read_through(path):
    """Brings a file into the page cache, from which what ran before may have driven it."""
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass


def label(method, ranks):
    if not ranks:
        return METHODS[method]
    return f"{METHODS[method]}, {ranks} rank{'' if ranks == 1 else 's'}"


def rate(rows, columns, seconds):
    """GFLOP/s of a Householder QR of this size in so many seconds (Golub and Van Loan, section 5.2)."""
    m, n = max(rows, columns), min(rows, columns)
    return (2 * m * n * n - 2 * n**3 / 3) / seconds / 1e9


def table(size, dtype, components, entries):
    """Markdown for one matrix."""
    rows, columns = pca_matrix.parse(size)
    found, failures = {}, {}
    for entry in entries:
        key = (entry["method"], entry["ranks"])
        if "failure" in entry:
            failures[key] = entry["failure"]
        else:
            found.setdefault(key, {})[entry["round"]] = entry
    median = lambda key, what="seconds": statistics.median(entry[what] for entry in found[key].values())
    own = [key for key in found if key[0] == "p8"]
    best = min(own, key=median, default=None)
    lines = [
        "",
        f"## {size}, {dtype}, {components} components",
        "",
        "| | seconds, median | min | max | it / p8 | whole program | variances differ by |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    timed = [key for key in found if key[0] != "gemm"]
    for key in sorted(timed, key=median):
        seconds = [entry["seconds"] for entry in found[key].values()]
        ratio, whole, difference = "", "", ""
        if best and key != best:
            common = [found[key][r]["seconds"] / found[best][r]["seconds"] for r in found[key] if r in found[best]]
            ratio = f"{statistics.median(common):.2f}" if common else ""
        if key[0] == "p8":
            whole = f"{median(key, 'whole'):.2f}"
        variances = next(iter(found[key].values()))["variances"]
        if best and variances:
            expected = next(iter(found[best].values()))["variances"]
            pairs = list(zip(variances, expected))
            difference = f"{max(abs(a - b) / b for a, b in pairs):.1e}"
        name = f"**{label(*key)}**" if key == best else label(*key)
        lines.append(
            f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} | {ratio}"
            f" | {whole} | {difference} |"
        )
    lines += [f"| {label(*key)} | {failures[key]} | | | | | |" for key in failures if key not in found]
    notes = []
    if ("gemm", 0) in found:
        product = median(("gemm", 0))
        notes.append(f"Matrix product: {product:.0f} GFLOP/s")
        if ("geqrf", 0) in found:
            speed = rate(rows, columns, median(("geqrf", 0)))
            notes.append(f"geqrf: {speed:.0f} GFLOP/s, {speed / product:.0%} of it")
        if best:
            speed = rate(rows, columns, median(best, "fit"))
            share = f"{speed:.0f} GFLOP/s, {speed / product:.0%}"
            notes.append(f"p8's whole phase `fit`, counted as this QR alone: {share}")
    versions = {f"{label(key[0], 0)}: {entry['version']}" for key in timed for entry in found[key].values()}
    if best:
        notes.append(f"p8's solver: {next(iter(found[best].values()))['solver']}")
    lines += ["", ". ".join([*notes, "; ".join(sorted(versions))]) + "."]
    return lines


def parse():
    cores = len(os.sched_getaffinity(0))
    listed = lambda text: text.split(",")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--p8", required=True, help="the program, which pca.sh builds")
    add("--matrices", type=listed, default="20000x2048,100x100352,4000x2048",
        help="ROWSxCOLUMNS,... [20000x2048,100x100352,4000x2048]; 100000x2048 takes 1.6 GB of disk in f64")
    add("--dtypes", type=listed, default="f64", help="f64,f32 [f64]")
    add("-k", "--components", type=int, default=50, help="[50]; 7 for fewer than 1000 rows, as the notebook")
    add("--methods", type=listed, default=",".join(METHODS), help=f"[{','.join(METHODS)}]")
    add("--ranks", type=lambda text: [int(part) for part in text.split(",")], default="1,2,3",
        help="of p8 and Heat, which divide the threads [1,2,3]")
    add("--threads", type=int, default=cores, help="of every method [the cores]")
    add("--rounds", type=int, default=3)
    add("--timeout", type=float, default=600, help="seconds of one measurement [600]")
    add("--scratch", type=Path, default=HERE.parent / ".work" / "pca", help="folder for matrices, results, logs")
    add("--keep", action="store_true", help="leave the matrices in the scratch folder")
    add("--fresh", action="store_true", help="forget the measurements of an earlier run")
    add("--output", type=Path, default=HERE.parent / "results" / "pca.md", help="the tables as a file")
    add("more", nargs="*", help="further options of p8, after --")
    options = parser.parse_args()
    for method in options.methods:
        if method not in METHODS:
            parser.error(f"unknown method {method!r}: choose from {', '.join(METHODS)}")
    return options


def main():
    options = parse()
    options.scratch = options.scratch.resolve()
    options.scratch.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(Path(options.p8).read_bytes())
    key.update(f"{machine.describe()} {platform.node()} {options.threads} {options.more}".encode())
    lines = [
        "# PCA beside other libraries",
        "",
        f"Made by `bench/peers/pca.sh` on {datetime.date.today()}. {machine.describe()}.",
        f"{options.threads} threads in all, rounds: {options.rounds}, methods in turn. Seconds of fit and transform"
        " with the data in memory; of p8 its phases `fit` and `project`, both of which read the file from the page cache, and"
        ' beside them the whole program. "It / p8" is the median over rounds of the ratio to the p8 in bold within a round.',
        "Columns are centred, not scaled. The last column is the largest relative difference of an explained variance"
        " to that of the p8 in bold.",
    ]
    text = ""
    for size in options.matrices:
        rows, columns = pca_matrix.parse(size)
        components = min(options.components, columns) if rows >= 1000 else min(7, rows - 1, columns)
        for dtype in options.dtypes:
            own = key.copy()
            own.update(f"{size} {dtype} {components}".encode())
            journal = options.scratch / f"measured-{own.hexdigest()[:16]}.jsonl"
            if options.fresh:
                journal.unlink(missing_ok=True)
            run(options, size, dtype, components, journal)
            entries = [json.loads(line) for line in journal.read_text().splitlines()]
            lines += table(size, dtype, components, entries)
            text = "\n".join(lines) + "\n"
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(text, encoding="utf-8")
    print(text)


def run(options, size, dtype, components, journal):
    """All rounds of one matrix, less those that are there."""
    entries = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    done = {(entry["method"], entry["ranks"], entry["round"]) for entry in entries}
    failed = {(entry["method"], entry["ranks"]) for entry in entries if "failure" in entry}
    columns = pca_matrix.parse(size)[1]
    sides = []
    for method in METHODS:
        if method in options.methods:
            sides += [(method, ranks) for ranks in (options.ranks if method in ("p8", "heat") else [0])]
    missing = [
        (round_, side)
        for round_ in range(options.rounds)
        for side in sides
        if (*side, round_) not in done and side not in failed
    ]
    path = options.scratch / f"x-{size}-{dtype}.npy"
    if missing and not path.exists():
        say(f"{size} {dtype}: writing the matrix")
        subprocess.run([sys.executable, str(HERE / "pca_matrix.py"), size, dtype, str(path)], check=True)
    for round_, (method, ranks) in missing:
        if (method, ranks) in failed:
            continue
        entry = {"method": method, "ranks": ranks, "round": round_}
        try:
            entry.update(measure(options, method, ranks, path, columns, components))
            say(f"{size} {dtype} round {round_ + 1}: {label(method, ranks)}: {entry['seconds']:.2f}")
        except Failed as failure:
            failed.add((method, ranks))
            entry["failure"] = str(failure)
            say(f"{size} {dtype} round {round_ + 1}: {label(method, ranks)}: {failure}")
        with open(journal, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    if not options.keep:
        path.unlink(missing_ok=True)
        path.with_suffix(".parquet").unlink(missing_ok=True)


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
