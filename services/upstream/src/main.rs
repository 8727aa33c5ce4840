//! The stock upstream.

fn main() -> std::process::ExitCode {
    countersign_boot::launch("upstream", countersign_upstream::run)
}
