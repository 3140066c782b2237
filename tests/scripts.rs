//! `scripts/run` and `scripts/test` on machines that a folder plays: package manager, cargo and mpirun are
//! stand-ins that write down how they were called, and PATH holds nothing else but a few real tools.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What the scripts and the stand-ins need of a real system.
const REAL_TOOLS: [&str; 17] = [
    "bash", "cat", "cmp", "cp", "dirname", "env", "grep", "ls", "mkdir", "rm", "sed", "sh", "sort",
    "touch", "tr", "uniq", "wc",
];

/// Package and the programs it brings, as paths below the root.
type Package = (&'static str, &'static [&'static str]);

const DEBIAN: [Package; 10] = [
    ("gcc", &["bin/cc"]),
    ("libc6-dev", &[]),
    ("make", &["bin/make"]),
    ("cmake", &["bin/cmake"]),
    ("nasm", &["bin/nasm"]),
    ("pkg-config", &["bin/pkg-config"]),
    ("libopenmpi-dev", &["bin/mpicc"]),
    ("openmpi-bin", &["bin/mpirun"]),
    ("libclang-dev", &[]),
    ("libopenblas-dev", &[]),
];

/// What the tests of several hosts and of Slurm need on Debian.
const CLUSTER: [Package; 6] = [
    ("iproute2", &["bin/ip"]),
    ("procps", &["bin/pgrep", "bin/sysctl"]),
    ("slurmctld", &[]),
    ("slurmd", &[]),
    ("slurm-client", &[]),
    ("munge", &[]),
];

/// What the tests of the report need on Debian.
const BROWSER: [Package; 2] = [
    ("chromium", &["bin/chromium"]),
    ("chromium-driver", &["bin/chromedriver"]),
];

/// What the tests of docs/python.md need on Debian.
const PYTHON: [Package; 3] = [
    ("default-jre-headless", &["bin/java"]),
    ("python3", &["bin/python3"]),
    ("python3-venv", &[]),
];

const FEDORA: [Package; 9] = [
    ("gcc", &["bin/cc"]),
    ("make", &["bin/make"]),
    ("cmake", &["bin/cmake"]),
    ("nasm", &["bin/nasm"]),
    ("pkgconf-pkg-config", &["bin/pkg-config"]),
    ("openmpi", &["usr/lib64/openmpi/bin/mpirun"]),
    ("openmpi-devel", &["usr/lib64/openmpi/bin/mpicc"]),
    ("clang-devel", &[]),
    ("openblas-devel", &[]),
];

/// What the kernels' own tests need beside Rust.
const KERNELS: [Package; 4] = [
    ("gcc-aarch64-linux-gnu", &["bin/aarch64-linux-gnu-gcc"]),
    ("libc6-dev-arm64-cross", &[]),
    ("qemu-user-static", &["bin/qemu-aarch64-static"]),
    ("valgrind", &["bin/valgrind"]),
];

/// A machine played by a folder. Its programs append their command line to `calls`.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    /// Root's machine with two cores, Rust 1.95.0 and Open MPI 4.1.4, whose packages are all missing.
    fn new(os_release: &str, packages: &[Package]) -> Self {
        let machine = Self {
            root: tempfile::tempdir().expect("a temporary folder"),
        };
        for folder in ["bin", "etc", "installed", "target/release"] {
            fs::create_dir_all(machine.path(folder)).expect("a folder");
        }
        for tool in REAL_TOOLS {
            symlink(real_tool(tool), machine.path("bin").join(tool)).expect("a link");
        }
        fs::write(machine.path("etc/os-release"), os_release).expect("os-release");
        for (package, programs) in packages {
            fs::create_dir_all(machine.path("packages").join(package)).expect("a folder");
            for program in *programs {
                let body = match *program {
                    "bin/python3" => PYTHON3,
                    program if program.ends_with("mpirun") => MPIRUN,
                    _ => "",
                };
                machine.program(&format!("packages/{package}/{program}"), body);
            }
        }
        machine.program("bin/cargo", CARGO);
        machine.program("bin/sleep", "");
        machine.answers("id", "0");
        machine.answers("nproc", "2");
        machine.answers("lscpu", "# core,socket\n0,0\n1,0");
        machine.mpirun_version("mpirun (Open MPI) 4.1.4");
        machine
    }

    fn debian() -> Self {
        let packages = [&DEBIAN[..], &CLUSTER, &BROWSER, &PYTHON].concat();
        let machine = Self::new("ID=debian\nVERSION_ID=\"12\"\n", &packages);
        machine.program("bin/dpkg-query", DPKG_QUERY);
        machine.program("bin/apt-get", INSTALLER);
        machine
    }

    /// A 64-bit machine of `architecture` with Debian, whose Rust compiles for itself only.
    fn debian_on(architecture: &str) -> Self {
        let machine = Self::new("ID=debian\nVERSION_ID=\"12\"\n", &KERNELS);
        machine.program("bin/dpkg-query", DPKG_QUERY);
        machine.program("bin/apt-get", INSTALLER);
        machine.answers("uname", architecture);
        machine.program("bin/rustc", "echo \"$root/no-such-library\"");
        machine.answers("rustup", "");
        machine
    }

    fn amazon_linux() -> Self {
        let machine = Self::new("ID=\"amzn\"\nID_LIKE=\"fedora\"\n", &FEDORA);
        machine.program("bin/rpm", RPM);
        machine.program("bin/dnf", INSTALLER);
        machine
    }

    /// Brings every package whose name is not in `lacking`.
    fn with_packages_but(self, packages: &[Package], lacking: &[&str]) -> Self {
        for (package, programs) in packages {
            if !lacking.contains(package) {
                fs::write(self.path("installed").join(package), "").expect("a mark");
                for program in *programs {
                    let to = self.path(program);
                    fs::create_dir_all(to.parent().expect("a parent")).expect("a folder");
                    fs::copy(self.path("packages").join(package).join(program), to)
                        .expect("a program");
                }
            }
        }
        self
    }

    fn complete_debian() -> Self {
        Self::debian().with_packages_but(&DEBIAN, &[])
    }

    fn without_root(self) -> Self {
        self.answers("id", "1000");
        self
    }

    fn with_sudo(self) -> Self {
        self.program("bin/sudo", "exec \"$@\"");
        self
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    /// A program that writes its name and arguments to `calls` and then does `body`.
    fn program(&self, relative: &str, body: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        let root = self.root.path().display();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let text =
            format!("#!/bin/sh\nroot='{root}'\necho \"{name} $*\" >> \"$root/calls\"\n{body}\n");
        fs::write(&path, text).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions");
    }

    fn answers(&self, program: &str, answer: &str) {
        self.program(&format!("bin/{program}"), &format!("echo '{answer}'"));
    }

    fn mpirun_version(&self, version: &str) {
        fs::write(self.path("mpirun-version"), version).expect("a version");
    }

    fn start(&self, script: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
        fs::write(self.path("calls"), "").expect("an empty list of calls");
        let output = Command::new(repository().join("scripts").join(script))
            .args(arguments)
            .current_dir(repository())
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.path("home"))
            .env("P8_SYSTEM_ROOT", self.root.path())
            .env("CARGO_TARGET_DIR", self.path("target"))
            .envs(environment.iter().copied())
            .output()
            .expect("the script starts");
        let calls = fs::read_to_string(self.path("calls")).expect("the list of calls");
        Outcome::new(&output, calls)
    }

    fn run(&self) -> Outcome {
        self.start("run", &[], &[])
    }
}

/// `--version` is not worth a line in `calls`; a real start also writes down MPI's settings.
const MPIRUN: &str = r#"
if [ "$1" = --version ]; then cat "$root/mpirun-version"; exit; fi
env | grep -E '^(OMPI|PRTE|LD_LIBRARY_PATH)' | sort >> "$root/calls"
pwd >> "$root/calls"
if [ -e "$root/mpirun-status" ]; then exit "$(cat "$root/mpirun-status")"; fi
"#;

/// `python3 -m venv FOLDER` makes an environment whose Python writes down its calls, too.
const PYTHON3: &str = r#"
if [ "$2" = venv ]; then
    mkdir -p "$3/bin"
    cp "$root/bin/python3" "$3/bin/python"
elif [ -e "$root/no-network" ]; then
    exit 1
fi
"#;

const CARGO: &str =
    r#"if [ "$1" = --version ]; then echo "cargo 1.95.0 (f2d3ce0bd 2026-03-21)"; fi"#;

const DPKG_QUERY: &str = r#"
for package; do :; done
if [ -e "$root/installed/$package" ]; then printf installed; else exit 1; fi
"#;

const RPM: &str = r#"
for package; do :; done
[ -e "$root/installed/$package" ]
"#;

/// apt-get and dnf: say that they run; `install` unpacks the packages among its arguments, `update`
/// fails while `failing-updates` holds a line, and takes one line off.
const INSTALLER: &str = r#"
echo 'the installer runs'
case " $* " in
*' update '*)
    if [ -s "$root/failing-updates" ]; then
        sed -i 1d "$root/failing-updates"
        exit 100
    fi ;;
