//! espeak-ng's static library uses libsonic, which its crate forgets to name.

fn main() {
    println!("cargo:rustc-link-arg=-lsonic");
    println!("cargo:rerun-if-changed=build.rs");
}
