//! The proxy's binary: everything is in the library.

/// Connections and requests allocate little, but often and of few sizes: there a
/// thread's own free lists cost about half of what the C library's do.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    nuncio::cli::main()
}
