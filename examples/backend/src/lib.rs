//! What the programs share: where they listen, and that they say so.

/// The first argument, such as `[::]:80`.
pub fn address() -> String {
    std::env::args().nth(1).unwrap_or("127.0.0.1:3000".to_owned())
}

/// Says where the program can be reached, once it can.
pub fn tell(running: &ringmill::Running) {
    println!("http://{} with {}", running.addresses()[0], running.driver());
}
