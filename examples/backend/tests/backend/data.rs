#[allow(dead_code)] // Its `main`.
#[path = "../../src/bin/data.rs"]
mod program;

use super::{client, on_each_server_with};
use program::{Account, Transfer, app};
use reqwest::{Client, StatusCode};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Each server has a database of its own, with two accounts.
fn on_an_app(test: impl AsyncFn(SocketAddr, Client)) {
    let folder = tempfile::tempdir().unwrap();
    let databases = AtomicUsize::new(0);
    let file = || folder.path().join(format!("{}.sqlite", databases.fetch_add(1, SeqCst)));
    let serve = || {
        let file = file();
        ringmill::serve_with("127.0.0.1:0", async move |_| app(&file).await)
    };
    on_each_server_with(
        serve,
        async || app(&file()).await.unwrap(),
        async |address| {
            let client = client().build().unwrap();
            for (name, balance) in [("ann", 1000), ("bob", 0)] {
                let account = Account { name: name.to_owned(), balance };
                let reply = client.post(format!("http://{address}/accounts")).json(&account).send().await;
                assert_eq!(reply.unwrap().status(), StatusCode::CREATED);
            }
            test(address, client).await;
        },
    );
}

async fn balances(address: SocketAddr, client: &Client) -> Vec<(String, i64)> {
    let reply = client.get(format!("http://{address}/accounts")).send().await.unwrap();
    let accounts: Vec<Account> = reply.json().await.unwrap();
    accounts.into_iter().map(|account| (account.name, account.balance)).collect()
}

async fn transfer(address: SocketAddr, client: &Client, from: &str, to: &str, amount: i64) -> StatusCode {
    let transfer = Transfer { from: from.to_owned(), to: to.to_owned(), amount };
    client.post(format!("http://{address}/transfers")).json(&transfer).send().await.unwrap().status()
}

#[test]
fn rows_are_kept_and_refused() {
    on_an_app(async |address, client| {
        assert_eq!(balances(address, &client).await, [("ann".to_owned(), 1000), ("bob".to_owned(), 0)]);
        let open = async |name: &str, balance| {
            let account = Account { name: name.to_owned(), balance };
            let request = client.post(format!("http://{address}/accounts")).json(&account);
            request.send().await.unwrap().status()
        };
        assert_eq!(open("ann", 1).await, StatusCode::CONFLICT);
        assert_eq!(open("carl", -1).await, StatusCode::CONFLICT);
        let strange = "'); DROP TABLE account; --";
        assert_eq!(open(strange, 5).await, StatusCode::CREATED);
        assert_eq!(balances(address, &client).await.len(), 3);
        let one = client.get(format!("http://{address}/accounts/nobody")).send().await.unwrap();
        assert_eq!(one.status(), StatusCode::NOT_FOUND);
        let one = client.get(format!("http://{address}/accounts/ann")).send().await.unwrap();
        assert_eq!(one.json::<Account>().await.unwrap().balance, 1000);
    });
}

#[test]
fn a_transfer_is_whole_or_not_at_all() {
    on_an_app(async |address, client| {
        assert_eq!(transfer(address, &client, "ann", "bob", 300).await, StatusCode::NO_CONTENT);
        for (from, to, amount, expected) in [
            ("ann", "bob", 701, StatusCode::CONFLICT),
            ("nobody", "bob", 1, StatusCode::NOT_FOUND),
            ("ann", "nobody", 1, StatusCode::NOT_FOUND),
            ("ann", "bob", -5, StatusCode::UNPROCESSABLE_ENTITY),
        ] {
            assert_eq!(transfer(address, &client, from, to, amount).await, expected, "{from} {to} {amount}");
        }
        assert_eq!(balances(address, &client).await, [("ann".to_owned(), 700), ("bob".to_owned(), 300)]);
    });
}

#[test]
fn many_at_once_lose_nothing() {
    on_an_app(async |address, _| {
        let clients = (0..8).map(|n| async move {
            // A connection each, spread over the workers.
            let client = client().build().unwrap();
            let (from, to) = if n % 2 == 0 { ("ann", "bob") } else { ("bob", "ann") };
            for _ in 0..10 {
                let status = transfer(address, &client, from, to, 1 + n / 2).await;
                assert!([StatusCode::NO_CONTENT, StatusCode::CONFLICT].contains(&status), "{status}");
            }
        });
        futures_util::future::join_all(clients).await;
        let left = balances(address, &client().build().unwrap()).await;
        assert_eq!(left[0].1 + left[1].1, 1000, "{left:?}");
    });
}
