//! `emr-bootstrap.sh` and `deploy/emr` on machines that a folder plays: package managers, `aws`, `ssh` and
//! `mpirun` are stand-ins that write down how they were called.

use crate::support::repository;
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What the scripts and the stand-ins need of a real system.
const REAL_TOOLS: [&str; 27] = [
    "bash",
    "basename",
    "cat",
    "chmod",
    "cp",
    "date",
    "dirname",
    "grep",
    "head",
    "install",
    "ln",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "realpath",
    "rm",
    "sed",
    "sh",
    "sha256sum",
    "sort",
    "tee",
    "touch",
    "tr",
    "uniq",
    "wc",
    "env",
];

const AMAZON_LINUX_2: &str = "ID=\"amzn\"\nVERSION_ID=\"2\"\n";
const AMAZON_LINUX_2023: &str = "ID=\"amzn\"\nVERSION_ID=\"2023\"\n";
const PREFIX: &str = "s3://bucket/p8";

/// The package manager: fails while `failing-installs` holds a line, and takes one line off.
const INSTALLER: &str = r#"
if [ -s "$root/failing-installs" ]; then
    sed -i 1d "$root/failing-installs"
    echo 'another process holds the lock' >&2
    exit 1
fi
mkdir -p "$root/usr/lib64/openmpi/bin"
cp "$root/mpirun" "$root/usr/lib64/openmpi/bin/mpirun"
: >"$root/installed"
"#;

/// Copies between the folder `s3` and the machine. A line of `failing-fetches` is the name of a file whose
/// next fetch fails, or comes out damaged where the line begins with `damaged `.
const AWS: &str = r#"
case "$1 $2" in
's3 cp')
    for last; do from="${to-}" to="$last"; done
    case "$from" in s3://*) from="$root/s3/${from#s3://}" ;; esac
    case "$to" in s3://*) to="$root/s3/${to#s3://}" && mkdir -p "$(dirname "$to")" ;; esac
    name="$(basename "$from")"
    if grep -qx "$name" "$root/failing-fetches"; then
        sed -i "/^$name\$/d" "$root/failing-fetches"
        echo 'Could not connect to the endpoint URL' >&2
        exit 1
    fi
    case " $* " in *' --recursive '*) cp -R "$from/." "$to/" && exit ;; esac
    cp "$from" "$to" || exit
    if grep -qx "damaged $name" "$root/failing-fetches"; then
        sed -i "/^damaged $name\$/d" "$root/failing-fetches"
        echo damage >>"$to"
    fi ;;
'emr list-instances') cat "$root/instances" ;;
'emr describe-security-configuration') exit 254 ;;
'emr create-cluster') echo j-TEST ;;
'emr add-steps')
    for last; do :; done
    printf '%s' "$last" >"$root/steps"
    echo s-TEST ;;
'emr describe-step') cat "$root/state" ;;
'emr describe-cluster') echo s3://bucket/logs/ ;;
esac
"#;

/// A machine played by a folder.
struct Node {
    root: tempfile::TempDir,
}

