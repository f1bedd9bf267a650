//! Programs under test as child processes, and what /proc says about them.

use super::{PATIENCE, eventually};
use ringmill::DriverChoice;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The `ringmill` binary, without settings of whoever runs the tests.
pub fn ringmill() -> Command {
    clean(Command::new(ringmill_path()))
}

#[cfg(feature = "cli")]
pub fn ringmill_path() -> &'static str {
    env!("CARGO_BIN_EXE_ringmill")
}

/// The same; a shell sets the limit of open descriptors first.
pub fn ringmill_with_descriptors(descriptors: usize) -> Command {
    ringmill_after(&format!("ulimit -n {descriptors}"))
}

/// The same; a shell does something for its own process first.
fn ringmill_after(first: &str) -> Command {
    let mut command = clean(Command::new("sh"));
    command.args(["-c", &format!("{first}; exec \"$0\" \"$@\""), ringmill_path()]);
    command
}

/// What becomes of a system call that a program must not make.
#[derive(Clone, Copy)]
pub enum Forbidden {
    /// It fails with EPERM, as under the profile of a container.
    Refused,
    /// It ends the program with SIGSYS: the test says that it is never made.
    Deadly,
}

/// Puts a seccomp filter (seccomp(2)) before what the command runs.
pub fn forbid(command: &mut Command, calls: &[(libc::c_long, Forbidden)]) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // The number of the call comes first in struct seccomp_data.
    let mut filter = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for (call, forbidden) in calls {
        let skip_unless = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *call as u32);
        filter.push(libc::sock_filter { jf: 1, ..skip_unless });
        filter.push(statement(
            libc::BPF_RET | libc::BPF_K,
            match forbidden {
                Forbidden::Refused => libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
                Forbidden::Deadly => libc::SECCOMP_RET_KILL_PROCESS,
            },
        ));
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: it takes no memory.
        let gave_up_privileges = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
        // SAFETY: the kernel only reads the program, which lives in this closure, during the call.
        let filters =
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } == 0;
        if gave_up_privileges && filters { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it makes two system calls and takes no memory.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, install) };
}

/// Library tests run without the binary; `serve.rs` is left out then.
#[cfg(not(feature = "cli"))]
pub fn ringmill_path() -> &'static str {
    unreachable!("the feature `cli` builds it")
}

/// An example program, as `cargo test` builds it beside the tests.
#[track_caller]
pub fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let path = profile.join("examples").join(name);
    assert!(path.exists(), "{path:?} is not there: `cargo test` builds it, `cargo test --test` does not");
    clean(Command::new(path))
}

pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RINGMILL_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Adds what nearly every server of the tests has; the given arguments may say otherwise.
fn serve(mut command: Command, driver: DriverChoice, arguments: &[&str]) -> Command {
    command.arg("serve");
    for (option, value) in [("--listen", "127.0.0.1:0"), ("--workers", "1"), ("--pin", "off")] {
        if !arguments.contains(&option) {
            command.args([option, value]);
        }
    }
    command.args(["--driver", &driver.to_string()]).args(arguments);
    command
}

