fn main() {
    println!("cargo:rustc-link-arg=-lsonic");
}
