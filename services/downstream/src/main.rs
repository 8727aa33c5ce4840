//! The stock downstream: delivers by HTTP.

/// Many small allocations by several threads at a time are what a message costs here.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    countersign_boot::launch("downstream", countersign_downstream::run)
}