/// A running child process whose output is read as it comes. Killed when dropped.
pub struct Program {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Runs a command, and waits until it has written a line that contains `ready`.
    #[track_caller]
    pub fn start(mut command: Command, ready: &str) -> Program {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run");
        let lines = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), &lines);
        collect(child.stderr.take().unwrap(), &lines);
        let mut program = Program { child, lines };
        program.expect_line(ready);
        program
    }

    /// The same, with a standard output of the test's own.
    #[track_caller]
    pub fn start_with_stdout(mut command: Command, stdout: impl Into<Stdio>, ready: &str) -> Program {
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("it can be run");
        let lines = Arc::new(Mutex::new(Vec::new()));
        collect(child.stderr.take().unwrap(), &lines);
        let mut program = Program { child, lines };
        program.expect_line(ready);
        program
    }

    /// `ringmill serve` as below, with a standard error of the test's own; nobody waits for a line of it.
    #[track_caller]
    pub fn serve_with_stderr(driver: DriverChoice, arguments: &[&str], stderr: impl Into<Stdio>) -> Program {
        let mut command = serve(ringmill(), driver, arguments);
        let child = command.stdout(Stdio::null()).stderr(stderr).spawn().expect("it can be run");
        Program { child, lines: Arc::default() }
    }

    /// Waits until it has written a line that contains `text`.
    #[track_caller]
    pub fn expect_line(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.line_with(text).is_none() {
            let ended = self.child.try_wait().unwrap();
            let late = Instant::now() > deadline;
            assert!(ended.is_none() && !late, "no {text:?}; exit {ended:?}; it said: {:#?}", self.lines());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// `ringmill serve` on free ports with one worker, and further arguments.
    #[track_caller]
    pub fn serve(driver: DriverChoice, arguments: &[&str]) -> Program {
        let program = Program::serve_at_once(driver, arguments);
        eventually(true, || program.catches(libc::SIGINT));
        program
    }

    /// The same, as soon as the start line is there: signals may still kill it.
    #[track_caller]
    pub fn serve_at_once(driver: DriverChoice, arguments: &[&str]) -> Program {
        Program::start(serve(ringmill(), driver, arguments), "worker(s) on CPU")
    }

    /// The same; a shell sets the limit of open descriptors first.
    #[track_caller]
    pub fn serve_with_descriptors(driver: DriverChoice, descriptors: usize, arguments: &[&str]) -> Program {
        Program::serve_from_a_shell(driver, &format!("ulimit -n {descriptors}"), arguments)
    }

    /// The same; a shell does something for its own process first.
    #[track_caller]
    pub fn serve_from_a_shell(driver: DriverChoice, first: &str, arguments: &[&str]) -> Program {
        let program = Program::start(serve(ringmill_after(first), driver, arguments), "worker(s) on CPU");
        eventually(true, || program.catches(libc::SIGINT));
        program
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far, on both streams.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub fn line_with(&self, text: &str) -> Option<String> {
        self.lines().into_iter().find(|line| line.contains(text))
    }

    /// The first address that follows `mark` in its output.
    #[track_caller]
    pub fn address_after(&self, mark: &str) -> SocketAddr {
        let line = self.line_with(mark).unwrap_or_else(|| panic!("no {mark:?} in {:#?}", self.lines()));
        let text = line.split(mark).nth(1).and_then(|rest| rest.split_whitespace().next());
        text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
    }

    /// Where HTTP is.
    #[track_caller]
    pub fn http(&self) -> SocketAddr {
        self.address_after("listening on ")
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: takes no memory; the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(PATIENCE)
    }

    #[track_caller]
    fn wait_within(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end; it said: {:#?}", self.lines());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn descriptors(&self) -> usize {
        descriptors(&self.pid().to_string())
    }

    /// Whether it has a handler for a signal (SigCgt in proc_pid_status(5)).
    pub fn catches(&self, signal: i32) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask");
        u64::from_str_radix(mask.trim(), 16).expect("hexadecimal") >> (signal - 1) & 1 == 1
    }

    /// CPU time so far (fields 14 and 15 of /proc/PID/stat, proc(5), in ticks of 10 ms).
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let after_name = stat.rsplit(')').next().unwrap();
        let ticks: u64 =
            after_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the program said: {:#?}", self.lines());
        }
    }
}

fn collect(stream: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    });
}

/// Runs a command to its end: exit code, standard output, standard error.
#[track_caller]
pub fn run(command: Command) -> (Option<i32>, String, String) {
    run_within(PATIENCE, command)
}

/// The same for what may take longer.
#[track_caller]
pub fn run_within(patience: Duration, mut command: Command) -> (Option<i32>, String, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run");
    // Read meanwhile: with a full pipe it would not end.
    let (stdout, stderr) = (read(child.stdout.take().unwrap()), read(child.stderr.take().unwrap()));
    let status = Program { child, lines: Arc::default() }.wait_within(patience);
    (status.code(), stdout.join().expect("text"), stderr.join().expect("text"))
}

fn read(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("text");
        text
    })
}

/// Open descriptors of a process; of this one for "self".
pub fn descriptors(process: &str) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).expect("it runs").count()
}

/// Anonymous memory of this process that is resident, in bytes (proc_pid_status(5)).
pub fn rss_anon_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux 4.5");
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

const ALONE: &str = "RINGMILL_TEST_ALONE";

/// Runs a test in a process of its own, for what other tests of this process would disturb: counts of
/// descriptors and memory, limits. The process is this test program, asked for this one test.
pub fn alone<F: Fn()>(test: F) {
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let mut command = clean(Command::new(std::env::current_exe().unwrap()));
    command.args([test_name::<F>(), "--exact", "--nocapture"]).env(ALONE, "1");
    let mut program = Program::start(command, "running 1 test");
    eventually_ended(&mut program);
    let status = program.wait();
    // It may say that it was not tested with io_uring: hand that on.
    for line in program.lines().iter().filter(|line| line.contains("tested with poll only")) {
        super::say_past_capture(line);
    }
    assert!(status.success(), "alone, it failed");
}

fn eventually_ended(program: &mut Program) {
    let deadline = Instant::now() + 18 * PATIENCE;
    while !program.has_ended() {
        assert!(Instant::now() < deadline, "alone, it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Its last lines are still being read.
    eventually(true, || program.line_with("test result:").is_some());
}

/// The name of the test function that a closure was written in, with its modules; of the inner one, where it wraps another.
pub fn test_name<F>() -> &'static str {
    let closure = std::any::type_name::<F>().rsplit('<').next().unwrap_or_default();
    let (_, path) = closure.split_once("::").expect("a closure's name has a crate and a function");
    path.split("::{{closure}}").next().unwrap_or_default()
}
