//! Lets `cargo build` link the extension module on macOS too, where maturin is not there to say how.

fn main() {
    pyo3_build_config::add_extension_module_link_args();
}
