//! Starting, watching and stopping the proxy under test.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Admin, DEADLINE, Home, with};

/// The environment variable that puts another proxy under test.
const BINARY: &str = "NUNCIO_TEST_BINARY";

/// A proxy executable.
#[derive(Clone, Debug)]
pub struct Program(PathBuf);

impl Program {
    /// The one under test.
    pub fn under_test() -> Self {
        Self(std::env::var_os(BINARY).map_or_else(
            || PathBuf::from(env!("CARGO_BIN_EXE_nuncio")),
            PathBuf::from,
        ))
    }

    /// The real Envoy, when `NUNCIO_ORACLE_ENVOY` names it.
    pub fn oracle() -> Option<Self> {
        std::env::var_os("NUNCIO_ORACLE_ENVOY").map(|path| Self(path.into()))
    }

    /// A command line of it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs it to its end with these arguments.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the proxy binary runs")
    }

    /// A proxy that runs with this bootstrap and answers `/ready`.
    ///
    /// An admin address on a free port is laid over the bootstrap; standard
    /// output and error go to files in `home`.
    pub async fn start(&self, home: &Home, bootstrap: &Value, args: &[&str]) -> Proxy {
        let mut proxy = self.launch(home, bootstrap, args);
        proxy.ready().await;
        proxy
    }

    /// As [`Program::start`], without waiting.
    pub fn launch(&self, home: &Home, bootstrap: &Value, args: &[&str]) -> Proxy {
        let admin = json!({ "admin": { "address": super::config::address(0) } });
        home.mv_value("bootstrap.yaml", &with(bootstrap.clone(), admin));
        let address_path = home.path("admin-address.txt");
        // What an earlier run in the same directory left must not be believed.
        std::fs::remove_file(&address_path).ok();
        let mut arguments: Vec<OsString> = vec![
            "-c".into(),
            home.path("bootstrap.yaml").into(),
            "--admin-address-path".into(),
            address_path.clone().into(),
            "--disable-hot-restart".into(),
        ];
        if !args.contains(&"--concurrency") {
            arguments.extend(["--concurrency".into(), "2".into()]);
        }
        arguments.extend(args.iter().map(OsString::from));
        let child = Command::new(&self.0)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(home.path("stdout.txt")).expect("stdout file"))
            .stderr(File::create(home.path("stderr.txt")).expect("stderr file"))
            .spawn()
            .expect("the proxy binary starts");
        Proxy {
            child,
            address_path,
            stderr_path: home.path("stderr.txt"),
            admin: None,
        }
    }
}

/// A running proxy, killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    address_path: PathBuf,
    stderr_path: PathBuf,
    admin: Option<Admin>,
}

impl Proxy {
    /// Starts the program under test.
    pub async fn start(home: &Home, bootstrap: &Value, args: &[&str]) -> Self {
        Program::under_test().start(home, bootstrap, args).await
    }

    /// Waits until the proxy answers `/ready` with 200.
    pub async fn ready(&mut self) {
        let admin = self.admin_address().await;
        let started = Instant::now();
        loop {
            self.must_run();
            // It may not accept yet.
            if admin
                .get("/ready")
                .await
                .is_ok_and(|reply| reply.status == 200)
            {
                return;
            }
            assert!(
                started.elapsed() < DEADLINE,
                "not ready within {DEADLINE:?}:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn must_run(&mut self) {
        if let Some(status) = self.ended() {
            panic!("the proxy ended with {status}:\n{}", self.log());
        }
    }

    /// Waits for the admin server's address, and returns its client.
    pub async fn admin_address(&mut self) -> Admin {
        let started = Instant::now();
        loop {
            self.must_run();
            if let Some(admin) = read_address(&self.address_path) {
                self.admin = Some(admin.clone());
                return admin;
            }
            assert!(
                started.elapsed() < DEADLINE,
                "no admin address within {DEADLINE:?}:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The client of its admin server.
    pub fn admin(&self) -> &Admin {
        self.admin.as_ref().expect("started and ready")
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.stderr_path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has used of the processor so far, all threads together.
    pub fn cpu(&self) -> std::time::Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("it runs");
        let used = tasks.map(|task| {
            let path = task.expect("a thread").path().join("schedstat");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let nanoseconds = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
            nanoseconds.unwrap_or_default()
        });
        std::time::Duration::from_nanos(used.sum())
    }

    /// Sends a signal by its short name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success(), "kill -{name}: {status}");
    }

    /// The exit status when it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait")
    }

    /// Waits for it to end by itself.
    pub async fn end(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(
                started.elapsed() < DEADLINE,
                "it did not end within {DEADLINE:?}:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("---- the proxy's last log lines");
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

fn read_address(path: &Path) -> Option<Admin> {
    let text = std::fs::read_to_string(path).ok()?;
    text.trim().parse().ok().map(Admin::new)
}