*' install '*)
    for package; do
        if [ -e "$root/no-such-package" ] && [ "$package" = "$(cat "$root/no-such-package")" ]; then
            exit 100
        fi
        if [ -d "$root/packages/$package" ]; then
            cp -R "$root/packages/$package/." "$root/"
            touch "$root/installed/$package"
        fi
    done ;;
esac
"#;

/// What a script said and did.
struct Outcome {
    status: i32,
    stdout: String,
    stderr: String,
    calls: String,
}

impl Outcome {
    fn new(output: &Output, calls: String) -> Self {
        Self {
            status: output.status.code().expect("an exit status"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            calls,
        }
    }

    /// The calls that begin with `start`.
    fn calls_of(&self, start: &str) -> Vec<&str> {
        self.calls
            .lines()
            .filter(|line| line.starts_with(start))
            .collect()
    }

    fn has_line(&self, line: &str) -> bool {
        self.calls.lines().any(|call| call == line)
    }

    #[track_caller]
    fn succeeded(self) -> Self {
        assert_eq!(self.status, 0, "stderr:\n{}", self.stderr);
        self
    }

    #[track_caller]
    fn failed_before_the_build(self) -> Self {
        assert_eq!(self.status, 1, "stderr:\n{}", self.stderr);
        assert_eq!(self.calls_of("cargo build"), [""; 0]);
        self
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "`{text}` is not in:\n{}",
            self.stderr
        );
        self
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn real_tool(name: &str) -> PathBuf {
    ["/usr/bin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no {name} on this machine"))
}

#[test]
fn a_complete_debian_machine_installs_nothing_builds_and_starts_three_ranks() {
    let machine = Machine::complete_debian();
    let outcome = machine.run().succeeded();
    assert_eq!(outcome.calls_of("apt-get"), [""; 0]);
    assert_eq!(
        outcome.calls_of("cargo build"),
        ["cargo build --release --locked"]
    );
    let p8 = machine.path("target/release/p8");
    assert!(
        outcome.has_line(&format!("mpirun -np 3 {}", p8.display())),
        "{}",
        outcome.calls
    );
    assert_eq!(outcome.stdout, "");
}

#[test]
fn what_debian_lacks_is_named_and_then_installed_in_one_call() {
    let machine = Machine::debian().with_packages_but(&DEBIAN, &["nasm", "libopenblas-dev"]);
    let outcome = machine
        .run()
        .succeeded()
        .says("lacks packages that p8 needs: nasm libopenblas-dev");
    assert_eq!(
        outcome.calls_of("apt-get"),
        [
            "apt-get -q update",
            "apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends nasm libopenblas-dev",
        ]
    );
    let named = outcome.stderr.find("nasm libopenblas-dev");
    let installed = outcome.stderr.rfind("the installer runs");
    assert!(
        named < installed && installed.is_some(),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.stdout, "");
    assert_eq!(outcome.calls_of("cargo build").len(), 1);
}

#[test]
fn a_bare_debian_machine_gets_every_package_and_the_second_run_none() {
    let machine = Machine::debian();
    let outcome = machine.run().succeeded();
    let install = outcome.calls_of("apt-get -o");
    assert_eq!(install.len(), 1);
    for (package, _) in DEBIAN {
        assert!(
            install[0].split(' ').any(|word| word == package),
            "{package} in {}",
            install[0]
        );
    }
    assert_eq!(machine.run().succeeded().calls_of("apt-get"), [""; 0]);
}

#[test]
fn amazon_linux_gets_its_own_names_and_open_mpi_comes_on_the_path() {
    let machine = Machine::amazon_linux();
    let outcome = machine.run().succeeded();
    assert_eq!(
        outcome.calls_of("dnf"),
        [
            "dnf install -y --setopt=install_weak_deps=False gcc make cmake nasm pkgconf-pkg-config openmpi \
         openmpi-devel clang-devel openblas-devel",
        ]
    );
    assert_eq!(outcome.calls_of("mpirun -np 3").len(), 1);
    let lib = machine.path("usr/lib64/openmpi/lib");
    assert!(
        outcome.has_line(&format!("LD_LIBRARY_PATH={}", lib.display())),
        "{}",
        outcome.calls
    );
    assert_eq!(machine.run().succeeded().calls_of("dnf"), [""; 0]);
}

#[test]
fn an_mpi_that_no_package_brought_is_used_as_it_is() {
    let machine = Machine::complete_debian();
    fs::remove_file(machine.path("installed/openmpi-bin")).unwrap();
    fs::remove_file(machine.path("installed/libopenmpi-dev")).unwrap();
    assert_eq!(machine.run().succeeded().calls_of("apt-get"), [""; 0]);
}

#[test]
fn a_user_installs_through_sudo() {
    let machine = Machine::debian()
        .with_packages_but(&DEBIAN, &["cmake"])
        .without_root()
        .with_sudo();
    let outcome = machine
        .run()
        .succeeded()
        .says("running: sudo apt-get update");
    assert_eq!(
        outcome.calls_of("sudo"),
        [
            "sudo apt-get -q update",
            "sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -y \
         --no-install-recommends cmake",
        ]
    );
}

#[test]
fn a_user_who_lacks_nothing_needs_no_sudo() {
    let outcome = Machine::complete_debian().without_root().run().succeeded();
    assert_eq!(outcome.calls_of("mpirun -np").len(), 1);
}

#[test]
fn a_user_without_sudo_is_told_what_root_can_run() {
    let machine = Machine::debian()
        .with_packages_but(&DEBIAN, &["cmake"])
        .without_root();
    let outcome = machine.run().failed_before_the_build();
    let outcome = outcome.says("you are not root, and there is no sudo");
    let outcome = outcome.says("install -y --no-install-recommends cmake");
    assert_eq!(outcome.calls_of("apt-get"), [""; 0]);
}

#[test]
fn without_rust_the_way_to_it_is_shown_and_nothing_is_installed() {
    let machine = Machine::debian();
    fs::remove_file(machine.path("bin/cargo")).unwrap();
    let outcome = machine
        .run()
        .failed_before_the_build()
        .says("https://sh.rustup.rs");
    assert_eq!(outcome.calls_of("apt-get"), [""; 0]);
}

#[test]
fn a_cargo_that_is_not_on_the_path_yet_is_found_in_the_home_folder() {
    let machine = Machine::complete_debian();
    fs::create_dir_all(machine.path("home/.cargo/bin")).unwrap();
    fs::rename(
        machine.path("bin/cargo"),
        machine.path("home/.cargo/bin/cargo"),
    )
    .unwrap();
    assert_eq!(machine.run().succeeded().calls_of("cargo build").len(), 1);
}

#[test]
fn a_rust_that_is_too_old_is_named_with_the_one_that_is_needed() {
    let machine = Machine::complete_debian();
    machine.answers("cargo", "cargo 1.63.0");
    let outcome = machine
        .run()
        .failed_before_the_build()
        .says("Rust 1.63.0 is too old, p8 needs 1.");
    outcome.says("https://sh.rustup.rs");
}

#[test]
fn a_held_lock_on_the_package_lists_is_waited_for() {
    let machine = Machine::debian().with_packages_but(&DEBIAN, &["cmake"]);
    fs::write(machine.path("failing-updates"), "\n\n").unwrap();
    let outcome = machine.run().succeeded().says("failed, attempt 2 of 12");
    assert_eq!(outcome.calls_of("apt-get -q update").len(), 3);
}

#[test]
fn a_failed_installation_ends_the_script() {
    let machine = Machine::debian().with_packages_but(&DEBIAN, &["cmake"]);
    fs::write(machine.path("no-such-package"), "cmake").unwrap();
    machine
        .run()
        .failed_before_the_build()
        .says("cannot install: cmake");
}

#[test]
fn an_installation_that_brings_nothing_ends_the_script() {
    let machine = Machine::debian().with_packages_but(&DEBIAN, &["cmake"]);
    machine.program("bin/apt-get", "");
    machine
        .run()
        .failed_before_the_build()
        .says("still missing after the installation: cmake");
}

#[test]
fn an_unknown_system_is_said_and_left_as_it_is() {
    let machine = Machine::complete_debian();
    fs::write(machine.path("etc/os-release"), "ID=arch\n").unwrap();
    let outcome = machine
        .run()
        .succeeded()
        .says("no package names are known for this system");
    assert_eq!(outcome.calls_of("apt-get"), [""; 0]);
}

#[test]
fn root_and_more_ranks_than_cores_get_what_open_mpi_4_asks_for() {
    let outcome = Machine::complete_debian().run().succeeded();
    for setting in [
        "OMPI_ALLOW_RUN_AS_ROOT=1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
        "OMPI_MCA_hwloc_base_binding_policy=none",
        "OMPI_MCA_mpi_yield_when_idle=1",
        "OMPI_MCA_rmaps_base_oversubscribe=1",
    ] {
        assert!(outcome.has_line(setting), "{setting} in\n{}", outcome.calls);
    }
    assert!(
        !outcome.calls.contains("mapping_policy"),
        "{}",
        outcome.calls
    );
}

#[test]
fn a_user_with_enough_cores_keeps_open_mpi_strict() {
    let machine = Machine::complete_debian().without_root();
    machine.answers("nproc", "3");
    machine.answers("lscpu", "0,0\n1,0\n2,0");
    let outcome = machine.run().succeeded();
    assert!(
        outcome.has_line("OMPI_MCA_hwloc_base_binding_policy=none"),
        "{}",
        outcome.calls
    );
    for setting in ["ALLOW_RUN_AS_ROOT", "oversubscribe", "yield_when_idle"] {
        assert!(
            !outcome.calls.contains(setting),
            "{setting} in\n{}",
            outcome.calls
        );
    }
}

#[test]
fn hardware_threads_do_not_count_as_cores() {
    let machine = Machine::complete_debian();
    machine.answers("nproc", "4");
    machine.answers("lscpu", "0,0\n1,0\n0,0\n1,0");
    let outcome = machine.run().succeeded();
    assert!(
        outcome.has_line("OMPI_MCA_rmaps_base_oversubscribe=1"),
        "{}",
        outcome.calls
    );
}

#[test]
fn open_mpi_5_is_told_in_its_own_words() {
    let machine = Machine::complete_debian();
    machine.mpirun_version("mpirun (Open MPI) 5.0.7");
    let outcome = machine.run().succeeded();
    for setting in [
        "OMPI_ALLOW_RUN_AS_ROOT=1",
        "PRTE_MCA_hwloc_default_binding_policy=none",
        "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe",
    ] {
        assert!(outcome.has_line(setting), "{setting} in\n{}", outcome.calls);
    }
    assert!(
        !outcome.calls.contains("OMPI_MCA_rmaps"),
        "{}",
        outcome.calls
    );
}

#[test]
fn mpich_needs_no_settings() {
    let machine = Machine::complete_debian();
    machine.mpirun_version("HYDRA build details:\n    Version: 4.0.2");
    let outcome = machine.run().succeeded();
    assert_eq!(outcome.calls_of("OMPI"), [""; 0]);
    assert_eq!(outcome.calls_of("PRTE"), [""; 0]);
}

#[test]
fn settings_of_the_user_stay() {
    let machine = Machine::complete_debian();
    let outcome = machine
        .start(
            "run",
            &[],
            &[("OMPI_MCA_hwloc_base_binding_policy", "socket")],
        )
        .succeeded();
    assert!(
        outcome.has_line("OMPI_MCA_hwloc_base_binding_policy=socket"),
        "{}",
        outcome.calls
    );
}

#[test]
fn options_and_the_number_of_ranks_reach_mpirun_and_its_exit_code_comes_back() {
    let machine = Machine::complete_debian();
    fs::write(machine.path("mpirun-status"), "75").unwrap();
    let outcome = machine.start("run", &["--input", "my photos"], &[("P8_RANKS", "5")]);
    assert_eq!(outcome.status, 75, "{}", outcome.stderr);
    let started = outcome.calls_of("mpirun -np");
    assert_eq!(started.len(), 1);
    assert!(started[0].starts_with("mpirun -np 5 "), "{}", started[0]);
    assert!(
        started[0].ends_with("release/p8 --input my photos"),
        "{}",
        started[0]
    );
}

#[test]
fn a_number_of_ranks_that_is_none_is_refused() {
    for ranks in ["0", "three", "-1"] {
        let outcome = Machine::complete_debian().start("run", &[], &[("P8_RANKS", ranks)]);
        outcome
            .failed_before_the_build()
            .says("P8_RANKS is not a number of ranks");
    }
}

#[test]
fn the_test_script_prepares_for_seven_ranks_and_hands_its_arguments_to_cargo() {
    let machine = Machine::complete_debian();
    machine.answers("nproc", "6");
    machine.answers("lscpu", "0,0\n1,0\n2,0\n3,0\n4,0\n5,0");
    let outcome = machine
        .start("test", &["pca", "--", "--nocapture"], &[])
        .succeeded();
    assert_eq!(
        outcome.calls_of("cargo test"),
        ["cargo test --locked pca -- --nocapture"]
    );
    outcome.says("more ranks (7) than cores");
}

#[test]
fn the_kernels_for_neon_are_tested_under_qemu_after_what_that_needs_was_installed() {
    let machine = Machine::debian_on("x86_64");
    let outcome = machine.start("test-neon", &["grid"], &[]).succeeded();
    let packages = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static";
    assert!(outcome.calls_of("apt-get")[1].ends_with(packages));
    let triple = "aarch64-unknown-linux-gnu";
    assert!(outcome.has_line(&format!("rustup target add {triple}")));
    let tests = outcome.calls_of("cargo test");
    assert_eq!(tests.len(), 1, "{}", outcome.calls);
    assert!(
        tests[0].ends_with(&format!("--target {triple} --lib grid")),
        "{}",
        tests[0]
    );
}

#[test]
fn a_64_bit_arm_machine_tests_the_kernels_for_neon_as_its_own() {
    let machine = Machine::debian_on("aarch64");
    let outcome = machine.start("test-neon", &[], &[]).succeeded();
    assert_eq!(outcome.calls_of("apt-get"), [""; 0]);
    let tests = outcome.calls_of("cargo test");
    assert!(
        tests.len() == 1 && !tests[0].contains("--target "),
        "{tests:?}"
    );
}

#[test]
fn the_kernels_for_neon_are_skipped_with_a_reason_where_they_cannot_run() {
    let packages = Machine::debian_on("x86_64");
    fs::write(packages.path("no-such-package"), "qemu-user-static").expect("a name");
    let compiler = Machine::debian_on("x86_64");
    compiler.program("bin/rustup", "exit 1");
    let system = Machine::new("ID=arch\n", &[]);
    system.answers("uname", "x86_64");
    for (machine, reason) in [
        (packages, "the packages cannot be installed"),
        (
            compiler,
            "there is no Rust standard library for aarch64-unknown-linux-gnu",
        ),
        (system, "there is no aarch64-linux-gnu-gcc"),
    ] {
        let outcome = machine.start("test-neon", &[], &[]).succeeded();
        assert_eq!(outcome.calls_of("cargo test"), [""; 0]);
        let outcome = outcome.says("skipped: the kernels for NEON are not tested here");
        outcome.says(reason);
    }
}

#[test]
fn the_kernels_run_under_valgrind_which_is_installed() {
    let machine = Machine::debian_on("x86_64");
    let outcome = machine.start("test-memory", &[], &[]).succeeded();
    assert!(outcome.calls_of("apt-get")[1].ends_with(" valgrind"));
    let tests = outcome.calls_of("cargo test");
    assert!(
        tests.len() == 1 && tests[0].contains("\"valgrind\""),
        "{tests:?}"
    );
}

#[test]
fn the_test_script_gets_root_what_tests_of_several_hosts_and_in_a_browser_need() {
    let machine = Machine::complete_debian();
    let outcome = machine.start("test", &[], &[]).succeeded();
    assert_eq!(
        outcome.calls_of("apt-get -o"),
        [
            "apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends iproute2 procps slurmctld slurmd \
         slurm-client munge",
            "apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends chromium chromium-driver",
            "apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends default-jre-headless python3 \
         python3-venv",
        ]
    );
    let again = machine.start("test", &[], &[]).succeeded();
    assert_eq!(again.calls_of("apt-get"), [""; 0]);
}

#[test]
fn the_test_script_tells_a_user_what_is_skipped() {
    let machine = Machine::complete_debian().without_root();
    let outcome = machine.start("test", &[], &[]).succeeded();
    assert_eq!(outcome.calls_of("apt-get"), [""; 0]);
    outcome
        .says("not root: the tests of several hosts and of Slurm will be skipped")
        .says("the tests of the report in a browser will be skipped");
}

#[test]
fn the_test_script_makes_the_python_of_the_tests_once_and_anew_for_other_versions() {
    let machine = Machine::complete_debian();
    let venv = machine.path("home/.cache/p8-tests/python");
    let outcome = machine.start("test", &[], &[]).succeeded();
    assert_eq!(
        outcome.calls_of("python3"),
        [
            format!("python3 -m venv {}", venv.display()),
            format!(
                "python3 -m pip install --quiet --disable-pip-version-check --requirement {}",
                repository().join("tests/requirements-python.txt").display()
            ),
        ]
    );
    let again = machine.start("test", &[], &[]).succeeded();
    assert_eq!(again.calls_of("python3"), [""; 0]);
    fs::write(venv.join("requirements.txt"), "numpy==1").unwrap();
    let other = machine.start("test", &[], &[]).succeeded();
    assert_eq!(other.calls_of("python3").len(), 2);
}

#[test]
fn without_the_package_index_the_tests_of_python_are_skipped_aloud() {
    let machine = Machine::complete_debian();
    fs::write(machine.path("no-network"), "").unwrap();
    let outcome = machine.start("test", &[], &[]).succeeded();
    assert_eq!(outcome.calls_of("cargo test").len(), 1);
    outcome.says("the tests of docs/python.md will be skipped");
}
