//! A COMMIT that outlives its caller, and one whose answer is lost; on PostgreSQL, where both can be made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_launcher::wait_until;
use countersign_store::Database;
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, Statement, TransactionTrait as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::ground::PATIENCE;
use super::{Failed, Ground, place};
use crate::config::UpstreamSection;
use crate::send::Outcome;
use crate::stage::section;
use crate::transaction::TransactionError;

/// Makes every COMMIT of a business row wait for a lock that the test holds.
async fn hold_commits(session: &DatabaseConnection) -> sea_orm::DatabaseTransaction {
    let trigger = "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON business DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION hold()";
    session.execute_unprepared(trigger).await.unwrap();
    let held = session.begin().await.unwrap();
    held.execute_unprepared("SELECT pg_advisory_xact_lock(7)").await.unwrap();
    held
}

/// Waits until a COMMIT waits for that lock; returns its session.
async fn held_commit(session: &DatabaseConnection) -> i32 {
    let query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() AND query LIKE 'COMMIT%'";
    let mut pid = None;
    let waiting = wait_until("a COMMIT to wait", PATIENCE, async || {
        let row = session.query_one_raw(Statement::from_string(DbBackend::Postgres, query)).await.unwrap();
        pid = row.map(|row| row.try_get("", "pid").unwrap());
        pid.is_some()
    });
    waiting.await.unwrap();
    pid.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_goes_on_without_its_caller_and_publishes() {
    for caller_stays in [true, false] {
        let ground = Ground::postgres(&format!("outlives_{caller_stays}")).await;
        let process = ground.start_with(UpstreamSection { heartbeat_ms: 50, commit_wait_ms: 300, ..section() });
        let (holder, watch) = (ground.session().await, ground.session().await);
        let held = hold_commits(&holder).await;
        let upstream = process.upstream.clone();
        let calling =
            tokio::spawn(async move { upstream.transaction(|tx| Box::pin(async move { place(tx, "a").await })).await.map(drop) });
        held_commit(&watch).await;
        if caller_stays {
            let unknown = calling.await.unwrap().unwrap_err();
            assert!(matches!(&unknown, TransactionError::Unknown(why) if why.contains("commit_wait_ms")), "{unknown}");
        } else {
            calling.abort();
        }
        assert_eq!(ground.delivered(), Vec::<String>::new());
        held.rollback().await.unwrap();
        wait_until("the message", PATIENCE, async || ground.delivered().len() == 1).await.unwrap();
        assert_eq!(ground.business().await, ["a"]);
        ground.watermark_reaches(2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_in_its_commit_is_found_to_be_rolled_back() {
    let ground = Ground::postgres("ended").await;
    let process = ground.start();
    let (holder, watch) = (ground.session().await, ground.session().await);
    let held = hold_commits(&holder).await;
    let upstream = process.upstream.clone();
    let calling =
        tokio::spawn(async move { upstream.transaction(|tx| Box::pin(async move { place(tx, "a").await })).await.map(drop) });
    let pid = held_commit(&watch).await;
    watch.execute_unprepared(&format!("SELECT pg_terminate_backend({pid})")).await.unwrap();
    let refused = calling.await.unwrap().unwrap_err();
    assert!(matches!(&refused, TransactionError::RolledBack(refusal) if refusal.is_transient()), "{refused}");
    held.rollback().await.unwrap();
    ground.watermark_reaches(2).await;
    assert_eq!((ground.business().await.len(), ground.delivered().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_found_to_be_there() {
    let ground = Ground::postgres("lost").await;
    let relay = Relay::before(&ground.url).await;
    let database = Database::connect(relay.url.as_str()).await.unwrap();
    let process = ground.start_on(UpstreamSection { heartbeat_ms: 50, ..section() }, database);
    let lose = relay.lose_next_commit.clone();
    let work = process.upstream.transaction(|tx| {
        Box::pin(async move {
            let id = place(tx, "a").await?;
            lose.store(true, Ordering::Relaxed);
            Ok::<_, Failed>(id)
        })
    });
    let (id, outcomes) = work.await.unwrap().confirmed().await;
    assert!(!relay.lose_next_commit.load(Ordering::Relaxed), "the answer was lost");
    assert!(matches!(&outcomes[..], [Outcome::Confirmed(_)]), "{outcomes:?}");
    assert_eq!(ground.delivered(), [id.to_string()]);
    assert_eq!(ground.business().await, ["a"]);
}

/// A relay before the server that ends the connection instead of passing the answer to a COMMIT on.
struct Relay {
    url: String,
    lose_next_commit: Arc<AtomicBool>,
}

impl Relay {
    async fn before(url: &str) -> Self {
        let (head, database) = url.rsplit_once('/').unwrap();
        let server = head.rsplit_once('@').unwrap().1.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relayed = url.replace(&format!("{server}/{database}"), &format!("{}/{database}", listener.local_addr().unwrap()));
        let lose_next_commit = Arc::new(AtomicBool::new(false));
        let lose = lose_next_commit.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server.clone(), lose.clone()));
            }
        });
        Self { url: relayed, lose_next_commit }
    }
}

async fn relay(mut client: TcpStream, server: String, lose: Arc<AtomicBool>) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut from_client, mut from_server) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(read @ 1..) = read else { return };
                server.write_all(&from_client[..read]).await.unwrap();
                let commits = from_client[..read].windows(6).any(|word| word == b"COMMIT");
                if commits && lose.swap(false, Ordering::Relaxed) {
                    // It answers, so it is committed; and nobody hears it.
                    assert!(server.read(&mut from_server).await.unwrap() > 0);
                    return;
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(read @ 1..) = read else { return };
                if client.write_all(&from_server[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}