impl Node {
    /// A new node of a cluster, whose bucket holds what `create-cluster.sh` puts there.
    fn new(os_release: &str) -> Self {
        let node = Node {
            root: tempfile::tempdir().unwrap(),
        };
        for folder in ["bin", "etc", "home", "s3/bucket/p8/ssh", "mnt/var/lib/info"] {
            fs::create_dir_all(node.path(folder)).unwrap();
        }
        for tool in REAL_TOOLS {
            symlink(real_tool(tool), node.path("bin").join(tool)).unwrap();
        }
        node.write("etc/os-release", os_release);
        node.write("failing-fetches", "");
        node.program("bin/sudo", "exec \"$@\"");
        for manager in ["dnf", "yum"] {
            node.program(&format!("bin/{manager}"), INSTALLER);
        }
        node.program("bin/aws", AWS);
        node.program("bin/rpm", r#"[ -e "$root/installed" ]"#);
        node.program(
            "bin/ip",
            "case \"$*\" in
            *'route show default') echo 'default via 172.31.0.1 dev ens5 proto dhcp src 172.31.7.9 metric 512' ;;
            *'dev ens5'*) echo '172.31.0.0/20 proto kernel scope link src 172.31.7.9 metric 512' ;;
            esac",
        );
        node.program(
            "bin/ldd",
            "echo 'libmpi.so.40 => /usr/lib64/openmpi/lib/libmpi.so.40 (0x1)'",
        );
        for silent in ["amazon-linux-extras", "ldconfig", "sysctl", "sleep", "ssh"] {
            node.program(&format!("bin/{silent}"), "");
        }
        node.program("bin/uname", "echo ip-172-31-7-9.ec2.internal");
        node.program("bin/hostname", "echo ip-172-31-7-9.ec2.internal");
        node.program(
            "bin/ssh-keygen",
            "for last; do :; done\necho secret >\"$last\"\necho public >\"$last.pub\"",
        );
        node.program("mpirun", "");
        node.program("s3/bucket/p8/p8", "echo p8 0.1.0");
        node.write("s3/bucket/p8/weights.safetensors", "weights");
        for (name, from) in [
            ("run-step.sh", "deploy/emr/run-step.sh"),
            ("openmpi-mca-params.conf", "deploy/openmpi-mca-params.conf"),
            ("sysctl.conf", "deploy/sysctl.conf"),
        ] {
            fs::copy(
                repository().join(from),
                node.path("s3/bucket/p8").join(name),
            )
            .unwrap();
        }
        node.write("s3/bucket/p8/ssh/id_p8", "the private key\n");
        node.write("s3/bucket/p8/ssh/id_p8.pub", "ssh-ed25519 AAAA p8\n");
        node.list_digests();
        node
    }

    fn list_digests(&self) {
        let names = [
            "openmpi-mca-params.conf",
            "p8",
            "run-step.sh",
            "sysctl.conf",
            "weights.safetensors",
        ];
        let lines = names.map(|name| {
            let bytes = fs::read(self.path("s3/bucket/p8").join(name)).unwrap();
            format!("{}  {name}\n", sha256(&bytes))
        });
        self.write("s3/bucket/p8/SHA256SUMS", &lines.concat());
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    fn write(&self, relative: &str, text: &str) {
        fs::write(self.path(relative), text).unwrap();
    }

    fn read(&self, relative: &str) -> String {
        fs::read_to_string(self.path(relative)).unwrap_or_else(|e| panic!("{relative}: {e}"))
    }

    /// A program that writes its name and arguments to `calls` and then does `body`.
    fn program(&self, relative: &str, body: &str) {
        let path = self.path(relative);
        let name = path.file_name().unwrap().to_str().unwrap();
        let root = self.root.path().display();
        let text =
            format!("#!/bin/sh\nroot='{root}'\necho \"{name} $*\" >>\"$root/calls\"\n{body}\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run<'a>(&self, script: &str, arguments: impl IntoIterator<Item = &'a str>) -> Outcome {
        self.write("calls", "");
        let output = Command::new(repository().join(script))
            .args(arguments)
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.root.path())
            .env("P8_SYSTEM_ROOT", self.root.path())
            .env("P8_POLL_SECONDS", "0")
            .output()
            .unwrap();
        Outcome::new(&output, self.read("calls"))
    }

    fn bootstrap(&self) -> Outcome {
        let digest = sha256(&fs::read(self.path("s3/bucket/p8/SHA256SUMS")).unwrap());
        self.run("emr-bootstrap.sh", [PREFIX, digest.as_str()])
    }
}

/// What a script said and did.
struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
    calls: Vec<String>,
}

impl Outcome {
    fn new(output: &Output, calls: String) -> Self {
        Outcome {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            calls: calls.lines().map(str::to_string).collect(),
        }
    }

    fn calls_of(&self, start: &str) -> Vec<&str> {
        let calls = self.calls.iter().map(String::as_str);
        calls.filter(|call| call.starts_with(start)).collect()
    }

