//! The stock downstream: delivers by HTTP.

fn main() -> std::process::ExitCode {
    countersign_boot::launch("downstream", countersign_downstream::run)
}
