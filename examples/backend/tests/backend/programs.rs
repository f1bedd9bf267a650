//! The programs as they are run by hand.

use super::cache::Redis;
use super::{block_on, client};
use reqwest::StatusCode;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().expect("it has not ended by itself");
        self.0.wait().expect("it ends");
    }
}

fn check(program: &str, path: &str, expected: StatusCode) {
    check_with(program, path, expected, "");
}

fn check_with(program: &str, path: &str, expected: StatusCode, redis_url: &str) {
    let folder = tempfile::tempdir().unwrap();
    // Uploads and databases.
    let mut command = Command::new(program);
    let command = command.arg("127.0.0.1:0").env("TMPDIR", folder.path());
    let command = command.env("REDIS_URL", redis_url).stdout(Stdio::piped());
    let mut program = Program(command.spawn().unwrap());
    let lines = BufReader::new(program.0.stdout.take().unwrap());
    let mut lines = lines.lines().map(Result::unwrap);
    let told = lines.find(|line| line.starts_with("http://")).expect("it says where it listens");
    let url = format!("{}{path}", told.split(' ').next().unwrap());
    block_on(async {
        assert_eq!(client().build().unwrap().get(url).send().await.unwrap().status(), expected);
    });
}

#[test]
fn each_starts_says_where_and_answers() {
    check(env!("CARGO_BIN_EXE_auth"), "/me", StatusCode::UNAUTHORIZED);
    check_with(env!("CARGO_BIN_EXE_cache"), "/square/3", StatusCode::OK, &Redis::start().url(0));
    check(env!("CARGO_BIN_EXE_data"), "/accounts", StatusCode::OK);
    check(env!("CARGO_BIN_EXE_graphql"), "/graphql", StatusCode::METHOD_NOT_ALLOWED);
    // Over HTTP/1.1 it takes gRPC-Web and nothing else.
    check(env!("CARGO_BIN_EXE_grpc"), "/numbers.Numbers/None", StatusCode::BAD_REQUEST);
    check(env!("CARGO_BIN_EXE_limits"), "/open", StatusCode::OK);
    check(env!("CARGO_BIN_EXE_live"), "/files/none", StatusCode::NOT_FOUND);
    check(env!("CARGO_BIN_EXE_middleware"), "/page", StatusCode::OK);
    check(env!("CARGO_BIN_EXE_rest"), "/orders", StatusCode::OK);
}
