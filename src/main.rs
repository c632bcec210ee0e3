//! `amberblob`: see [`amberblob::cli`].

fn main() -> std::process::ExitCode {
    amberblob::cli::main()
}
