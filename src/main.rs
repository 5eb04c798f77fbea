//! The proxy's binary: everything is in the library.

fn main() -> std::process::ExitCode {
    nuncio::cli::main()
}
