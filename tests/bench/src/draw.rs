//! The committed figures as pictures and tables.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::{Report, plot, table};

/// The committed figures, from the top of the repository.
const FIGURES: &str = "tests/bench/figures.json";
const PLOTS: &str = "tests/bench/plots";
/// Where tables are shown: those of these that have the markers.
const DOCUMENTS: [&str; 2] = ["tests/bench/figures.md", "README.md"];

/// Every file that is made of the committed figures, with what it has to hold.
///
/// # Errors
/// When a file cannot be read, or a picture not be drawn.
pub fn drawn() -> anyhow::Result<Vec<(PathBuf, String)>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |file: &str| std::fs::read_to_string(top.join(file)).with_context(|| format!("reading {file}"));
    let report: Report = serde_json::from_str(&read(FIGURES)?).with_context(|| format!("reading {FIGURES}"))?;
    let pictures = plot::pictures(&report)?;
    let mut files: Vec<_> = pictures.into_iter().map(|(name, svg)| (top.join(PLOTS).join(name), svg)).collect();
    for document in DOCUMENTS {
        if let Some(text) = table::placed(&read(document)?, &table::table(&report)) {
            files.push((top.join(document), text));
        }
    }
    Ok(files)
}

/// Writes them.
pub(crate) fn write() -> anyhow::Result<()> {
    for (file, text) in drawn()? {
        std::fs::create_dir_all(file.parent().context("a file without a directory")?)?;
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        println!("written: {}", file.display());
    }
    Ok(())
}
