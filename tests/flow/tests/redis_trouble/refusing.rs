//! It answers, and refuses.

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::rig::{ACCOUNT, Expected, Rig, rig};

/// Has Redis refuse by these commands, and accept again by those.
async fn refused(
    test: &str,
    broken: &[&str],
    mended: &[&str],
    words: &'static [&'static str],
    reason: &'static [&'static str],
) -> anyhow::Result<()> {
    let all = async |rig: &Rig, lines: &[&str]| {
        for line in lines {
            rig.tell(line).await?;
        }
        Ok(())
    };
    let expected = Expected { words, reasons: reason, forgets: false };
    let rig = rig(test).await?;
    rig.through(expected, async |rig| all(rig, broken).await, async |rig| all(rig, mended).await).await
}

/// Claims fail; what is in hand keeps its lease, and its mark is set as soon as there is memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_memory() -> anyhow::Result<()> {
    refused("redis_oom", &["CONFIG SET maxmemory 1"], &["CONFIG SET maxmemory 0"], &["OOM"], &["oom"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demoted_to_a_replica() -> anyhow::Result<()> {
    refused("redis_replica", &["REPLICAOF 127.0.0.1 1"], &["REPLICAOF NO ONE"], &["redis"], &["readonly"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_is_another() -> anyhow::Result<()> {
    let (broken, kill) = (format!("ACL SETUSER {ACCOUNT} resetpass >other"), format!("CLIENT KILL USER {ACCOUNT}"));
    let mended = format!("ACL SETUSER {ACCOUNT} >hush");
    refused("redis_password", &[&broken, &kill], &[&mended], &["redis is not available"], &["auth", "dropped"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_are_not_permitted() -> anyhow::Result<()> {
    let (broken, mended) = (format!("ACL SETUSER {ACCOUNT} -evalsha"), format!("ACL SETUSER {ACCOUNT} +evalsha"));
    refused("redis_no_scripts", &[&broken], &[&mended], &["no permissions"], &["permission"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_of_the_scripts_is_not_permitted() -> anyhow::Result<()> {
    let (broken, mended) = (format!("ACL SETUSER {ACCOUNT} -set"), format!("ACL SETUSER {ACCOUNT} +set"));
    refused("redis_no_set", &[&broken], &[&mended], &["redis is not available"], &["permission"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_clients() -> anyhow::Result<()> {
    let rig = rig("redis_clients").await?;
    // The administrator's own connection stays, and is all that may.
    let url = rig.redis.lock().await.url();
    let address = url.trim_start_matches("redis://").to_owned();
    let session = tokio::sync::Mutex::new(BufReader::new(TcpStream::connect(address).await?));
    let ask = async |line: &str| {
        let mut session = session.lock().await;
        session.write_all(format!("{line}\r\n").as_bytes()).await?;
        let mut answer = String::new();
        session.read_line(&mut answer).await?;
        answer.starts_with(['+', ':']).then_some(()).with_context(|| format!("{line}: {answer}"))
    };
    let expected =
        Expected { words: &["redis is not available"], reasons: &["clients", "dropped", "unreachable"], forgets: false };
    let kill = format!("CLIENT KILL USER {ACCOUNT}");
    let break_it = async |_: &Rig| {
        ask("CONFIG SET maxclients 1").await?;
        ask(&kill).await
    };
    rig.through(expected, break_it, async |_| ask("CONFIG SET maxclients 1000").await).await
}
