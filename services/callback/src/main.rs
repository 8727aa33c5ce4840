//! The stock callback service.

fn main() -> std::process::ExitCode {
    countersign_boot::launch("callback", countersign_callback::run)
}