    #[track_caller]
    fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    #[track_caller]
    fn failed(self, words: &str) -> Self {
        assert_ne!(self.code, 0, "{}", self.stderr);
        assert!(
            self.stderr.contains(words),
            "{words:?} is not in {}",
            self.stderr
        );
        self
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn real_tool(name: &str) -> PathBuf {
    ["/usr/bin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no {name} on this machine"))
}

/// Files of a machine that a bootstrap writes.
const WRITTEN: [&str; 9] = [
    "opt/p8/p8",
    "opt/p8/weights.safetensors",
    "opt/p8/run-step.sh",
    "home/.bashrc",
    "home/.openmpi/mca-params.conf",
    "home/.ssh/id_p8",
    "home/.ssh/authorized_keys",
    "home/.ssh/config",
    "etc/sysctl.d/90-p8.conf",
];

#[test]
fn each_amazon_linux_installs_with_its_own_manager_and_a_second_run_installs_nothing() {
    let both = "install -y openmpi openblas libopenblas.so.0()(64bit)";
    for (os_release, manager, extras) in [
        (
            AMAZON_LINUX_2,
            "yum",
            &["amazon-linux-extras install -y epel"][..],
        ),
        (AMAZON_LINUX_2023, "dnf", &[][..]),
    ] {
        let node = Node::new(os_release);
        let first = node.bootstrap().succeeded();
        assert_eq!(first.calls_of("amazon-linux-extras"), extras);
        assert_eq!(first.calls_of(manager), [format!("{manager} {both}")]);
        assert_eq!(first.calls_of("yum").len() + first.calls_of("dnf").len(), 1);
        assert_eq!(first.calls_of("p8 "), ["p8 --version"]);
        let written = WRITTEN.map(|file| node.read(file));

        let second = node.bootstrap().succeeded();
        assert_eq!(second.calls_of(manager), [""; 0]);
        assert_eq!(second.calls_of("amazon-linux-extras"), [""; 0]);
        let fetched = second.calls_of("aws s3 cp");
        assert!(
            fetched
                .iter()
                .all(|call| call.contains("/ssh/") || call.contains("SHA256SUMS")),
            "{fetched:?}"
        );
        assert_eq!(WRITTEN.map(|file| node.read(file)), written);
    }
}

#[test]
fn a_node_gets_open_mpi_keys_and_settings() {
    let node = Node::new(AMAZON_LINUX_2023);
    node.write("home/.bashrc", "alias ll='ls -l'\n");
    node.bootstrap().succeeded();
    assert_eq!(
        node.read("home/.bashrc"),
        "alias ll='ls -l'\nexport PATH=/usr/lib64/openmpi/bin:$PATH\n"
    );
    assert_eq!(
        node.read("etc/ld.so.conf.d/p8.conf"),
        "/usr/lib64/openmpi/lib\n"
    );
    let settings = node.read("home/.openmpi/mca-params.conf");
    for line in [
        "oob_tcp_keepalive_time = 5",
        "oob_tcp_if_include = 172.31.0.0/20",
        "btl_tcp_if_include = 172.31.0.0/20",
    ] {
        assert!(
            settings.lines().any(|l| l == line),
            "{line:?} is not in {settings}"
        );
    }
    assert!(
        node.read("etc/sysctl.d/90-p8.conf")
            .contains("\nnet.ipv4.tcp_retries2 = 5\n")
    );
    assert_eq!(
        node.read("home/.ssh/authorized_keys"),
        "ssh-ed25519 AAAA p8\n"
    );
    let mode = |file| fs::metadata(node.path(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("home/.ssh"), 0o700);
    assert_eq!(mode("home/.ssh/id_p8"), 0o600);
    assert_eq!(mode("opt/p8/p8"), 0o755);
    assert_eq!(mode("opt/p8/weights.safetensors"), 0o644);
}

#[test]
fn held_locks_and_failed_or_damaged_fetches_are_tried_again() {
    for os_release in [AMAZON_LINUX_2, AMAZON_LINUX_2023] {
        let node = Node::new(os_release);
        node.write("failing-installs", "\n\n");
        node.write(
            "failing-fetches",
            "SHA256SUMS\np8\ndamaged weights.safetensors\nid_p8\n",
        );
        let outcome = node.bootstrap().succeeded();
        assert!(
            outcome.stderr.contains("failed, attempt 2 of 30: sudo"),
            "{}",
            outcome.stderr
        );
        assert!(
            outcome.stderr.contains("has another SHA-256"),
            "{}",
            outcome.stderr
        );
        assert_eq!(node.read("opt/p8/weights.safetensors"), "weights");
        assert_eq!(node.read("home/.ssh/id_p8"), "the private key\n");
    }
}

#[test]
fn a_file_of_another_version_is_replaced() {
    let node = Node::new(AMAZON_LINUX_2023);
    node.bootstrap().succeeded();
    node.write("s3/bucket/p8/weights.safetensors", "better weights");
    node.list_digests();
    node.bootstrap().succeeded();
    assert_eq!(node.read("opt/p8/weights.safetensors"), "better weights");
}

#[test]
fn what_cannot_work_fails_aloud() {
    let node = Node::new(AMAZON_LINUX_2023);
    node.write("failing-installs", &"\n".repeat(30));
    let outcome = node
        .bootstrap()
        .failed("FAILED: cannot install: openmpi openblas");
    assert_eq!(outcome.calls_of("dnf").len(), 30);

    let node = Node::new("ID=debian\nVERSION_ID=\"12\"\n");
    node.bootstrap()
        .failed("neither Amazon Linux 2 nor 2023: debian 12");

    let node = Node::new(AMAZON_LINUX_2023);
    let wrong = "0".repeat(64);
    node.run("emr-bootstrap.sh", [PREFIX, wrong.as_str()])
        .failed(&format!(
            "cannot fetch {PREFIX}/SHA256SUMS with the SHA-256 {wrong}"
        ));
    assert!(!node.path("opt/p8/p8").exists());

    let node = Node::new(AMAZON_LINUX_2023);
    node.write("s3/bucket/p8/weights.safetensors", "changed by somebody");
    node.bootstrap()
        .failed("cannot fetch s3://bucket/p8/weights.safetensors");

    let node = Node::new(AMAZON_LINUX_2023);
    node.program("bin/ldd", "echo 'libopenblas.so.0 => not found'");
    node.bootstrap()
        .failed("lacks libraries: libopenblas.so.0 => not found");

    let node = Node::new(AMAZON_LINUX_2023);
    node.program(
        "bin/ldd",
        "echo \"p8: version 'GLIBC_2.36' not found\" >&2; exit 1",
    );
    node.bootstrap().failed("GLIBC_2.36");

    let node = Node::new(AMAZON_LINUX_2023);
    node.run("emr-bootstrap.sh", [PREFIX])
        .failed("usage: emr-bootstrap.sh");
}

#[test]
fn the_step_runs_one_rank_on_every_node_with_the_primary_first() {
    let node = Node::new(AMAZON_LINUX_2023);
    node.bootstrap().succeeded();
    node.write(
        "mnt/var/lib/info/job-flow.json",
        "{\n  \"jobFlowId\" : \"j-TEST\",\n  \"x\": 1\n}\n",
    );
    node.write(
        "instances",
        "ip-172-31-7-5.ec2.internal\nip-172-31-7-9.ec2.internal\nip-172-31-7-6.ec2.internal\n",
    );
    // The hostfile is mpirun's second argument.
    node.program(
        "usr/lib64/openmpi/bin/mpirun",
        "cp \"$2\" \"$root/hostfile\"",
    );
    let outcome = node
        .run(
            "deploy/emr/run-step.sh",
            ["--input", "s3://bucket/a b", "-k", "7"],
        )
        .succeeded();
    assert_eq!(
        node.read("hostfile"),
        "ip-172-31-7-9.ec2.internal slots=1\nip-172-31-7-5.ec2.internal slots=1\nip-172-31-7-6.ec2.internal slots=1\n"
    );
    assert_eq!(
        outcome
            .calls_of("aws emr list-instances --cluster-id j-TEST --instance-states RUNNING")
            .len(),
        1
    );
    assert_eq!(outcome.calls_of("ssh ").len(), 3);
    let home = node.path("opt/p8");
    let end = format!(
        "--map-by ppr:1:node --bind-to none -x OPENBLAS_CORETYPE=Haswell {0}/p8 --weights {0}/weights.safetensors \
         --input s3://bucket/a b -k 7",
        home.display()
    );
    let mpirun = outcome.calls_of("mpirun --hostfile");
    assert!(mpirun.len() == 1 && mpirun[0].ends_with(&end), "{mpirun:?}");
}

#[test]
fn a_node_that_cannot_be_logged_in_to_ends_the_step_with_its_name() {
    let node = Node::new(AMAZON_LINUX_2023);
    node.bootstrap().succeeded();
    node.write(
        "mnt/var/lib/info/job-flow.json",
        "{\"jobFlowId\": \"j-TEST\"}",
    );
    node.write("instances", "ip-172-31-7-5.ec2.internal\n");
    node.program("bin/ssh", "case \"$*\" in *7-5*) exit 255 ;; esac");
    let outcome = node.run("deploy/emr/run-step.sh", []);
    let outcome = outcome.failed("cannot log in to ip-172-31-7-5.ec2.internal");
    assert_eq!(outcome.calls_of("mpirun"), [""; 0]);
}

#[test]
fn a_cluster_is_created_from_files_that_its_nodes_can_verify() {
    let node = Node::new(AMAZON_LINUX_2023);
    node.program("p8-binary", "echo p8 0.1.0");
    node.write("resnet.pth", "weights of resnet");
    let (binary, weights) = (node.path("p8-binary"), node.path("resnet.pth"));
    let outcome = node
        .run(
            "deploy/emr/create-cluster.sh",
            [
                "--binary",
                binary.to_str().unwrap(),
                "--weights",
                weights.to_str().unwrap(),
                "--s3",
                "s3://bucket/new/",
                "--subnet",
                "subnet-1",
                "--key-name",
                "mine",
            ],
        )
        .succeeded();
    assert_eq!(outcome.stdout, "j-TEST\n");
    let sums = fs::read(node.path("s3/bucket/new/SHA256SUMS")).unwrap();
    let created = outcome.calls_of("aws emr create-cluster");
    for words in [
        "--release-label emr-7.",
        "SubnetId=subnet-1,InstanceProfile=EMR_EC2_DefaultRole,KeyName=mine",
        "--security-configuration p8-imdsv2",
        "--auto-termination-policy IdleTimeout=1800",
        &format!(
            "Path=s3://bucket/new/emr-bootstrap.sh,Name=p8,Args=[s3://bucket/new,{}]",
            sha256(&sums)
        ),
    ] {
        assert!(
            created.len() == 1 && created[0].contains(words),
            "{words:?} is not in {created:?}"
        );
    }
    assert_eq!(
        outcome
            .calls_of("aws emr create-security-configuration --name p8-imdsv2")
            .len(),
        1
    );

    // What it uploaded is what a node accepts.
    let digest = sha256(&sums);
    node.run("emr-bootstrap.sh", ["s3://bucket/new", digest.as_str()])
        .succeeded();
    assert_eq!(node.read("opt/p8/weights.pth"), "weights of resnet");
    assert_eq!(node.read("home/.ssh/id_p8"), "secret\n");

    node.run("deploy/emr/create-cluster.sh", ["--binary", "no/such"])
        .failed("--binary is not a file");
}

#[test]
fn the_cluster_has_one_primary_and_two_core_nodes_and_imds_v2_only() {
    let read = |name: &str| -> serde_json::Value {
        let bytes = fs::read(repository().join("deploy/emr").join(name)).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let groups = read("instance-groups.json");
    for (group, kind, count) in [(&groups[0], "MASTER", 1), (&groups[1], "CORE", 2)] {
        assert_eq!(group["InstanceGroupType"], kind);
        assert_eq!(group["InstanceCount"], count);
        assert_eq!(group["InstanceType"], "m5.xlarge");
    }
    let metadata = &read("security-configuration.json")["InstanceMetadataServiceConfiguration"];
    assert_eq!(metadata["MinimumInstanceMetadataServiceVersion"], 2);
}

#[test]
fn a_submitted_step_hands_on_its_options_as_they_are_and_fails_with_p8() {
    let node = Node::new(AMAZON_LINUX_2023);
    let options = ["--input", "s3://bucket/a \"b\" c\\d, e", "--label", "none"];
    for (state, ends_well) in [("COMPLETED", true), ("FAILED", false), ("CANCELLED", false)] {
        node.write("state", &format!("{state}\n"));
        let arguments = ["j-TEST"].into_iter().chain(options);
        let outcome = node.run("deploy/emr/submit.sh", arguments);
        assert_eq!(outcome.code == 0, ends_well, "{}", outcome.stderr);
        assert!(
            outcome
                .stderr
                .contains("s3://bucket/logs/j-TEST/steps/s-TEST/stderr.gz")
        );
        let steps: serde_json::Value = serde_json::from_str(&node.read("steps")).unwrap();
        let sent: Vec<&str> = steps[0]["Args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| a.as_str().unwrap())
            .collect();
        assert_eq!(
            sent,
            [&["bash", "/opt/p8/run-step.sh"][..], &options].concat()
        );
    }
    node.run("deploy/emr/submit.sh", ["--input", "x"])
        .failed("usage: submit.sh CLUSTER_ID");
}

#[test]
fn terminating_waits_for_the_end() {
    let node = Node::new(AMAZON_LINUX_2023);
    let outcome = node.run("deploy/emr/terminate.sh", ["j-TEST"]).succeeded();
    assert_eq!(
        outcome.calls_of("aws emr"),
        [
            "aws emr terminate-clusters --cluster-ids j-TEST",
            "aws emr wait cluster-terminated --cluster-id j-TEST"
        ]
    );
    node.run("deploy/emr/terminate.sh", [])
        .failed("usage: terminate.sh CLUSTER_ID");
}
