//! The Python environments of the shipped examples: made once and whole, or refused with what to do.

use std::fs::{read_dir, remove_file, write};
use std::process::Command;

use countersign_launcher::python_in;
use tempfile::TempDir;

#[tokio::test]
async fn whoever_comes_first_makes_it_and_makes_it_whole() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let (requirements, environments) = (dir.path().join("requirements.txt"), dir.path().join("python"));
    write(&requirements, "# nothing\n")?;
    let ask = || python_in(&environments, &requirements);
    let (one, other, third) = tokio::try_join!(ask(), ask(), ask())?;
    assert!(one == other && other == third, "{one:?}, {other:?}, {third:?}");
    assert!(Command::new(&one).args(["-c", "import sys; sys.exit(sys.prefix == sys.base_prefix)"]).status()?.success());
    assert_eq!(read_dir(&environments)?.count(), 2, "one environment and its lock");

    // As if it had been killed on the way.
    remove_file(one.ancestors().nth(2).unwrap_or(&one).join("complete"))?;
    remove_file(&one)?;
    assert_eq!(ask().await?, one);
    assert!(one.exists(), "half an environment was taken for a whole one");
    Ok(())
}

#[tokio::test]
async fn a_package_that_cannot_be_had_is_named_with_what_to_do() -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let requirements = dir.path().join("requirements.txt");
    write(&requirements, "./a-wheel-that-is-not-there.whl\n")?;
    let refused = python_in(&dir.path().join("python"), &requirements).await;
    let words = format!("{:#}", refused.err().unwrap_or_else(|| anyhow::anyhow!("it was had")));
    for word in ["cannot be had", "PIP_FIND_LINKS", "a-wheel-that-is-not-there"] {
        assert!(words.contains(word), "{word} is missing in: {words}");
    }
    Ok(())
}
