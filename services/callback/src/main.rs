//! The stock callback service.

/// Many small allocations by several threads at a time are what a message costs here.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    countersign_boot::launch("callback", countersign_callback::run)
}
