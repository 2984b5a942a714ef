//! The command `fathom`.

fn main() -> std::process::ExitCode {
    fathom::main()
}
