//! What is shown of the figures is made of the committed ones.

#[test]
fn pictures_and_tables_are_those_of_the_committed_figures() -> anyhow::Result<()> {
    let drawn = countersign_bench::drawn()?;
    assert!(drawn.len() > 1, "{drawn:?}");
    for (file, wanted) in drawn {
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(found == wanted, "{} is not of tests/bench/figures.json; run tests/bench/run --draw", file.display());
    }
    Ok(())
}
