//! One file, one process.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use countersign_delivery::Timestamp;
use countersign_delivery::ports::messages::{Inserted, Insertion, Messages};
use countersign_store::{Database, Error};
use countersign_testkit::build::{incarnation, message_id, upstream};
use tempfile::TempDir;

use crate::support::numbered;

/// Where the second process finds the file.
const FILE: &str = "COUNTERSIGN_TEST_SQLITE_FILE";
const READY: &str = "stored";

#[tokio::test]
async fn a_second_process_is_refused_and_a_killed_one_leaves_what_it_committed() {
    let dir = TempDir::new().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store.db").display());
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sqlite::another_process_that_never_ends", "--ignored", "--nocapture"])
        .env(FILE, &url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(other.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains(READY)), "the other process stores its message");

    let refused = Database::connect(url.as_str()).await;
    assert!(matches!(refused, Err(Error::InUse(_))), "{refused:?}");
    other.kill().unwrap();
    other.wait().unwrap();

    let database = Database::connect(url.as_str()).await.unwrap();
    assert_eq!(database.messages().get(&[message_id(1)]).await.unwrap().len(), 1);
}

/// Not a test: the other process of the test above.
#[tokio::test]
#[ignore = "run by another test, in a process of its own"]
async fn another_process_that_never_ends() {
    let url = std::env::var(FILE).unwrap();
    let database = Database::connect(url.as_str()).await.unwrap();
    database.migrate_messages().await.unwrap();
    let messages = database.messages();
    messages.open(&upstream("shop"), incarnation(1), Timestamp::default()).await.unwrap();
    let answer = messages.insert(incarnation(1), &[numbered(1)]).await.unwrap();
    assert_eq!(answer, Insertion::Committed(vec![Inserted::Stored]));
    println!("{READY}");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn the_file_is_free_when_the_last_user_is_gone() {
    let dir = TempDir::new().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store.db").display());
    let database = Database::connect(url.as_str()).await.unwrap();
    let messages = database.messages();
    drop(database);
    assert!(matches!(Database::connect(url.as_str()).await, Err(Error::InUse(_))));
    drop(messages);
    Database::connect(url.as_str()).await.unwrap();
}

#[tokio::test]
async fn a_database_in_memory_is_refused() {
    for url in ["sqlite::memory:", "sqlite://?mode=memory", "mysql://127.0.0.1/x"] {
        assert!(matches!(Database::connect(url).await, Err(Error::Url(_))), "{url}");
    }
}
